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


# Tracing these takes as long as all others together. What is like them stays in the gate: of
# every learner an `init` or an `update`, with memory and without.
LONG_TO_TRACE = {
    "networks.actor_critic.policy_and_values of every kind",
    "learners.poca.act of sequences",
    "learners.poca.rollout_values of rows",
    "learners.poca.trajectory_values of sequences",
    "learners.poca.update of rows",
    "learners.ppo.update gru, burn-in",
    "learners.sac.update without values, masked",
    "off_policy.off_policy.update",
    "signals.curiosity.update normalised",
    "signals.gail.update vail, actions, normalised",
    "iteration.iteration.init",
    "iteration.iteration.init recurrent",
    "iteration.iteration.update",
    "iteration.iteration.update recurrent",
    "learners.poca.init of rows",
    "learners.poca.init of sequences",
    "learners.sac.init hybrid",
    "learners.sac.init lstm",
    "learners.sac.update continuous",
    "learners.sac.update discrete",
    "learners.sac.update lstm with resets",
    "learners.sac.update lstm without values, one critic, resets",
    "learners.sac.update with a pair of normed critics",
    "lift.cloning_epochs.update",
    "lift.epochs.update",
    "networks.actor_critic.init of every kind",
    "networks.group_actor_critic.init lstm",
    "networks.recurrent_actor_critic.init",
    "networks.shared_actor_critic.init of every kind",
    "networks.shared_recurrent_actor_critic.init",
    "networks.soft_actor_critic.init forgetting",
    "networks.soft_actor_critic.init forgetting, without values, normed",
    "networks.soft_actor_critic.init lstm",
    "off_policy.off_policy.init",
    "off_policy.off_policy.update recurrent",
    "signals.curiosity.init normalised",
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
