"""Record what a trained policy does as demonstrations."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import demos, random, tree
from optinfra.demos.format import SUFFIX
from optinfra.iteration import Rollout
from optinfra.train.errors import RunError
from optinfra.train.group_sources import PettingZooSource, TensorGroupSource
from optinfra.train.sources import Source
from optinfra.train.trained import MOST_ENVS, newest
from optinfra.types import Key, PyTree


class Recorded(NamedTuple):
    """What was recorded."""

    mean: float  # return of the episodes
    pairs: int
    steps: int  # environment steps the policy was trained for


def record(
    folder: Path,
    file: Path,
    *,
    episodes: int,
    stochastic: bool,
    seed: int,
    device: torch.device,
    force: bool = False,
) -> Recorded:
    """Record whole episodes of the newest policy of a run into a `.demo` file.

    How many episodes each environment contributes, from its first on, is settled before:
    taking those that end first would favour the short ones. Actions are recorded as executed.

    Args:
      folder: of the run.
      file: to write; completely or not at all.
      episodes: how many ≥ 1.
      stochastic: draw actions as in training, or take the likeliest ones.
      seed: of the environments and the draws.
      device: where tensors live.
      force: overwrite the file.

    Raises:
      RunError: the file exists or ends otherwise, the folder holds no run or no checkpoint,
        its environment cannot be made, or is one of groups.
      CheckpointError: the checkpoint does not fit the run's settings.
      DemoError: the file cannot be written.
    """
    if file.suffix != SUFFIX:
        raise RunError(f"{file}: a recording's name must end in {SUFFIX}.")
    if file.is_dir():
        raise RunError(f"{file}: is a folder. Choose another name.")
    if file.exists() and not force:
        raise RunError(f"{file}: exists already. Overwrite it by --force, or choose another name.")
    shares = [len(range(env, episodes, MOST_ENVS)) for env in range(min(episodes, MOST_ENVS))]
    policy = newest(folder, len(shares), stochastic=stochastic, seed=seed, device=device)
    try:
        if isinstance(policy.source, TensorGroupSource | PettingZooSource):
            raise RunError(
                f"{folder}: cannot be recorded: its agents act in groups, and a demonstration "
                "is of a single agent."
            )
        rollout = _collected(policy.source, policy.params, random.key(seed, device), shares)
    finally:
        policy.source.close()
    recorded = _demonstrations(rollout, shares)
    try:
        demos.save(file, recorded, name=policy.name, spec=policy.spec)
    except demos.DemoError:
        raise
    except ValueError as error:  # a number that is not finite
        raise RunError(f"{folder}: cannot be recorded: {error}") from error
    mean = recorded.rewards.double().sum().item() / episodes
    return Recorded(mean, len(recorded.episode), policy.steps)


def _collected(source: Source, params: PyTree, key: Key, shares: list[int]) -> Rollout:
    """Collect until every environment has finished its share of episodes."""
    place, finished, rollouts = source.init(key), [0] * len(shares), []
    while any(count < share for count, share in zip(finished, shares)):
        place, rollout, ended = source.collect(place, params)
        rollouts.append(tree.map(lambda x: x.cpu(), rollout._replace(memory=())))
        for episode in ended:
            finished[episode.env] += 1
    return tree.map(lambda *xs: torch.cat(xs), *rollouts)


def _demonstrations(rollout: Rollout, shares: list[int]) -> demos.Demonstrations:
    """Lay out the first episodes of every environment, one after the other."""
    episodes: list[demos.Demonstrations] = []
    for env, share in enumerate(shares):
        steps = tree.map(lambda x, env=env: x[:, env], rollout)
        steps = tree.take(steps, steps.mask.nonzero()[:, 0])
        ends = (steps.terminated | steps.truncated).nonzero()[:share, 0] + 1
        begin = 0
        for end in ends.tolist():
            episode = tree.take(steps, slice(begin, end))
            episodes.append(_pairs(episode, len(episodes)))
            begin = end
    return tree.map(lambda *xs: torch.cat(xs), *episodes)


def _pairs(steps: Rollout, number: int) -> demos.Demonstrations:
    """Make of T steps that end an episode T + 1 pairs, the last of its final observation."""
    last = tree.take(steps, slice(-1, None))
    nothing = tree.map(torch.zeros_like, last.executed)
    every_choice = torch.ones_like(last.action_mask)

    def then(x: Tensor, final: Tensor) -> Tensor:
        return torch.cat([x, final])

    never = torch.zeros_like(steps.terminated)
    return demos.Demonstrations(
        obs=tree.map(then, steps.obs, last.next_obs),
        action=tree.map(then, steps.executed, nothing),
        action_mask=then(steps.action_mask, every_choice),
        rewards=then(torch.zeros_like(last.rewards), steps.rewards),
        episode=torch.full((len(steps.rewards) + 1,), number),
        terminated=then(never, last.terminated),
        truncated=then(never, last.truncated & ~last.terminated),
    )
