"""Three iterations against PPO as one writes it without a library: see `plain_ppo`."""

import itertools

import chex
import pytest
import torch
from torch import nn

from optinfra import losses, random, transforms, tree
from optinfra.iteration import iteration
from optinfra.learners import ppo
from optinfra.networks import actor_critic
from optinfra.signals import extrinsic
from optinfra.types import ActionSpec, Spec
from tests import examples, plain_ppo

CLIP, VALUE_COEF, ENTROPY_COEF, MAX_NORM = 0.15, 0.7, 0.02, 0.3
RATES = {"adam": 1e-2, "sgd": 1e-1}  # Adam hides a factor of the gradient, plain descent does not
SPECS = {
    "continuous": Spec(((3,), (2,)), ActionSpec(2)),
    "discrete": Spec(((4,),), ActionSpec(0, (3, 2))),
    "hybrid": Spec(((3,), (2,)), ActionSpec(1, (2, 3))),
}
NUMBERS = {"extrinsic": (2.0, 0.9), "curious": (0.5, 0.6)}  # strength and gamma
LAMBDA, HORIZON = 0.8, 4


def playable(seed, spec):
    """A rollout in which some choices are forbidden, those taken excepted."""
    rollout = examples.rollout(seed, 6, 2, spec=spec)
    taken = [
        nn.functional.one_hot(choice, size).bool()
        for choice, size in zip(rollout.action.discrete.unbind(-1), spec.action.branches)
    ]
    if not taken:
        return rollout
    some = examples.normal(seed + 90, *rollout.action_mask.shape) > -0.5
    return rollout._replace(action_mask=some | torch.cat(taken, -1))


def plain_iteration(module, optimizer, normalizers, rollout, joint, clipped, clip_norm):
    """One epoch of one minibatch, written out. Returns the loss's three parts."""
    steps, columns = rollout.mask.shape
    for t, b in itertools.product(range(steps), range(columns)):
        for normalizer, x in zip(normalizers, rollout.obs):
            if rollout.mask[t, b]:
                normalizer.rows.append(x[t, b])

    def seen(obs, t, b):
        return torch.cat([normalizer(x[t, b]) for normalizer, x in zip(normalizers, obs)])

    rows = [(t, b) for t in range(steps) for b in range(columns) if rollout.mask[t, b]]
    old, advantage = {}, dict.fromkeys(rows, 0.0)
    for name, (strength, gamma) in NUMBERS.items():
        for b in range(columns):
            with torch.no_grad():
                values = [module.values(seen(rollout.obs, t, b))[name] for t in range(steps)]
                nexts = [module.values(seen(rollout.next_obs, t, b))[name] for t in range(steps)]
            rewards = rollout.rewards[:, b]
            rewards = strength * (rewards.square() if name == "curious" else rewards)
            flags = rollout.terminated[:, b], rollout.truncated[:, b], rollout.mask[:, b]
            column = plain_ppo.plain_gae(rewards, values, nexts, *flags, gamma, LAMBDA, HORIZON)
            for t in range(steps):
                old[name, t, b] = values[t], values[t] + column[t]
                if (t, b) in advantage:
                    advantage[t, b] += column[t] / len(NUMBERS)
    spread = torch.stack(list(advantage.values())).std(unbiased=False)
    mean = sum(advantage.values()) / len(rows)

    policy_loss = value_loss = entropy = 0.0
    for t, b in rows:
        obs = seen(rollout.obs, t, b)
        action, allowed = tree.take(rollout.action, (t, b)), rollout.action_mask[t, b]
        log_probs, spread_of_row = module.log_probs_and_entropy(obs, *action, allowed)
        normalised = (advantage[t, b] - mean) / spread
        policy_loss += plain_ppo.plain_policy_loss(
            log_probs, rollout.log_prob[t, b], normalised, CLIP, joint
        ) / len(rows)
        entropy += spread_of_row / len(rows)
        for name, value in module.values(obs).items():
            loss = plain_ppo.plain_value_loss(value, *old[name, t, b], CLIP, clipped)
            value_loss += loss / len(rows) / len(NUMBERS)
    optimizer.zero_grad()
    (policy_loss + VALUE_COEF * value_loss - ENTROPY_COEF * entropy).backward()
    if clip_norm:
        nn.utils.clip_grad_norm_(module.parameters(), MAX_NORM)
    optimizer.step()
    return {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}


SURROGATES = {
    "per dimension": losses.clipped_surrogate_per_dimension,
    "joint": losses.clipped_surrogate,
}
VALUE_LOSSES = {
    "clipped": losses.trust_region_value_loss,
    "squared": losses.squared_value_loss,
}


@pytest.mark.parametrize("descent", RATES)
@pytest.mark.parametrize("value_loss", VALUE_LOSSES)
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("spec", SPECS)
def test_three_iterations_move_the_parameters_as_plain_pytorch_does(
    spec, surrogate, value_loss, descent
):
    spec, clip_norm = SPECS[spec], descent == "adam"
    chain = transforms.chain(transforms.clip_by_global_norm(MAX_NORM), transforms.scale_by_adam())
    learner = ppo(
        actor_critic(spec, tuple(NUMBERS), hidden_units=5, num_layers=1),
        spec,
        learning_rate=RATES[descent],
        clip_range=CLIP,
        entropy_coef=ENTROPY_COEF,
        value_coef=VALUE_COEF,
        transform=chain if clip_norm else transforms.scale(1.0),
        surrogate=SURROGATES[surrogate],
        value_loss=VALUE_LOSSES[value_loss],
        normalize=True,
    )
    signals = {name: extrinsic(strength=c, gamma=gamma) for name, (c, gamma) in NUMBERS.items()}
    signals["curious"] = signals["curious"]._replace(
        evaluate=lambda state, rollout: rollout.rewards.square()
    )
    one = iteration(
        learner, signals, gae_lambda=LAMBDA, time_horizon=HORIZON, num_epochs=1, batch_size=12
    )
    state = one.init(random.key(11))
    start = state.learner.params.weights
    module = plain_ppo.PlainActorCritic(spec, tuple(NUMBERS), 5)
    module.load(start)
    build = torch.optim.Adam if descent == "adam" else torch.optim.SGD
    optimizer = build(module.parameters(), lr=RATES[descent])
    normalizers = [plain_ppo.PlainNormalizer() for _ in spec.obs]
    for k in range(3):
        rollout = playable(7 * k, spec)
        state, stats = one.update(state, rollout)
        plain_stats = plain_iteration(
            module,
            optimizer,
            normalizers,
            rollout,
            surrogate == "joint",
            value_loss == "clipped",
            clip_norm,
        )
        for name, expected in plain_stats.items():
            torch.testing.assert_close(stats[name], expected.detach(), rtol=1e-4, atol=1e-5)
    ours = tree.map(torch.sub, state.learner.params.weights, start)
    plains = tree.map(torch.sub, module.weights(), start)
    chex.assert_trees_all_close(ours, plains, rtol=0, atol=1e-5)
    assert min(tree.leaves(tree.map(lambda d: d.abs().max(), ours))) > 1e-4
