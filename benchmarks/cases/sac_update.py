"""One SAC update of one minibatch: rows, sequences, and rows drawn from replay."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import Ours, Peer, Task
from benchmarks.ours import STREAM, sac_batch, transitions, updating
from benchmarks.timing import Call
from optinfra import random, replay, tree
from optinfra.learners import sac
from optinfra.lift import compiled
from optinfra.lift.epochs import Stage, unlifted
from optinfra.networks import soft_actor_critic, swish
from optinfra.store import ReplayStore
from optinfra.types import ActionSpec, Key, Learner, Memories, PyTree, Spec

ROWS, SEQUENCES, LENGTH, MEMORY = 256, 16, 64, 128
HELD = 10_000  # rows to draw from
RESETS = 0.02  # share of the steps where an episode begins, in the row that has them


class Nets(NamedTuple):
    """What learns."""

    obs: int
    actions: int
    units: int
    activation: str  # as `torch.nn` calls it

    @property
    def spec(self) -> Spec:
        """Sizes of observations and actions."""
        return Spec(obs=((self.obs,),), action=ActionSpec(continuous=self.actions))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"SiLU": swish, "ReLU": torch.relu}
ML_AGENTS = Nets(obs=32, actions=4, units=128, activation="SiLU")
SB3 = Nets(obs=3, actions=1, units=256, activation="ReLU")  # its defaults, on Pendulum


def tasks(quick: bool) -> Iterator[Task]:
    """Rows with the nets of ML-Agents and of SB3, then sequences."""
    del quick
    for nets in (ML_AGENTS, SB3):
        yield Task(
            f"{ROWS} rows, obs {nets.obs}, {nets.actions} continuous actions, 2×{nets.units} "
            f"{nets.activation}; SB3 draws its rows, and has two target Qs instead of V",
            ours=[
                Ours("compiled", partial(update, nets, compiled)),
                Ours("compiled, rows drawn", partial(drawing, nets, compiled)),
                Ours("eager", partial(update, nets, unlifted)),
            ],
            peers=list(peers(nets)),
        )
    yield Task(
        f"{SEQUENCES} sequences of {LENGTH}, LSTM of memory {MEMORY}",
        ours=[
            Ours("compiled", partial(on_sequences, compiled)),
            Ours(f"compiled, {RESETS:.0%} of steps reset", partial(on_sequences, compiled, RESETS)),
            Ours("eager", partial(on_sequences, unlifted)),
        ],
        peers=[ml_agents(rows=SEQUENCES * LENGTH, sequence=LENGTH, memory=MEMORY)],
    )


def peers(nets: Nets) -> Iterator[Peer]:
    """ML-Agents with nets of its own, SB3 with any."""
    if nets is ML_AGENTS:
        yield ml_agents(rows=ROWS)
    yield Peer("SB3", "stable_baselines3:sac_update", nets._asdict() | {"rows": ROWS, "held": HELD})


def ml_agents(**sizes: Any) -> Peer:
    """ML-Agents on so many rows; it knows no activation but its own."""
    own = ML_AGENTS._asdict()
    del own["activation"]
    return Peer("ML-Agents", "mlagents:sac_update", own | sizes)


def learner(nets: Nets, memory: int | None = None) -> Learner:
    """SAC with ML-Agents' defaults: V and its target beside two Qs."""
    network = soft_actor_critic(
        nets.spec,
        (STREAM,),
        hidden_units=nets.units,
        activation=ACTIVATIONS[nets.activation],
        memory_size=memory,
    )
    return sac(network, nets.spec)


def update(nets: Nets, stage: Stage) -> Call:
    """Update on rows that are at hand."""
    own = learner(nets)
    batch = sac_batch(transitions(nets.spec, ROWS))
    return updating(stage(own.update), own.init(random.key(0)), batch)


def drawing(nets: Nets, stage: Stage) -> Call:
    """Update on other rows each time."""
    own = learner(nets)
    held = transitions(nets.spec, HELD, 1)
    store = ReplayStore(tree.map(lambda x: x[0, 0], held), capacity=HELD, lanes=1)
    store.add(held)

    def step(place: tuple[PyTree, Key], view: replay.View) -> tuple[PyTree, PyTree]:
        state, key = place
        key, key_rows = random.split(key).unbind()
        state, stats = own.update(state, sac_batch(replay.sample(view, key_rows, ROWS)))
        return (state, key), stats

    start = own.init(random.key(0)), random.key(1)
    return updating(stage(step), start, store.view())


def on_sequences(stage: Stage, resets: float = 0.0) -> Call:
    """Update on sequences, as an AgentBuffer gives them or with resets inside."""
    own = learner(ML_AGENTS, MEMORY)
    batch = sac_batch(transitions(ML_AGENTS.spec, SEQUENCES, LENGTH))._replace(
        memory=Memories(*(0.1 * torch.randn(SEQUENCES, MEMORY) for _ in range(2))),
        reset=torch.rand(SEQUENCES, LENGTH) < resets if resets else (),
    )
    return updating(stage(own.update), own.init(random.key(0)), batch)
