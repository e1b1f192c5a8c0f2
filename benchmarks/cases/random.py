"""Random numbers: the same bits as `jax.random`."""

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from benchmarks.harness import Ours, Peer, Task
from benchmarks.timing import Call
from optinfra import random
from optinfra.lift import compiled
from optinfra.lift.epochs import Stage, unlifted
from optinfra.types import Key

SHAPES = ((64, 4), (1024, 64))
QUICK_SHAPES = ((8, 2),)


def tasks(quick: bool) -> Iterator[Task]:
    """Each kind of draw at each size; `split` makes as many keys as there are rows."""
    for shape in QUICK_SHAPES if quick else SHAPES:
        draws: dict[str, Callable[[Key], Tensor]] = {
            "uniform": partial(random.uniform, shape=shape),
            "normal": partial(random.normal, shape=shape),
            "split": partial(random.split, num=shape[0]),
        }
        for name, draw in draws.items():
            sizes = {"draw": name, "shape": list(shape)}
            yield Task(
                f"{name}, {shape[0] if name == 'split' else f'{shape[0]}×{shape[1]}'}",
                ours=[
                    Ours("compiled", partial(drawing, draw, compiled)),
                    Ours("eager", partial(drawing, draw, unlifted)),
                ],
                peers=[Peer("JAX", "jax:random", sizes)],
            )


def drawing(draw: Callable[[Key], Tensor], stage: Stage) -> Call:
    """Draw with one key, always the same."""
    return partial(stage(lambda key: draw(key)), random.key(0))
