"""Every case of every room keeps every contract."""

import importlib
import pkgutil

import pytest

import tests.cases
from tests import contracts

ROOMS = [module.name for module in pkgutil.iter_modules(tests.cases.__path__)]
CASES = {
    f"{room}.{name}": case
    for room in ROOMS
    for name, case in importlib.import_module(f"tests.cases.{room}").CASES.items()
}


# Tracing these takes five times as long as all others together. What is like them stays in the
# gate: of PPO, SAC, GAIL, RND and cloning an `update`, and in test_kinds one of POCA with memory.
LONG_TO_TRACE = {
    "collect.collector.collect cartpole",
    "collect_groups.group_collector.collect",
    "envs.autoreset nearest",
    "envs.nearest.reset",
    "envs.nearest.step",
    "imitation.behavioral_cloning.update with memory",
    "iteration.iteration.init",
    "iteration.iteration.init recurrent",
    "iteration.iteration.update",
    "iteration.iteration.update recurrent",
    "learners.poca.act of rows",
    "learners.poca.act of sequences",
    "learners.poca.greedy of rows",
    "learners.poca.init of rows",
    "learners.poca.init of sequences",
    "learners.poca.observe of rows",
    "learners.poca.rollout_values of rows",
    "learners.poca.rollout_values of sequences",
    "learners.poca.trajectory_values of rows",
    "learners.poca.trajectory_values of sequences",
    "learners.poca.update of rows",
    "learners.poca.update of sequences",
    "learners.ppo.act lstm",
    "learners.ppo.init",
    "learners.ppo.update continuous",
    "learners.ppo.update gru, burn-in",
    "learners.ppo.update lstm",
    "learners.ppo.update with a stream that failed",
    "learners.sac.act hybrid",
    "learners.sac.act lstm",
    "learners.sac.executed_log_prob lstm",
    "learners.sac.init hybrid",
    "learners.sac.init lstm",
    "learners.sac.rollout_values lstm",
    "learners.sac.rollout_values lstm without values, one critic, resets",
    "learners.sac.trajectory_values lstm",
    "learners.sac.trajectory_values lstm without values, one critic, resets",
    "learners.sac.update continuous",
    "learners.sac.update discrete",
    "learners.sac.update lstm",
    "learners.sac.update lstm with resets",
    "learners.sac.update lstm without values, one critic, resets",
    "learners.sac.update with a pair of normed critics",
    "learners.sac.update without values, masked",
    "learners.sac.values without values, masked",
    "lift.cloning_epochs.update",
    "lift.epochs.update",
    "networks.actor_critic.init",
    "networks.actor_critic.init of every kind",
    "networks.actor_critic.policy nature_cnn",
    "networks.actor_critic.policy resnet",
    "networks.actor_critic.policy_and_values of every kind",
    "networks.group_actor_critic.init lstm",
    "networks.group_actor_critic.policy forgetting",
    "networks.recurrent_actor_critic.init",
    "networks.recurrent_actor_critic.policy",
    "networks.recurrent_actor_critic.policy_and_values",
    "networks.shared_actor_critic.init",
    "networks.shared_actor_critic.init of every kind",
    "networks.shared_actor_critic.policy_and_values",
    "networks.shared_actor_critic.policy_and_values of every kind",
    "networks.shared_actor_critic.values of every kind",
    "networks.shared_recurrent_actor_critic.init",
    "networks.shared_recurrent_actor_critic.policy",
    "networks.shared_recurrent_actor_critic.policy_and_values",
    "networks.shared_recurrent_actor_critic.values",
    "networks.soft_actor_critic.init forgetting",
    "networks.soft_actor_critic.init forgetting, without values, normed",
    "networks.soft_actor_critic.init lstm",
    "networks.step_by_step recurrent_actor_critic",
    "networks.step_by_step shared_recurrent_actor_critic",
    "off_policy.off_policy.init",
    "off_policy.off_policy.observe recurrent",
    "off_policy.off_policy.update",
    "off_policy.off_policy.update recurrent",
    "off_policy.off_policy.update_signals",
    "off_policy.off_policy.update_signals recurrent",
    "signals.curiosity.init normalised",
    "signals.curiosity.update discrete",
    "signals.curiosity.update normalised",
    "signals.gail.init vail, actions, normalised",
    "signals.gail.update actions, normalised",
    "signals.gail.update vail, actions, normalised",
    "signals.rnd.init normalised",
}


def test_what_is_long_to_trace_is_there():
    assert set(CASES) >= LONG_TO_TRACE


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("contract", [contracts.assert_pure, contracts.assert_lifts])
def test_public_function_keeps_contract(name, contract):
    contract(CASES[name])


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.thorough] * (name in LONG_TO_TRACE)) for name in CASES],
)
def test_public_function_compiles_once(name):
    contracts.assert_compiles_once(CASES[name])
