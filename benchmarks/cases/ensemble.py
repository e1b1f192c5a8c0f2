"""One PPO update of many members, each with its own parameters and rows."""

from collections.abc import Iterator
from functools import partial

from benchmarks.harness import Ours, Peer, Task
from benchmarks.ours import STREAM, ppo_batch, updating
from benchmarks.timing import Call
from optinfra import lift, random
from optinfra.learners import ppo
from optinfra.networks import actor_critic, tanh
from optinfra.transforms import (
    chain,
    clip_by_global_norm,
    raveled,
    scale_by_adam,
    skip_nonfinite,
)
from optinfra.types import ActionSpec, Spec

MEMBERS = (1, 16, 64, 256)
QUICK_MEMBERS = (2,)
ROWS, OBS, ACTIONS, UNITS = 128, 4, 2, 64
SPEC = Spec(obs=((OBS,),), action=ActionSpec(branches=(ACTIONS,)))


def tasks(quick: bool) -> Iterator[Task]:
    """Four sizes of the ensemble, or a tiny one."""
    sizes = {"rows": ROWS, "obs": OBS, "actions": ACTIONS, "units": UNITS}
    for members in QUICK_MEMBERS if quick else MEMBERS:
        yield Task(
            f"{members} member{'s' if members > 1 else ''}",
            ours=[Ours("compiled(ensemble)", partial(update, members))],
            peers=[Peer("JAX jit(vmap)", "jax:ensemble", sizes | {"members": members})],
        )


def update(members: int) -> Call:
    """Update all members at once."""
    descent = chain(clip_by_global_norm(0.5), scale_by_adam(eps=1e-5))
    transform = skip_nonfinite(raveled(descent))  # as the trainer has it
    learner = ppo(
        actor_critic(SPEC, (STREAM,), hidden_units=UNITS, activation=tanh),
        SPEC,
        learning_rate=2.5e-4,
        entropy_coef=0.01,
        transform=transform,
    )
    many = lift.ensemble(learner)
    state = many.init(random.split(random.key(0), members))
    return updating(lift.compiled(many.update), state, ppo_batch(SPEC, members, ROWS))
