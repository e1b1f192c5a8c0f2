"""What policies earn in Nearest: the best one, chance, and those that compare nothing."""

import math

import pytest
import torch
from torch.func import vmap

from optinfra import random
from optinfra.envs import nearest
from optinfra.envs.nearest import (
    BEST_RETURN,
    CHANCE_RETURN,
    ROUNDS,
    SPEED,
    TIME_LIMIT,
)
from optinfra.types import Action

KEY = random.key(0)
MANY = 4096


def play(policy, number=MANY):
    """Follow a policy `(obs, key) -> [B, 2]` through one episode each; returns and lengths."""
    env, key = nearest(), KEY
    state, obs = vmap(env.reset)(random.split(random.key(1), number))
    returns, lengths = torch.zeros(number), torch.zeros(number, dtype=torch.int64)
    running = torch.ones(number, dtype=torch.bool)
    while running.any():
        key, key_act, key_env = random.split(key, 3).unbind()
        action = Action(policy(obs, key_act), torch.zeros(number, 0, dtype=torch.int64))
        after = vmap(env.step)(state, action, random.split(key_env, number))
        returns, lengths = returns + after.reward * running, lengths + running
        running = running & ~(after.terminated | after.truncated)
        state, obs = after.state, after.obs
    return returns, lengths


def straight(ways):
    """Go these ways `[B, 2]` as fast as may be, and no further."""
    return ways / ways.abs().amax(1, keepdim=True).clamp(min=SPEED)


def heading(score):
    """Go straight to the target of least score, `(ways from the origin [B, N, 2]) -> [B, N]`."""

    def policy(obs, key):
        itself, others = obs
        from_origin = others[..., :2] - itself[:, None, 2:]
        scores = torch.where(others[..., 2] > 0, score(from_origin), torch.inf)
        chosen = scores.argmin(1)[:, None, None].expand(-1, 1, 2)
        return straight(others[..., :2].gather(1, chosen)[:, 0])

    return policy


def error(returns):
    return float(returns.std() / len(returns) ** 0.5)


def test_who_goes_straight_to_the_nearest_earns_the_best_return_in_every_episode():
    returns, lengths = play(heading(lambda ways: ways.norm(dim=-1)))
    torch.testing.assert_close(returns, torch.full((MANY,), BEST_RETURN))
    assert lengths.max() <= TIME_LIMIT and lengths.min() >= ROUNDS


def test_the_time_limit_leaves_time_for_the_longest_ways():
    assert math.ceil(2 / SPEED) * ROUNDS == TIME_LIMIT


def test_who_moves_at_random_earns_what_chance_does():
    by_chance = lambda obs, key: random.uniform(key, (len(obs[0]), 2), minval=-1.0, maxval=1.0)
    returns, _ = play(by_chance)
    assert float(returns.mean()) == pytest.approx(CHANCE_RETURN, abs=3 * error(returns))
    assert error(returns) < 0.004


def test_who_goes_to_targets_without_comparing_how_far_they_are_earns_next_to_nothing():
    """Always to the leftmost: each is the leftmost as often."""
    returns, lengths = play(heading(lambda ways: ways[..., 0]))
    assert abs(float(returns.mean())) < 0.05 and lengths.float().mean() < TIME_LIMIT / 2


def test_who_goes_to_the_farthest_pays_for_it():
    returns, _ = play(heading(lambda ways: -ways.norm(dim=-1)))
    assert float(returns.mean()) < -0.6
