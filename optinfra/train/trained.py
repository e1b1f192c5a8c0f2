"""What a run has learnt: its newest policy, in environments of its own."""

from pathlib import Path
from typing import NamedTuple

import torch

from optinfra import checkpoint
from optinfra.lift.epochs import unlifted
from optinfra.train import build, folders
from optinfra.train.loop import made, prepare, sourced
from optinfra.train.sources import Source
from optinfra.types import Act, Key, Learner, Obs, PyTree, Spec

CHUNK = 100  # steps collected at a time
MOST_ENVS = 16  # side by side


class Trained(NamedTuple):
    """A policy, and where it acts."""

    source: Source
    learner: Learner
    params: PyTree
    spec: Spec
    name: str  # of the behaviour
    steps: int  # environment steps it was trained for


def newest(
    folder: Path, num_envs: int, *, stochastic: bool, seed: int, device: torch.device
) -> Trained:
    """Load the newest policy of a run and make environments for it.

    Args:
      folder: of the run.
      num_envs: how many environments ≥ 1.
      stochastic: draw actions as in training, or take the likeliest ones.
      seed: of the environments.
      device: where tensors live.

    Raises:
      RunError: the folder holds no run or no checkpoint, or its environment cannot be made.
      CheckpointError: the checkpoint does not fit the run's settings.
    """
    run = folders.settings_of(folder)
    name = folders.behavior_of(run, folder)
    path = folders.newest_checkpoint(folder)
    training = prepare(run, name, device, learns=False)
    training.source.close()
    state, _ = checkpoint.load(path, training.start)
    own = run.env_settings.model_copy(update={"num_envs": num_envs})
    run = run.model_copy(update={"env_settings": own})
    env = made(run, num_envs)
    learner = build.learner(env.spec, run.behaviors[name], run.optinfra)

    def likeliest(params: PyTree, obs: Obs, memory: PyTree, key: Key) -> Act:
        del key
        return learner.greedy(params, obs, memory)

    policy = learner.act if stochastic else likeliest
    source = sourced(env, policy, build.remember(learner), run, CHUNK, unlifted, seed)
    params = state.iteration.learner.params
    return Trained(source, learner, params, env.spec, name, checkpoint.step_of(path))
