"""How good a trained policy is."""

import math
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

import torch

from optinfra import random
from optinfra.train.sources import Source
from optinfra.train.trained import MOST_ENVS, newest
from optinfra.types import Key, PyTree

CONFIDENCE = 0.95


class Evaluation(NamedTuple):
    """Returns of finished episodes, and what they say of the mean."""

    returns: tuple[float, ...]
    steps: int  # environment steps the policy was trained for

    @property
    def mean(self) -> float:
        """Mean return."""
        return fmean(self.returns)

    @property
    def half_width(self) -> float:
        """Half the width of the mean's 95 % interval; NaN for a single episode."""
        n = len(self.returns)
        if n < 2:
            return math.nan
        return student_quantile(0.5 + CONFIDENCE / 2, n - 1) * stdev(self.returns) / math.sqrt(n)


def evaluate(
    folder: Path, *, episodes: int, stochastic: bool, seed: int, device: torch.device
) -> Evaluation:
    """Run the newest policy of a run for a number of episodes.

    How many episodes each environment contributes, from its first on, is settled before:
    taking those that end first would favour the short ones. Of groups whole episodes count.

    Args:
      folder: of the run.
      episodes: how many ≥ 1.
      stochastic: draw actions as in training, or take the likeliest ones.
      seed: of the environments and the draws.
      device: where tensors live.

    Raises:
      RunError: the folder holds no run or no checkpoint, or its environment cannot be made.
      CheckpointError: the checkpoint does not fit the run's settings.
    """
    num_envs = min(episodes, MOST_ENVS)
    trained = newest(folder, num_envs, stochastic=stochastic, seed=seed, device=device)
    try:
        key = random.key(seed, device)
        lanes = trained.source.lanes
        returns = _first_episodes(trained.source, trained.params, key, lanes, episodes)
    finally:
        trained.source.close()
    return Evaluation(returns, trained.steps)


def _first_episodes(
    source: Source, params: PyTree, key: Key, lanes: int, episodes: int
) -> tuple[float, ...]:
    """Collect until every lane has finished its share; they differ by one at most."""
    shares = [len(range(lane, episodes, lanes)) for lane in range(lanes)]
    finished: list[list[float]] = [[] for _ in range(lanes)]
    place = source.init(key)
    while any(len(returns) < share for returns, share in zip(finished, shares)):
        place, _, ended = source.collect(place, params)
        for episode in ended:
            if len(finished[episode.env]) < shares[episode.env]:
                finished[episode.env].append(episode.total_reward)
    return tuple(x for returns in finished for x in returns)


def student_quantile(probability: float, degrees: int) -> float:
    """Approximate the quantile of Student's t: for 1 and 2 degrees exactly, else within 0.2 %.

        ν = 1:  t = tan π(p − ½)        ν = 2:  t = (2p − 1) √(2 / 4p(1 − p))
        t ≈ z + (z³ + z)/4ν + (5z⁵ + 16z³ + 3z)/96ν² + (3z⁷ + 19z⁵ + 17z³ − 15z)/384ν³
              + (79z⁹ + 776z⁷ + 1482z⁵ − 1920z³ − 945z)/92160ν⁴

    Args:
      probability: p in (0, 1); the accuracy is that at 0.975.
      degrees: ν ≥ 1.

    Source: Abramowitz & Stegun 1964, 26.7.5, four terms, https://personal.math.ubc.ca/~cbm/aands/.
    """
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        return (2 * probability - 1) * math.sqrt(0.5 / (probability * (1 - probability)))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))
