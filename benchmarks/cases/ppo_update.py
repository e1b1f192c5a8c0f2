"""One PPO update of one minibatch."""

from collections.abc import Iterator
from functools import partial

from benchmarks.harness import Ours, Peer, Task
from benchmarks.ours import STREAM, ppo_batch, updating
from benchmarks.timing import Call
from optinfra import random
from optinfra.learners import ppo
from optinfra.lift import compiled
from optinfra.lift.epochs import Stage, unlifted
from optinfra.networks import ActorCritic, actor_critic
from optinfra.types import ActionSpec, Spec

ROWS = (1024, 64)
OBS, ACTIONS, UNITS = 32, 4, 128
SPEC = Spec(obs=((OBS,),), action=ActionSpec(continuous=ACTIONS))


def tasks(quick: bool) -> Iterator[Task]:
    """All peers on both sizes."""
    del quick
    for rows in ROWS:
        sizes = {"rows": rows, "obs": OBS, "actions": ACTIONS, "units": UNITS}
        yield Task(
            f"{rows:,} rows",
            ours=[
                Ours("compiled", partial(update, rows, compiled)),
                Ours("eager", partial(update, rows, unlifted)),
            ],
            peers=[
                Peer("ML-Agents", "mlagents:ppo_update", sizes),
                Peer("TorchRL", "torchrl:ppo_update", sizes),
                Peer("SB3", "stable_baselines3:ppo_update", sizes),
                Peer("JAX", "jax:ppo_update", sizes),
            ],
        )


def network() -> ActorCritic:
    """The actor and critic of this case."""
    return actor_critic(SPEC, (STREAM,), hidden_units=UNITS)


def update(rows: int, stage: Stage) -> Call:
    """Update with everything that training has: stats, and steps skipped where not finite."""
    learner = ppo(network(), SPEC)
    return updating(stage(learner.update), learner.init(random.key(0)), ppo_batch(SPEC, rows))
