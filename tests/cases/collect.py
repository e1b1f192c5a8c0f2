"""Contract cases of the collector on tensor environments."""

from optinfra import random
from optinfra.envs import cartpole, pendulum
from optinfra.train.collect import collector
from tests import examples
from tests.contracts import Case

ENVS = {"cartpole": cartpole(time_limit=2), "pendulum": pendulum(time_limit=2)}
STEPS = {"cartpole": 2, "pendulum": 1}  # few: tracing them is what takes time
LEARNERS = {name: examples.learner(env.spec) for name, env in ENVS.items()}
COLLECTORS = {
    name: collector(env, LEARNERS[name].act, num_envs=2, num_steps=STEPS[name])
    for name, env in ENVS.items()
}


def inputs(name):
    """The state a collector begins with, and parameters."""
    return lambda k: (
        COLLECTORS[name].init(random.key(k)),
        LEARNERS[name].init(random.key(k + 5)).params,
    )


CASES = {
    f"collector.init {name}": Case(collecting.init, lambda k: (random.key(k),))
    for name, collecting in COLLECTORS.items()
} | {
    f"collector.collect {name}": Case(collecting.collect, inputs(name), step=True)
    for name, collecting in COLLECTORS.items()
}
