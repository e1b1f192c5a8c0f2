"""PettingZoo's parallel environments as groups of agents, seen as arrays with nothing hidden."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from optinfra.envs.gymnasium import Episode
from optinfra.envs.observations import Encoder
from optinfra.envs.spaces import USUAL, Reading, decoder, encoder
from optinfra.types import Action, Spec

NUMBERED = re.compile(r"(.*)_\d+", re.DOTALL)  # an agent's name: its group's and its number


class GroupVectorStep(NamedTuple):
    """What one action of each agent of B groups leads to; every array is the caller's own.

    `next_obs` and `obs` may be the same arrays, and are where no environment came to its end.
    An agent that leaves with this step is shown what it sees last, an absent one zeros.
    """

    obs: tuple[np.ndarray, ...]  # [B, A, *shape] float32 or uint8 each, to act on next
    present: np.ndarray  # [B, A] bool, who acts next
    next_obs: tuple[np.ndarray, ...]  # the same, what really followed
    next_present: np.ndarray  # [B, A] bool, who was really there, as who is cut with its group
    reward: np.ndarray  # [B, A] float32, 0 for who was absent before the step
    group_reward: np.ndarray  # [B] float32, 0: PettingZoo pays each agent its own
    terminated: np.ndarray  # [B] bool, the group came to its own end
    truncated: np.ndarray  # [B] bool, it was cut; both may hold at once
    episodes: tuple[Episode, ...]  # of the groups that ended, `env` is the row


Seen = dict[tuple[int, int, int], Any]  # observations by place: environment, group and slot


class Told(NamedTuple):
    """What E environments of G groups of A agents say of each agent after a step."""

    obs: tuple[np.ndarray, ...]  # [E, G, A, *shape] each, 0 for who was and is absent
    present: np.ndarray  # [E, G, A] bool, who goes on
    reward: np.ndarray  # [E, G, A] float32
    terminated: np.ndarray  # [E, G, A] bool
    truncated: np.ndarray  # [E, G, A] bool


class PettingZooGroups:
    """Copies of a PettingZoo parallel environment, whose agents act in groups.

    Each of the G groups of each of E copies is one of B = E · G rows, copy by copy; A is the size
    of the largest group. An agent has one slot for ever, in the order of `possible_agents`. The
    episode of a group ends when its last agent leaves: by termination where all who left with
    that step were terminated, else by truncation. Then its row is empty until agents appear in
    it, at the latest when no agent of any group is left and the copy is reset.
    """

    _present: np.ndarray  # [E, G, A] bool, who acts next
    _gone: np.ndarray  # [E, G, A] bool, whose end in this episode was told: nobody comes back
    _totals: np.ndarray  # [B] sum of the rewards of each group's episode so far
    _lengths: np.ndarray  # [B] int64, its steps

    def __init__(
        self,
        envs: Sequence[Any],
        *,
        group_of: Callable[[Any], str] | None = None,
        reading: Reading = USUAL,
    ) -> None:
        """Take over environments.

        Args:
          envs: E ≥ 1 copies of one `pettingzoo.ParallelEnv`, each an object of its own. It names
            its `possible_agents`; all see the same, bounds of Boxes apart, in a space of those
            of `encoder`, and act in one and the same space, of those of `decoder`.
          group_of: an agent's name to that of its group; by default what stands before the last
            `_<number>`, the whole name where none does.
          reading: how observations are read; see `Reading`.

        Raises:
          ModuleNotFoundError: PettingZoo is not installed.
          TypeError: one of `envs` is no parallel environment.
          ValueError: there is none, they differ in their agents, agents differ in what they see
            or do, a space is not supported, or `reading` does not fit it.
        """
        require_parallel(envs)
        agents = same_agents(envs)
        self._envs = list(envs)
        self._slots, self.groups = slots(agents, group_of or group_by_name)
        self.num_groups: int = len(self._envs) * len(self.groups)
        self.agents: int = 1 + max(slot for _, slot in self._slots.values())
        self._axes = (len(self._envs), len(self.groups), self.agents)
        seen = [(agent, env.observation_space(agent)) for env in envs for agent in agents]
        self._encoder = same_encoder(seen, reading)
        space = same_space([(a, env.action_space(a)) for env in envs for a in agents])
        self._decoder = decoder(space, self.num_groups * self.agents)
        self.spec: Spec = self._encoder.spec(self._decoder.spec)
        self._forget()

    def reset(self, seed: int | None = None) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Begin an episode in every environment.

        Args:
          seed: copy i is seeded with `seed` + i; without one they draw on.

        Returns:
          `[B, A, *shape]` each, the observations to act on, and `[B, A]` bool, who acts.

        Raises:
          ValueError: an observation is missing, not of its space or not finite, or nobody is
            there; the message names the environment and the agent.
        """
        self._forget()
        first, seen = self._blank(), Seen()
        for i in range(len(self._envs)):
            seen |= self._begin(i, first, None if seed is None else seed + i)
        self._show(first.obs, seen)
        self._present = first.present.copy()
        return self._all_rows(first.obs), self._rows(first.present)

    def step(self, action: Action) -> GroupVectorStep:
        """Act once with every agent that is present.

        Args:
          action: as executed, continuous `[B, A, ·]` in [−1, 1], discrete `[B, A, K]`; arrays or
            tensors on the CPU. What absent agents hold does not matter.

        Returns:
          A `GroupVectorStep`.

        Raises:
          ValueError: an action has a wrong shape, or an environment says of an agent nothing or
            something that is not finite; the message names both.
        """
        chosen = self._decode(action)
        told, seen = self._blank(), Seen()
        for i in range(len(self._envs)):
            seen |= self._act(i, chosen[i], told)
        self._show(told.obs, seen)
        self._require_finite("reward", told.reward)
        left = self._present & ~told.present
        ended = np.logical_and(self._present.any(-1), ~told.present.any(-1))
        terminated = ended & (told.terminated | ~left).all(-1)
        # An agent may vanish without a word why: then its group did not come to its own end.
        truncated = ended & ((told.truncated & left).any(-1) | ~terminated)
        cut = left & ~told.terminated & ended[..., None]
        episodes = self._account(told.reward, self._rows(ended))
        first = self._restart(told)
        self._present = first.present.copy()
        return GroupVectorStep(
            obs=self._all_rows(first.obs),
            present=self._rows(first.present),
            next_obs=self._all_rows(told.obs),
            next_present=self._rows(told.present | cut),
            reward=self._rows(told.reward),
            group_reward=np.zeros(self.num_groups, np.float32),
            terminated=self._rows(terminated),
            truncated=self._rows(truncated),
            episodes=episodes,
        )

    def close(self) -> None:
        """Release what the environments hold."""
        for env in self._envs:
            env.close()

    def _forget(self) -> None:
        """Let no episode be under way."""
        self._present, self._gone = (np.zeros(self._axes, bool) for _ in range(2))
        self._totals = np.zeros(self.num_groups)
        self._lengths = np.zeros(self.num_groups, dtype=np.int64)

    def _blank(self) -> Told:
        """Make arrays in which nobody is there."""
        flags = [np.zeros(self._axes, bool) for _ in range(3)]
        obs = self._encoder.blank(self._axes)
        return Told(obs, flags[0], np.zeros(self._axes, np.float32), *flags[1:])

    def _rows(self, x: np.ndarray) -> np.ndarray:
        """Lay environments and groups end to end, `[E, G, …]` as `[B, …]`."""
        return x.reshape(self.num_groups, *x.shape[2:])

    def _all_rows(self, obs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return tuple(map(self._rows, obs))

    def _decode(self, action: Action) -> np.ndarray:
        """Turn actions into those of the space, `[E, G, A, …]`."""
        spec, parts = self.spec.action, []
        for name, width in (("continuous", spec.continuous), ("discrete", len(spec.branches))):
            x = np.asarray(getattr(action, name))
            shape = [self.num_groups, self.agents, width]
            if list(x.shape) != shape:
                raise ValueError(f"`action.{name}` must have shape {shape}, got {list(x.shape)}.")
            parts.append(x.reshape(self._present.size, width))
        chosen = self._decoder.decode(Action._make(parts))
        return chosen.reshape(*self._axes, *chosen.shape[1:])

    def _begin(self, i: int, first: Told, seed: int | None = None) -> Seen:
        """Begin an episode in environment i, and put into `first` who is there, blind as yet."""
        obs, _ = self._envs[i].reset(seed=seed)
        agents = self._known(i)
        if not agents:
            raise ValueError(f"`agents` of environment {i} must not be empty after its reset.")
        self._gone[i] = first.present[i] = False
        for x in first.obs:
            x[i] = 0
        seen = Seen()
        for agent in agents:
            place = i, *self._slots[agent]
            first.present[place] = True
            seen[place] = word("obs", obs, agent, i)
        return seen

    def _act(self, i: int, chosen: np.ndarray, told: Told) -> Seen:
        """Step environment i, and put what it says into `told`, but for what is seen."""
        present = self._present[i]
        acting = [agent for agent, slot in self._slots.items() if present[slot]]
        said = self._envs[i].step({agent: chosen[self._slots[agent]] for agent in acting})
        obs, reward, terminated, truncated, _ = said
        for agent in acting:
            place = i, *self._slots[agent]
            told.reward[place] = word("reward", reward, agent, i)
            told.terminated[place] = word("terminated", terminated, agent, i)
            told.truncated[place] = word("truncated", truncated, agent, i)
        # Some environments keep an agent that is done in their list.
        self._gone[i] |= told.terminated[i] | told.truncated[i]
        agents, seen = self._known(i), Seen()
        for agent in dict.fromkeys([*acting, *agents]):
            place = i, *self._slots[agent]
            told.present[place] = agent in agents and not self._gone[place]
            if agent in acting or told.present[place]:
                seen[place] = word("obs", obs, agent, i)
        return seen

    def _show(self, obs: tuple[np.ndarray, ...], seen: Seen) -> None:
        """Encode what is seen at some places, and put it there."""
        places = list(seen)
        encoded = self._encoder.encode_rows(
            list(seen.values()), lambda row: self._whose(*places[row])
        )
        where = tuple(np.array(places).T)
        for x, rows in zip(obs, encoded):
            x[where] = rows

    def _restart(self, told: Told) -> Told:
        """Begin anew where everybody has left, and tell what to act on next."""
        over = ~told.present.any((1, 2))
        if not over.any():
            return told
        copies = tuple(x.copy() for x in told.obs)
        first, seen = told._replace(obs=copies, present=told.present.copy()), Seen()
        for i in np.flatnonzero(over):
            seen |= self._begin(int(i), first)
        self._show(first.obs, seen)
        return first

    def _known(self, i: int) -> list[Any]:
        """The agents that environment i lists, all of which have a slot."""
        agents = list(self._envs[i].agents)
        for agent in agents:
            if agent not in self._slots:
                raise ValueError(
                    f"`agents` of environment {i} must be among its possible agents, got {agent!r}."
                )
        return agents

    def _whose(self, i: int, group: int, slot: int) -> str:
        """Name the agent at a place."""
        agent = next(a for a, place in self._slots.items() if place == (group, slot))
        return f"agent {agent!r} in environment {i}"

    def _require_finite(self, name: str, x: np.ndarray) -> None:
        """Raise ValueError unless `x` `[E, G, A]` is finite; the message names the agent."""
        finite = np.isfinite(x)
        if not finite.all():
            at = tuple(np.argwhere(~finite)[0].tolist())
            raise ValueError(f"`{name}` of {self._whose(*at)} must be finite, got {x[at]}.")

    def _account(self, reward: np.ndarray, ended: np.ndarray) -> tuple[Episode, ...]:
        """Add to the accounts of all groups; report and close those of the `ended` `[B]`."""
        self._totals += self._rows(reward).sum(-1)
        self._lengths += self._rows(self._present).any(-1)
        episodes = tuple(
            Episode(int(b), float(self._totals[b]), int(self._lengths[b]))
            for b in np.flatnonzero(ended)
        )
        self._totals[ended] = 0.0
        self._lengths[ended] = 0
        return episodes


def group_by_name(agent: Any) -> str:
    """Name the group of an agent: what stands before the last `_<number>`, or all of its name."""
    numbered = NUMBERED.fullmatch(str(agent))
    return numbered[1] if numbered else str(agent)


def slots(
    agents: Sequence[Any], group_of: Callable[[Any], str]
) -> tuple[dict[Any, tuple[int, int]], tuple[str, ...]]:
    """Give each agent its group's number and a slot within it, and name the groups."""
    sizes: dict[str, int] = {}
    places = {}
    for agent in agents:
        group = group_of(agent)
        slot = sizes.get(group, 0)
        sizes[group] = slot + 1
        places[agent] = (list(sizes).index(group), slot)
    return places, tuple(sizes)


def word(name: str, said: Mapping[Any, Any], agent: Any, i: int) -> Any:
    """What environment i says of an agent."""
    if agent not in said:
        told = sorted(map(str, said))
        raise ValueError(f"`{name}` of environment {i} must tell of agent {agent!r}, got {told}.")
    return said[agent]


def require_parallel(envs: Sequence[Any]) -> None:
    """Raise TypeError unless all are parallel environments, ValueError if there is none."""
    try:
        from pettingzoo import ParallelEnv
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"`PettingZooGroups` needs the package `{error.name}`, which is not installed: "
            "pip install 'optinfra[groups]'"
        ) from error
    for env in envs:
        if not isinstance(env, ParallelEnv):
            raise TypeError(
                f"`envs` must be a pettingzoo.ParallelEnv each, got {type(env).__name__}. "
                "Put one whose agents act in turn through pettingzoo.utils.aec_to_parallel."
            )
    if not envs:
        raise ValueError("`envs` must hold at least one environment, got none.")


def same_agents(envs: Sequence[Any]) -> list[Any]:
    """The possible agents of environments, or ValueError where none are named or they differ."""
    named = [list(getattr(env, "possible_agents", ())) for env in envs]
    if not named[0]:
        raise ValueError(
            f"`envs` must name their `possible_agents`, got none of {type(envs[0]).__name__}."
        )
    for i, agents in enumerate(named):
        if agents != named[0]:
            raise ValueError(
                f"`envs` must be copies of one environment, got possible agents {named[0]} in "
                f"environment 0 and {agents} in environment {i}."
            )
    return named[0]


def same_encoder(spaces: Sequence[tuple[Any, Any]], reading: Reading) -> Encoder:
    """The encoder of what every agent sees, or ValueError where they see different things."""
    one = encoder(spaces[0][1], reading)
    for other in spaces:
        if other[1] != spaces[0][1] and encoder(other[1], reading) != one:
            raise different("observation_space", spaces[0], other)
    return one


def same_space(spaces: Sequence[tuple[Any, Any]]) -> Any:
    """The space in which every agent acts, or ValueError where they differ."""
    for other in spaces:
        if other[1] != spaces[0][1]:
            raise different("action_space", spaces[0], other)
    return spaces[0][1]


def different(name: str, one: tuple[Any, Any], other: tuple[Any, Any]) -> ValueError:
    """The error that names two agents with different spaces."""
    return ValueError(
        f"`{name}` must be one for all agents, got {one[1]} for {one[0]!r} and {other[1]} for "
        f"{other[0]!r}. One policy acts for all: wrap the environment to make them alike."
    )
