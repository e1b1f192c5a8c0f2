"""The loop around the iteration: it collects, reports and saves, and computes nothing."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from optinfra import checkpoint, envs, random
from optinfra.iteration import Iteration, IterationState
from optinfra.lift.epochs import unlifted
from optinfra.settings import RunSettings, TrainerSettings, dump
from optinfra.train import build, folders
from optinfra.train.errors import RunError
from optinfra.train.metrics import EpisodeWindow, MetricsWriter, WindowState
from optinfra.train.plots import learning_curve
from optinfra.train.progress import Progress
from optinfra.train.sources import GymnasiumSource, Policy, Source, TensorSource
from optinfra.types import Key, PyTree

WARM_UP = "compiling: the first iterations take up to a minute"
NEW_EPISODES = (
    "note: a Gymnasium environment cannot be saved, so new episodes begin here; "
    "everything else goes on as it was."
)


class LoopState(NamedTuple):
    """What a checkpoint of a run holds."""

    iteration: IterationState
    source: PyTree
    window: WindowState


class Outcome(NamedTuple):
    """How a run ended."""

    steps: int
    episodes: int
    mean_return: float  # of the last 100 episodes; NaN before the first has ended
    interrupted: bool


class Training(NamedTuple):
    """The functions of one run, and where it begins."""

    iteration: Iteration
    source: Source
    start: LoopState


def prepare(run: RunSettings, name: str, device: torch.device, *, begun: int = 0) -> Training:
    """Make everything a run consists of.

    Args:
      run: settings; their seed is drawn already.
      name: of the behaviour to train.
      device: where tensors live.
      begun: environment steps already taken; Gymnasium's environments are seeded with them.

    Raises:
      RunError: the environment cannot be made.
    """
    behavior, own = run.behaviors[name], run.optinfra
    stage = build.chosen_stage(behavior, own)
    env = made(run, run.env_settings.num_envs)
    learner = build.learner(env.spec, behavior, own)
    one = build.training_iteration(learner, behavior, stage)
    steps = build.rollout_steps(run, behavior)
    source = sourced(env, learner.act, run, steps, stage, run.env_settings.seed + begun)
    key_iteration, key_source = random.split(seeded(run, device)).unbind()
    start = LoopState(one.init(key_iteration), source.init(key_source), EpisodeWindow().state())
    return Training(one, source, start)


def made(run: RunSettings, num_envs: int) -> envs.Env | envs.GymnasiumVector:
    """Make the environment of the settings, or say in one line why not."""
    try:
        return envs.make(run.optinfra.env, num_envs, env_kwargs=run.optinfra.env_kwargs)
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        raise RunError(str(error)) from error


def sourced(
    env: envs.Env | envs.GymnasiumVector,
    policy: Policy,
    run: RunSettings,
    steps: int,
    stage: Any,
    seed: int,
) -> Source:
    """Make what collects rollouts of `steps` steps."""
    if isinstance(env, envs.Env):
        num_envs = run.env_settings.num_envs
        return TensorSource(env, policy, num_envs=num_envs, num_steps=steps, stage=stage)
    return GymnasiumSource(env, policy, num_steps=steps, stage=stage, seed=seed)


def seeded(run: RunSettings, device: torch.device) -> Key:
    """Make the key from which everything random in a run comes."""
    return random.key(run.env_settings.seed, device=device)


def train(
    run: RunSettings, name: str, folder: Path, *, device: torch.device, resume: bool = False
) -> Outcome:
    """Train one behaviour until its `max_steps`, or until Ctrl-C.

    Args:
      run: settings; their seed is drawn already.
      name: of the behaviour.
      folder: of the run; it exists.
      device: where tensors live.
      resume: go on from the newest checkpoint in `folder`.

    Raises:
      RunError: the environment cannot be made or does not behave.
      CheckpointError: there is no checkpoint to go on from, or none can be written.
    """
    saved = folders.newest_checkpoint(folder) if resume else None
    begun = checkpoint.step_of(saved) if saved else 0
    training = prepare(run, name, device, begun=begun)
    state = checkpoint.load(saved, training.start)[0] if saved else training.start
    (folder / folders.CONFIGURATION).write_text(dump(run), encoding="utf-8")
    behavior = run.behaviors[name]
    with ExitStack() as stack:
        stack.callback(training.source.close)
        progress = stack.enter_context(Progress(behavior.max_steps, begun))
        stack.enter_context(_warnings_as_lines(progress))
        metrics = stack.enter_context(MetricsWriter(folder, start_steps=begun))
        loop = _Loop(training, state, behavior, folder, metrics, progress)
        if resume and not training.source.exact:
            progress.print(NEW_EPISODES)
        if build.chosen_stage(behavior, run.optinfra) is not unlifted:
            progress.note(WARM_UP)
        interrupted = loop.run_until(behavior.max_steps)
    if loop.reported_at > begun or resume:
        learning_curve({name: folder / folders.METRICS}, folder / folders.CURVE)
    return Outcome(loop.steps, loop.window.episodes, loop.window.mean, interrupted)


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
        self.steps = self.saved_at = self.reported_at = int(state.iteration.learner.steps)
        self.stats: dict[str, float] = {}

    def run_until(self, max_steps: int) -> bool:
        """Iterate, and save what there is however it ends; True if a Ctrl-C ended it."""
        try:
            while self.steps < max_steps:
                self.advance()
                if self.steps - self.reported_at >= self.behavior.summary_freq:
                    self.report()
                if self.steps - self.saved_at >= self.behavior.checkpoint_every:
                    self.save()
        except KeyboardInterrupt:
            return True
        finally:
            if self.stats and self.steps > self.reported_at:
                self.report()
            if self.steps > self.saved_at:
                self.save()
        return False

    def advance(self) -> None:
        """Collect one rollout and learn from it."""
        old = self.state
        try:
            source, rollout, ended = self.training.source.collect(
                old.source, old.iteration.learner.params
            )
        except ValueError as error:  # an environment's observation that is not finite
            raise RunError(str(error)) from error
        learnt, tensors = self.training.iteration.update(old.iteration, rollout)
        stats = dict(zip(tensors, torch.stack(list(tensors.values())).tolist()))
        window = EpisodeWindow(old.window)
        for episode in ended:
            window.add(episode.total_reward, episode.length)
        self.state = LoopState(learnt, source, window.state())
        self.window, self.stats, self.steps = window, stats, int(learnt.learner.steps)
        self.progress.note("")
        self.progress.update(self.steps, window.mean, stats)

    def report(self) -> None:
        """Write a row of metrics."""
        self.metrics.write(self.steps, self.window, self.stats)
        self.state = self.state._replace(window=self.window.state())
        self.reported_at = self.steps

    def save(self) -> None:
        """Write a checkpoint and delete those that are too many."""
        path = checkpoint.numbered(self.folder / folders.CHECKPOINTS, self.steps)
        checkpoint.save(path, self.state, {"steps": str(self.steps)})
        checkpoint.prune(path.parent, self.behavior.keep_checkpoints)
        self.saved_at = self.steps


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
