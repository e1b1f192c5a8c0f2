"""One PPO update of one minibatch of images, and the memory it takes."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.harness import Ours, Peer, Task, summary
from benchmarks.interpreters import MissingPeer, Worker, interpreter_of
from benchmarks.ours import STREAM, ppo_batch, updating
from benchmarks.timing import Call
from optinfra import random
from optinfra.learners import ppo
from optinfra.lift import compiled
from optinfra.lift.epochs import Stage, unlifted
from optinfra.networks import actor_critic
from optinfra.types import ActionSpec, Spec

ROWS, SHAPE, ACTIONS, UNITS = 256, (3, 84, 84), 4, 128
SPEC = Spec(obs=(SHAPE,), action=ActionSpec(continuous=ACTIONS))
SIZES = {"rows": ROWS, "shape": list(SHAPE), "actions": ACTIONS, "units": UNITS}
PEER = "mlagents:ppo_update_of_images"
STAGES = {"compiled": compiled, "eager": unlifted}
PROCESSES = 3  # of each side, whose memory is compared
CALLS = 10


def tasks(quick: bool) -> Iterator[Task]:
    """The `simple` encoder, in an actor and a critic of their own."""
    del quick
    yield Task(
        f"{ROWS} images of {'×'.join(map(str, SHAPE))}",
        ours=[Ours(name, partial(update, stage)) for name, stage in STAGES.items()],
        peers=[Peer("ML-Agents", PEER, SIZES)],
    )


def remarks(quick: bool) -> Iterator[str]:
    """Tell the largest memory of whole processes that update over and over, warm."""
    count = 1 if quick else PROCESSES
    here = __name__
    try:
        library, _, function = PEER.partition(":")
        interpreter, place = interpreter_of(library), f"benchmarks.peers.{library}:{function}"
        theirs = [peak(interpreter, place, SIZES) for _ in range(count)]
    except MissingPeer as reason:
        yield f"memory: not compared with ML-Agents: {reason}"
        return
    for name in STAGES:
        ours = [peak(sys.executable, f"{here}:update_by_name", {"name": name}) for _ in theirs]
        ratios = summary([a / b for a, b in zip(ours, theirs)])
        yield (
            f"largest memory of a process, {name}: {summary(ours).median:.0f} MiB, of ML-Agents' "
            f"{summary(theirs).median:.0f}: {ratios.median:.2f} ({ratios.low:.2f} – "
            f"{ratios.high:.2f})"
        )


def update(stage: Stage) -> Call:
    """Update with everything that training has."""
    learner = ppo(actor_critic(SPEC, (STREAM,), hidden_units=UNITS), SPEC)
    return updating(stage(learner.update), learner.init(random.key(0)), ppo_batch(SPEC, ROWS))


def update_by_name(*, name: str) -> Callable[[], Any]:
    """Update, as a worker asks for it."""
    return update(STAGES[name])


def peak(interpreter: str, place: str, arguments: dict[str, Any]) -> float:
    """Measure the largest memory, MiB, of a process that does nothing but these calls, warm."""
    worker = Worker(interpreter, threads=None)
    try:
        number = worker.prepare(place, arguments)["number"]
        return worker.peak_mebibytes(number, CALLS)
    finally:
        worker.close()
