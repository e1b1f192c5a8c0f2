"""The loop around the iteration: it collects, reports and saves, and computes nothing."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

from optinfra import checkpoint, envs, random, tree
from optinfra.demos import DemoError
from optinfra.iteration import IterationState
from optinfra.lift.epochs import unlifted
from optinfra.off_policy import OffPolicyState
from optinfra.settings import RunSettings, TrainerSettings
from optinfra.train import build, exploring, folders
from optinfra.train.collect import Remember
from optinfra.train.errors import RunError
from optinfra.train.faults import Faults
from optinfra.train.group_sources import PettingZooSource, TensorGroupSource
from optinfra.train.metrics import EpisodeWindow, MetricsWriter, WindowState, read_metrics
from optinfra.train.plots import learning_curve
from optinfra.train.progress import Progress
from optinfra.train.replaying import Replaying
from optinfra.train.sources import GymnasiumSource, Policy, Source, TensorSource
from optinfra.train.stopping import Stop
from optinfra.types import Key, PyTree

WARM_UP = "compiling: the first iterations take a minute, and some more for each reward signal"
NEW_EPISODES = (
    "note: environments of Gymnasium and PettingZoo cannot be saved, so new episodes begin here; "
    "everything else goes on as it was."
)
EMPTY_REPLAY = (
    "note: the replay buffer was not saved, so it fills anew; to keep it with every checkpoint set "
    "hyperparameters.save_replay_buffer."
)
# Parts of the names of those leaves of a `LoopState` that settings fill and nothing changes.
SETTINGS = {"hyper", "strength", "gamma", "learning_rate", "gae_lambda"}

Environment: TypeAlias = envs.Env | envs.GroupEnv | envs.GymnasiumVector | envs.PettingZooGroups


class LoopState(NamedTuple):
    """What a checkpoint of a run holds."""

    iteration: IterationState | OffPolicyState
    source: PyTree
    window: WindowState


class Outcome(NamedTuple):
    """How a run ended."""

    folder: Path
    steps: int
    episodes: int
    mean_return: float  # of the last 100 episodes; NaN before the first has ended
    interrupted: bool


class Training(NamedTuple):
    """The functions of one run, and where it begins."""

    iteration: build.Updates
    source: Source
    start: LoopState
    faults: Faults
    replay: Replaying | None = None  # None where learning is from the rollouts alone
    # by a learner's state, what the source's policy takes for parameters
    acts_on: Callable[[Any], PyTree] = exploring.params_of


def prepare(
    run: RunSettings, name: str, device: torch.device, *, begun: int = 0, learns: bool = True
) -> Training:
    """Make everything a run consists of.

    Args:
      run: settings; their seed is drawn already.
      name: of the behaviour to train.
      device: where tensors live.
      begun: environment steps already taken; what cannot be saved is seeded with them.
      learns: False where only what was learnt is wanted: then no demonstrations are read.

    Raises:
      RunError: the environment cannot be made, or not be learnt by this trainer.
      DemoError: demonstrations cannot be read, or are of another kind of agent.
    """
    behavior, own = run.behaviors[name], run.optinfra
    stage = build.chosen_stage(behavior, own)
    env, faults = made(run, run.env_settings.num_envs), Faults()
    rows = side_by_side(env, run.env_settings.num_envs)
    _require_trainer(behavior.trainer_type, own.env, groups=len(rows) > 1)
    options: dict[str, Any] = {"rows": rows, "guard": faults.guard, "learns": learns}
    try:
        learner, one, replay = build.learning(env.spec, run, name, stage, **options)
    except DemoError:
        raise
    except ValueError as error:  # an observation that is no vector, or a burn-in too long
        raise RunError(f"{own.env}: {error}") from error
    steps, seed = build.rollout_steps(behavior, rows), run.env_settings.seed + begun
    policy, acts_on = exploring.acting(learner, env.spec.action, build.random_steps(behavior, own))
    source = sourced(env, policy, build.remember(learner), run, steps, stage, seed)
    key_iteration, key_source = random.split(seeded(run, device)).unbind()
    start = LoopState(one.init(key_iteration), source.init(key_source), EpisodeWindow().state())
    return Training(one, source, start, faults, replay, acts_on)


def made(run: RunSettings, num_envs: int) -> Environment:
    """Make the environment of the settings, or say in one line why not."""
    own = run.optinfra
    reading = envs.Reading(own.max_entities, own.goals, own.sets)
    try:
        return envs.make(own.env, num_envs, env_kwargs=own.env_kwargs, reading=reading)
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        raise RunError(str(error)) from error


def side_by_side(env: Environment, num_envs: int) -> tuple[int, ...]:
    """Count who acts at once: (B,) environments, or (B, A) places of agents in groups."""
    if isinstance(env, envs.GroupEnv):
        return num_envs, env.agents
    if isinstance(env, envs.PettingZooGroups):
        return env.num_groups, env.agents
    return (num_envs,)


def _require_trainer(trainer: str, env: str, *, groups: bool) -> None:
    """Raise RunError unless a trainer learns from such an environment."""
    if trainer == "poca" and not groups:
        raise RunError(
            f"{env}: trainer_type poca learns from groups, and here is a single agent. Use "
            "trainer_type ppo, or an environment of groups, such as tensor:Escape-v0."
        )
    if trainer == "sac" and groups:
        raise RunError(
            f"{env}: trainer_type sac does not learn from groups yet. Use trainer_type poca, or "
            "ppo, which takes each agent by itself."
        )


def sourced(
    env: Environment,
    policy: Policy,
    remember: Remember,
    run: RunSettings,
    steps: int,
    stage: Any,
    seed: int,
) -> Source:
    """Make what collects rollouts of `steps` steps."""
    options: dict[str, Any] = {"num_steps": steps, "stage": stage, "remember": remember}
    num_envs = run.env_settings.num_envs
    if isinstance(env, envs.Env):
        return TensorSource(env, policy, num_envs=num_envs, **options)
    if isinstance(env, envs.GroupEnv):
        return TensorGroupSource(env, policy, num_envs=num_envs, **options)
    if isinstance(env, envs.PettingZooGroups):
        return PettingZooSource(env, policy, seed=seed, **options)
    return GymnasiumSource(env, policy, seed=seed, **options)


def seeded(run: RunSettings, device: torch.device) -> Key:
    """Make the key from which everything random in a run comes."""
    return random.key(run.env_settings.seed, device=device)


def restored(saved: Path, start: LoopState) -> LoopState:
    """Load what was learnt until a checkpoint; what the settings say stays as in `start`.

    Raises:
      CheckpointError: it cannot be read, or does not fit the settings.
    """
    loaded, _ = checkpoint.load(saved, start)
    leaves = tree.named_leaves(start).items()
    return tree.replace(loaded, {name: x for name, x in leaves if _is_setting(name)})


def _is_setting(leaf: str) -> bool:
    """Whether settings fill a leaf. A signal may be called like one of them."""
    parts = leaf.split("/")
    if leaf.startswith(("iteration/signals/", "iteration/failures/")):
        del parts[2]
    return not SETTINGS.isdisjoint(parts)


def train(
    run: RunSettings,
    name: str,
    *,
    device: torch.device,
    chosen: Path | None = None,
    resumed: Path | None = None,
) -> Outcome:
    """Train one behaviour until its `max_steps`, or until Ctrl-C.

    No file is touched before whatever can be refused has been.

    Args:
      run: settings; their seed is drawn already.
      name: of the behaviour.
      device: where tensors live.
      chosen: folder of a new run; see `folders.begin`.
      resumed: folder of the run to go on with, from its newest checkpoint.

    Raises:
      RunError: the environment or the folder cannot be made, or does not behave.
      CheckpointError: the checkpoint does not fit the settings, or none can be written.
      StoreError: the replay cannot be kept or saved, or what was saved of it not be read.
    """
    behavior = run.behaviors[name]
    with ExitStack() as stack:
        stack.enter_context(_threads(run.optinfra.threads))
        training, state = _prepared(run, name, device, resumed)
        stack.callback(training.source.close)
        begun = int(state.iteration.learner.steps)
        folder = resumed or folders.begin(run, name, chosen)
        metrics = stack.enter_context(_metrics(folder, begun))
        folders.record(folder, run)
        if training.replay is not None and resumed is None:
            training.replay.open(folder)
        progress = stack.enter_context(Progress(behavior.max_steps, begun))
        stack.enter_context(_warnings_as_lines(progress))
        if resumed and not training.source.exact:
            progress.print(NEW_EPISODES)
        if training.replay is not None and training.replay.lost:
            progress.print(EMPTY_REPLAY)
        if build.chosen_stage(behavior, run.optinfra) is not unlifted:
            progress.note(WARM_UP)
        loop = _Loop(training, state, behavior, folder, metrics, progress)
        loop.saved = state if resumed else None
        interrupted = loop.run_until(behavior.max_steps)
    if len(read_metrics(folder / folders.METRICS).get("steps", ())):
        learning_curve({name: folder / folders.METRICS}, folder / folders.CURVE)
    return Outcome(folder, loop.steps, loop.window.episodes, loop.window.mean, interrupted)


def _prepared(
    run: RunSettings, name: str, device: torch.device, resumed: Path | None
) -> tuple[Training, LoopState]:
    """Make everything a run consists of, and find where it begins or goes on."""
    if resumed is None:
        training = prepare(run, name, device)
        return training, training.start
    saved = folders.newest_checkpoint(resumed)
    training = prepare(run, name, device, begun=checkpoint.step_of(saved))
    state = restored(saved, training.start)
    if not training.source.exact:  # its episodes begin anew, and nobody remembers the old ones
        forgotten = {"memory": training.start.iteration.memory}
        state = state._replace(iteration=state.iteration._replace(**forgotten))
    if training.replay is not None:
        training.replay.open(resumed)
        training.replay.load(resumed / folders.REPLAY, checkpoint.step_of(saved))
        if not training.source.exact:
            training.replay.cut()
    return training, state


def _metrics(folder: Path, begun: int) -> MetricsWriter:
    try:
        return MetricsWriter(folder, start_steps=begun)
    except ValueError as error:  # what is there is damaged
        raise RunError(str(error)) from error


class _Advanced(NamedTuple):
    """What one rollout and the learning after it have come to."""

    state: LoopState
    window: EpisodeWindow
    stats: dict[str, float]
    steps: int


class _Loop:
    """A run in progress. Its state changes in one assignment, so that it is always whole."""

    def __init__(
        self,
        training: Training,
        state: LoopState,
        behavior: TrainerSettings,
        folder: Path,
        metrics: MetricsWriter,
        progress: Progress,
    ) -> None:
        self.training, self.state, self.behavior, self.folder = training, state, behavior, folder
        self.metrics, self.progress = metrics, progress
        self.window = EpisodeWindow(state.window)
        self.steps = self.reported_at = int(state.iteration.learner.steps)
        self.stats: dict[str, float] = {}
        self.saved: LoopState | None = None  # what the newest checkpoint holds

    def run_until(self, max_steps: int) -> bool:
        """Iterate, and save what there is however it ends; True if it ended before its time."""
        with Stop() as stop:
            try:
                while self.steps < max_steps and not stop.asked:
                    before = self.steps
                    advanced = stop.within(self.advance)
                    if advanced is None:
                        break
                    self.settle(advanced)
                    if _passed(self.behavior.summary_freq, before, self.steps):
                        self.report()
                    if _passed(self.behavior.checkpoint_every, before, self.steps):
                        self.save()
            finally:
                try:
                    if self.steps > self.reported_at:
                        self.report()
                finally:  # what was learnt is kept even if nothing can be told of it
                    if self.state is not self.saved:
                        self.save()
        return self.steps < max_steps

    def advance(self) -> _Advanced:
        """Collect one rollout and learn. Nothing changes by it: it may be ended anywhere."""
        old = self.state
        source, rollout, ended = self.training.source.collect(
            old.source, self.training.acts_on(old.iteration.learner)
        )
        learnt, tensors = self.training.iteration.update(old.iteration, rollout)
        stats = dict(zip(tensors, torch.stack(list(tensors.values())).tolist())) if tensors else {}
        self.training.faults.notice(old.iteration.failures, learnt.failures)
        window = EpisodeWindow(old.window)
        for episode in ended:
            window.add(episode.total_reward, episode.length)
        state, steps = LoopState(learnt, source, window.state()), int(learnt.learner.steps)
        return _Advanced(state, window, stats, steps)

    def settle(self, advanced: _Advanced) -> None:
        """Take over what `advance` has come to."""
        if advanced.stats and not self.stats:
            self.progress.note("")  # what was slow about the first update is over
        self.state, self.window, self.steps = advanced.state, advanced.window, advanced.steps
        self.stats = advanced.stats or self.stats
        if self.training.replay is not None:
            self.training.replay.commit()
        self.progress.update(self.steps, self.window.mean, self.stats)

    def report(self) -> None:
        """Write a row of metrics."""
        self.metrics.write(self.steps, self.window, self.stats)
        self.state = self.state._replace(window=self.window.state())
        self.reported_at = self.steps

    def save(self) -> None:
        """Write a checkpoint and delete those that are too many."""
        path = checkpoint.numbered(self.folder / folders.CHECKPOINTS, self.steps)
        if self.training.replay is not None:
            self.training.replay.save(self.folder / folders.REPLAY, self.steps)
        checkpoint.save(path, self.state, {"steps": str(self.steps)})
        self.saved = self.state
        if self.training.replay is not None:
            self.training.replay.prune(self.folder / folders.REPLAY, self.steps)
        checkpoint.prune(path.parent, self.behavior.keep_checkpoints)


def _passed(every: int, before: int, after: int) -> bool:
    """Whether a multiple was reached: a run that was resumed does so where others do."""
    return after // every > before // every


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Let torch use so many threads of the CPU meanwhile; its own number without one."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _warnings_as_lines(progress: Progress) -> Iterator[None]:
    """Print warnings above the display, one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        progress.print(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def drawn_seed() -> int:
    """Draw a seed from the system, for runs that were given none."""
    return int.from_bytes(os.urandom(4), "big") >> 1
