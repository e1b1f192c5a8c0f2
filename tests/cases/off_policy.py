"""Contract cases of `optinfra.off_policy`."""

from optinfra.off_policy import Minibatch, OffPolicyState, no_reward_of
from tests import examples
from tests import off_policy_cases as cases
from tests.contracts import Case

ONE = cases.composed()
REMEMBERING = cases.remembering(batch_size=6, num_signal_updates=2)


def rollout(k: int):
    return examples.rollout(100 * k, 5, 2)._replace(memory=examples.normal(k, 5, 2, cases.M))


def state(one, k: int) -> OffPolicyState:
    """In which everything is in motion: what is 0 or 1 at the start no longer is."""
    return one.observe(one.init(examples.key(k)), rollout(k + 5))[0]


def judged(k: int):
    return ONE.init(examples.key(k)).signals["it"], Minibatch(cases.steps(100 * k, 4))


CASES = {
    "no_reward_of": Case(no_reward_of, judged),
    "off_policy.init": Case(ONE.init, lambda k: (examples.key(k),)),
    "off_policy.observe": Case(ONE.observe, lambda k: (state(ONE, k), rollout(k)), step=True),
    "off_policy.observe recurrent": Case(
        REMEMBERING.observe, lambda k: (state(REMEMBERING, k), rollout(k)), step=True
    ),
    "off_policy.update": Case(
        ONE.update, lambda k: (state(ONE, k), cases.view(100 * k)), step=True
    ),
    "off_policy.update recurrent": Case(
        REMEMBERING.update,
        lambda k: (state(REMEMBERING, k), cases.view_to_remember(100 * k)),
        step=True,
    ),
    "off_policy.update_signals": Case(
        ONE.update_signals, lambda k: (state(ONE, k), cases.view(100 * k)), step=True
    ),
    "off_policy.update_signals recurrent": Case(
        REMEMBERING.update_signals,
        lambda k: (state(REMEMBERING, k), cases.view_to_remember(100 * k)),
        step=True,
    ),
}
