"""The vocabulary: records that cross rooms, and the contracts everything is written against."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

PyTree: TypeAlias = Any  # nested dict, tuple or NamedTuple whose leaves are all tensors
Params: TypeAlias = dict[str, Tensor]  # parameters by the name they have in their module
Stats: TypeAlias = dict[str, Tensor]  # 0-d, detached, by name
Obs: TypeAlias = tuple[Tensor, ...]  # one tensor per observation of the spec, each [*B, *shape]
Key: TypeAlias = Tensor  # [2] int64 holding two 32-bit words; see `optinfra.random`


class ActionSpec(NamedTuple):
    """What an agent can do: continuous dimensions and discrete branches side by side."""

    continuous: int = 0  # A, number of continuous dimensions
    branches: tuple[int, ...] = ()  # n_k, number of choices of each of the K discrete branches

    @property
    def choices(self) -> int:
        """N, the number of choices of all branches together: the width of an action mask."""
        return sum(self.branches)


class Spec(NamedTuple):
    """What an agent sees and does. Static: it lives in closures, never in a state.

    What an observation is shows in its shape: `[D]` is a vector, `[C, H, W]` an image,
    `[N, D]` a set of at most N entities, of which any number may be absent; an absent one is
    all zeros.
    """

    obs: tuple[tuple[int, ...], ...]  # shape of each observation
    action: ActionSpec
    goals: tuple[int, ...] = ()  # which observations are goals: they say what is asked for
    bytes: tuple[int, ...] = ()  # which are images of uint8 in [0, 255], the others are floats


class Action(NamedTuple):
    """One action per row. A part the spec does not have is a tensor of width 0."""

    continuous: Tensor  # [*B, A] float
    discrete: Tensor  # [*B, K] int64, the choice taken in each branch


class Act(NamedTuple):
    """What acting yields."""

    action: Action  # as drawn: what log-probabilities refer to and buffers hold
    executed: Action  # as the environment takes it: continuous part in [−1, 1]
    log_prob: Tensor  # [*B, A + K], one per continuous dimension and discrete branch
    memory: PyTree  # recurrent memory after this step; () without one


class Transitions(NamedTuple):
    """Steps that were taken, as reward signals and imitation see them."""

    obs: Obs  # [*N, D_i] each
    next_obs: Obs  # [*N, D_i] each, what really followed
    action: Action  # [*N, A] in [−1, 1] and [*N, K], as executed
    rewards: Tensor  # [*N], the environment's
    terminated: Tensor  # [*N] bool, the episode came to its own end with this step
    truncated: Tensor  # [*N] bool, the episode was cut after this step
    mask: Tensor  # [*N] bool, True where the row counts
    action_mask: PyTree = ()  # [*N, choices] bool, True where allowed; () where everything is
    group_rewards: PyTree = ()  # [*N], the group's; () without groups
    groupmate_rewards: PyTree = ()  # [*N, G], those of the mates, 0 for absent ones; () likewise


class Mates(NamedTuple):
    """The other agents of a group, in any order. What an absent one holds does not matter."""

    obs: Obs  # [*B, G, D_i] each
    action: Action  # [*B, G, A] and [*B, G, K], as drawn
    present: Tensor  # [*B, G] bool


class Memories(NamedTuple):
    """What an agent remembers: the policy's part and the values' part apart."""

    actor: PyTree  # [*B, M]; () without memory
    critic: PyTree  # [*B, M]; () without memory


class Trajectory(NamedTuple):
    """What an agent saw, step after step; episodes may end within."""

    obs: Obs  # [T, *B, D_i] each
    memory: PyTree  # [*B, M], the critic's before the first step; () without one
    terminated: PyTree  # [T, *B] bool, the episode ended with this step; () where none does
    truncated: PyTree  # [T, *B] bool, the episode was cut after this step; () where none is
    mask: PyTree  # [T, *B] bool, False where a row is padding; () where every row counts
    # What follows is for learners of groups.
    mates: PyTree = ()  # Mates [T, *B, G, …]
    next_mates: PyTree = ()  # Mates that `next_obs` comes with; what they do is not read


class TrajectoryValues(NamedTuple):
    """What a critic says of a trajectory, stream by stream."""

    values: dict[str, Tensor]  # [T, *B] each, in the unit of the stream's rewards
    bootstrap: dict[str, Tensor]  # [*B] each, value of what follows the last step
    memories: PyTree  # [n, *B, M], the critic's at the start of each sequence; () without one
    final_memory: PyTree  # [*B, M], to pass to the next trajectory; () without one
    baselines: PyTree = ()  # [T, *B] by stream, for learners of groups


class RolloutValues(NamedTuple):
    """What a critic says of a rollout in which episodes may end, stream by stream."""

    values: dict[str, Tensor]  # [T, *B] each, of the observations acted on
    next_values: dict[str, Tensor]  # [T, *B] each, of those that really followed
    memories: PyTree  # [T, *B, M], the critic's before each step; () without one
    final_memory: PyTree  # [*B, M], to pass to the next rollout; () without one
    baselines: PyTree = ()  # [T, *B] by stream, for learners of groups


class Transform(NamedTuple):
    """A gradient transformation: two pure functions and nothing else."""

    init: Callable[[Params], PyTree]  # (params) -> state
    update: Callable[[PyTree, Params, Params], tuple[PyTree, Params]]  # (state, grads, params)


class Schedule(NamedTuple):
    """A number that changes with time. What may be swept is its state, never its closure."""

    init: Callable[[], PyTree]  # () -> state, 0-d tensors
    value: Callable[[PyTree, Tensor], Tensor]  # (state, step []) -> value []


class Signal(NamedTuple):
    """A reward signal: three pure functions and nothing else."""

    init: Callable[[Key], PyTree]  # (key) -> state, with `strength` and `gamma` as 0-d tensors
    evaluate: Callable[[PyTree, PyTree], Tensor]  # (state, batch) -> reward [*B], unscaled
    update: Callable[[PyTree, PyTree], tuple[PyTree, Stats]]  # (state, batch)


class Imitation(NamedTuple):
    """Imitation of demonstrations: two pure functions and nothing else.

    `params` is a learner's; the demonstrations belong to the function, or come as a batch.
    """

    init: Callable[[Key, PyTree], PyTree]  # (key, params) -> state
    update: Callable[..., tuple[PyTree, PyTree, Stats]]  # (state, params, steps, …)


class Learner(NamedTuple):
    """A learning rule: pure functions and nothing else.

    The state has the fields `params` (all that acting and valuing read), `steps` (`[]` int64,
    environment steps so far, advanced by whoever runs the learner) and `key`.
    """

    init: Callable[[Key], PyTree]  # (key) -> state
    memories: Callable[..., Memories]  # (rows, device=None) -> zeros [*rows, M]
    act: Callable[[PyTree, Obs, PyTree, Key], Act]  # (params, obs, memory, key), drawn
    greedy: Callable[[PyTree, Obs, PyTree], Act]  # (params, obs, memory), the likeliest action
    # (params, obs, memory) -> (what is said of the next action, memory after this step)
    policy: Callable[[PyTree, Obs, PyTree], tuple[Any, PyTree]]
    distribution: Any  # what that means: a `Distribution`, pure functions as well
    observe: Callable[[PyTree, Obs, Tensor], PyTree]  # (state, obs, mask) -> state, moments moved
    # (params, obs, memory, reset) -> [*B] by stream; memory and reset only where it remembers
    values: Callable[..., dict[str, Tensor]]
    # (params, obs, action as executed, action_mask, memory, reset) -> [*B, A + K]
    executed_log_prob: Callable[..., Tensor]
    update: Callable[[PyTree, PyTree], tuple[PyTree, Stats]]  # (state, batch), one gradient step
    trajectory_values: Callable[..., TrajectoryValues]  # (params, batch, next_obs, done)
    # (params, trajectory, next_obs [T, *B, D_i] each)
    rollout_values: Callable[[PyTree, Trajectory, Obs], RolloutValues]
