"""Contract cases of the collector on tensor environments of groups."""

from optinfra import random
from optinfra.envs import GroupTransition, escape
from optinfra.train.collect_groups import Acting, group_collector, recorded
from optinfra.types import Act
from tests import examples, group_cases
from tests.contracts import Case
from tests.examples import normal

ENV = escape(agents=2, rows=1, columns=3, time_limit=2)
LEARNER = group_cases.learner(memory_size=4, spec=ENV.spec)
COLLECTOR = group_collector(
    ENV,
    LEARNER.act,
    num_envs=2,
    num_steps=1,
    remember=lambda rows, device: LEARNER.memories(rows, device).actor,
)
GROUPS, AGENTS = 2, 3


def step(k):
    """What groups acted on, what they did, and what followed."""
    rows = (GROUPS, AGENTS)
    seen = [[normal(k + i + j, *rows, *s) for j, s in enumerate(examples.SPEC.obs)]
            for i in (0, 70, 75)]  # fmt: skip
    obs, next_obs, first = map(tuple, seen)
    action = examples.action(k + 10, rows)
    act = Act(action, examples.executed(action), normal(k + 20, *rows, 4), normal(k + 30, *rows, 6))
    flags = [normal(k + 40 + i, *rows) > 0 for i in range(3)]
    ends = [normal(k + 50 + i, GROUPS) > 0 for i in range(2)]
    paid = normal(k + 60, *rows), normal(k + 61, GROUPS)
    then = GroupTransition(first, flags[0], next_obs, flags[1], *paid, *ends)
    return Acting(obs, flags[2], act.memory + 1), act, then


CASES = {
    "group_collector.init": Case(COLLECTOR.init, lambda k: (random.key(k),)),
    "group_collector.collect": Case(
        COLLECTOR.collect,
        lambda k: (COLLECTOR.init(random.key(k)), LEARNER.init(random.key(k + 5)).params),
        step=True,
    ),
    "recorded": Case(lambda *rows: recorded(examples.SPEC, *rows), step, step=True),
}
