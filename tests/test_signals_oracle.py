"""Reward signals against their losses written down once more, in float64."""

import pytest
import torch

from optinfra import random, tree
from optinfra.signals import curiosity, gail, rnd
from optinfra.transforms import scale
from tests import examples, plain_signals, signal_cases

SPEC = signal_cases.SPEC
SIZES = {"hidden_units": 6, "num_layers": 2}
DESCENT = {"transform": scale(1.0), "learning_rate": 1.0}  # w ← w − ∇L: the step is the gradient
CLOSE = {"rtol": 1e-8, "atol": 1e-8}
BATCH = examples.double(examples.transitions(3, 3, 5))  # two observations, hybrid actions, a mask
VALID = tree.take(BATCH, BATCH.mask)
either_way = pytest.mark.parametrize("normalize", [False, True])


def start(signal):
    return examples.double(signal.init(random.key(5)))


def joined(obs):
    return torch.cat(obs, -1)


def look(normalize, rows):
    """What the networks see of an observation."""
    return plain_signals.normalizer(rows) if normalize else lambda x: x


def assert_step_is_gradient(before, after, loss):
    weights = {name: w.clone().requires_grad_() for name, w in before.weights.items()}
    grads = torch.autograd.grad(loss(weights), list(weights.values()))
    assert max(g.abs().max() for g in grads) > 1e-3
    for name, g in zip(weights, grads):
        step = before.weights[name] - after.weights[name]
        torch.testing.assert_close(step, g, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@either_way
def test_curiosity_descends_its_loss(normalize):
    signal = curiosity(SPEC, **SIZES, **DESCENT, normalize=normalize)
    state = start(signal)
    after, stats = signal.update(state, BATCH)
    seen = look(normalize, joined(VALID.obs))
    obs, next_obs = seen(joined(VALID.obs)), seen(joined(VALID.next_obs))

    def losses(weights):
        branches = SPEC.action.branches
        return plain_signals.curiosity_losses(weights, obs, next_obs, VALID.action, branches)

    forward_loss, inverse_loss = losses(state.weights)
    torch.testing.assert_close(stats["curiosity_forward_loss"], forward_loss, **CLOSE)
    torch.testing.assert_close(stats["curiosity_inverse_loss"], inverse_loss, **CLOSE)

    def total(weights):
        forward_loss, inverse_loss = losses(weights)
        return 2 * forward_loss + 8 * inverse_loss

    assert_step_is_gradient(state, after, total)


@either_way
def test_rnd_descends_its_loss(normalize):
    signal = rnd(SPEC, **SIZES, **DESCENT, normalize=normalize)
    state = start(signal)
    after, stats = signal.update(state, BATCH)
    seen = look(normalize, joined(VALID.obs))
    obs = seen(joined(VALID.obs))

    def loss(weights):
        return plain_signals.rnd_errors(weights, state.target, obs).mean()

    torch.testing.assert_close(stats["rnd_loss"], loss(state.weights), **CLOSE)
    assert_step_is_gradient(state, after, loss)
    rewards = signal.evaluate(after, BATCH)[BATCH.mask]
    again = plain_signals.rnd_errors(after.weights, state.target, obs)
    torch.testing.assert_close(rewards, again, **CLOSE)


@either_way
@pytest.mark.parametrize("use_actions", [False, True])
@pytest.mark.parametrize("use_vail", [False, True])
def test_gail_descends_its_loss(normalize, use_actions, use_vail, monkeypatch):
    expert = examples.double(signal_cases.expert())
    options = {"normalize": normalize, "use_actions": use_actions, "use_vail": use_vail}
    signal = gail(SPEC, expert, **SIZES, **DESCENT, **options)
    state = start(signal)
    if use_vail:
        state = state._replace(beta=torch.tensor(0.1, dtype=torch.float64))
    drawn = logged(monkeypatch)
    after, stats = signal.update(state, BATCH)

    valid = BATCH.mask.flatten()
    rows, *rest = (x[valid] for x in drawn)
    noises = [rest.pop(0), rest.pop(0)] if use_vail else [None, None]
    noises.append(rest.pop() if use_vail else None)
    u = [x.double() for x in rest]
    policy = inputs(VALID, use_actions)
    examples_of = inputs(tree.take(expert, expert.mask), use_actions)
    experts = tuple(x[rows] for x in examples_of)
    count = len(SPEC.obs)
    mixing = torch.cat(u[:count], 1), torch.cat([*u[count:], torch.zeros(len(rows), 0)], 1)
    mixed = tuple(m * x + (1 - m) * e for m, x, e in zip(mixing, policy, experts))
    seen = look(normalize, experts[0])

    def losses(weights):
        return plain_signals.gail_losses(weights, policy, experts, mixed, seen, noises)

    loss, penalty, divergence, *estimates = losses(state.weights)
    torch.testing.assert_close(stats["gail_loss"], loss, **CLOSE)
    torch.testing.assert_close(stats["gail_grad_penalty"], penalty, **CLOSE)
    torch.testing.assert_close(stats["gail_policy_estimate"], estimates[0], **CLOSE)
    torch.testing.assert_close(stats["gail_expert_estimate"], estimates[1], **CLOSE)
    beta = 0.0
    if use_vail:
        torch.testing.assert_close(stats["gail_kl_loss"], divergence, **CLOSE)
        beta = 0.1 + 5e-4 * (divergence - 0.5)

    def total(weights):
        loss, penalty, divergence, *_ = losses(weights)
        return loss + penalty + (beta * (divergence - 0.5) if use_vail else 0)

    assert_step_is_gradient(state, after, total)
    rewards = signal.evaluate(after, BATCH)[BATCH.mask]
    d, _ = plain_signals.estimate(after.weights, torch.cat([seen(policy[0]), policy[1]], 1))
    torch.testing.assert_close(rewards, -torch.log(1 - d * (1 - 1e-7)), **CLOSE)


def inputs(batch, use_actions):
    """Observations, and what else the discriminator reads."""
    obs = joined(batch.obs)
    if not use_actions:
        return obs, obs[:, :0]
    hots = plain_signals.one_hots(batch.action.discrete, SPEC.action.branches)
    done = (batch.terminated | batch.truncated).double()[:, None]
    return obs, torch.cat([batch.action.continuous, *hots, done], 1)


def logged(monkeypatch):
    """Every draw from now on, in order; not those that a draw makes of its own."""
    drawn, within = [], []

    def logging(draw):
        def call(*arguments):
            within.append(draw)
            result = draw(*arguments)
            within.pop()
            if not within:
                drawn.append(result)
            return result

        return call

    for name in ("randint", "uniform", "normal"):
        monkeypatch.setattr(random, name, logging(getattr(random, name)))
    return drawn
