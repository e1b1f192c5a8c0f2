"""Every kind of observation, with and without memory, for every trainer and kind of action."""

from itertools import combinations, product
from typing import NamedTuple

import pytest
import torch

from optinfra import networks, random, testing, transforms, tree
from optinfra.learners import poca, ppo, sac
from optinfra.types import ActionSpec, Learner, Spec
from tests import examples, group_cases

M = 6
OBSERVATIONS = {
    "vector": {"obs": ((3,), (2,))},
    "image": {"obs": ((2, 6, 7), (3,)), "bytes": (0,)},
    "set": {"obs": ((4, 3), (2,))},
    "goal": {"obs": ((3,), (2,)), "goals": (1,)},
    "all at once": {
        "obs": ((2, 6, 6), (4, 3), (2,), (2, 6, 6), (3,), (2, 2), (2, 6, 6)),
        "goals": (4, 6),
        "bytes": (0, 6),
    },
}
ACTIONS = {
    "continuous": ActionSpec(2),
    "discrete": ActionSpec(branches=(3, 2)),
    "hybrid": ActionSpec(2, (3,)),
}
TRAINERS = ("ppo", "sac", "poca")
FACTORS = (tuple(OBSERVATIONS), (False, True), TRAINERS, tuple(ACTIONS))
# Found by taking, again and again, a row with the most pairs that no row before has.
ROWS = [
    ("vector", False, "ppo", "continuous"), ("vector", True, "sac", "discrete"),
    ("image", False, "poca", "discrete"), ("image", True, "ppo", "hybrid"),
    ("set", False, "sac", "hybrid"), ("set", True, "poca", "continuous"),
    ("goal", False, "ppo", "discrete"), ("goal", True, "sac", "continuous"),
    ("all at once", False, "sac", "continuous"), ("all at once", True, "poca", "hybrid"),
    ("vector", False, "poca", "hybrid"), ("image", False, "sac", "continuous"),
    ("set", False, "ppo", "discrete"), ("goal", False, "poca", "hybrid"),
    ("all at once", False, "ppo", "discrete"),
]  # fmt: skip

# Every choice of every factor is in one of these, which do in a quarter of the time.
GATE = [
    ("vector", True, "sac", "discrete"), ("image", True, "ppo", "hybrid"),
    ("set", True, "poca", "continuous"), ("goal", False, "ppo", "discrete"),
]  # fmt: skip


class Chosen(NamedTuple):
    """One choice of each factor, and a learner of it."""

    spec: Spec
    memory: bool
    trainer: str
    learner: Learner

    def batch(self, k: int):
        leading, spec = (3, 4), self.spec
        if self.trainer == "sac":
            size = M if self.memory else None
            rows = leading if self.memory else (7,)
            return examples.soft_batch(100 * k, *rows, spec=spec, memory_size=size)
        if self.trainer == "poca" and self.memory:
            return group_cases.sequences(100 * k, *leading, spec=spec)
        if self.trainer == "poca":
            return group_cases.batch(100 * k, 7, spec=spec)
        if self.memory:
            return examples.sequences(100 * k, *leading, M, spec=spec)
        return examples.batch(100 * k, 7, spec=spec)

    def arguments(self, k: int) -> tuple:
        return self.learner.init(random.key(k)), self.batch(k)


def chosen(observations: str, memory: bool, trainer: str, actions: str) -> Chosen:
    spec = Spec(action=ACTIONS[actions], **OBSERVATIONS[observations])
    sizes = {
        "hidden_units": 8,
        "num_layers": 1,
        "encoding": networks.Encoding("match3"),
        **({"memory_size": M} if memory else {}),
    }
    # The bias of attention's keys has no slope but rounding, of which Adam makes whole steps.
    options = {"normalize": True, "transform": transforms.scale_by_adam(eps=1e-3)}
    if trainer == "sac":
        made = sac(networks.soft_actor_critic(spec, **sizes), spec, **options)
    elif trainer == "poca":
        made = poca(networks.group_actor_critic(spec, **sizes), spec, **options)
    else:
        build = networks.recurrent_actor_critic if memory else networks.actor_critic
        made = ppo(build(spec, **sizes), spec, **options)
    return Chosen(spec, memory, trainer, made)


def test_every_pair_of_choices_is_in_a_row():
    for i, j in combinations(range(len(FACTORS)), 2):
        there = {(row[i], row[j]) for row in ROWS}
        assert set(product(FACTORS[i], FACTORS[j])) - there == set()


def named(row):
    return "-".join(map(str, row)).replace(" ", "_")


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=named(row), marks=[] if row in GATE else pytest.mark.thorough)
     for row in ROWS],
)  # fmt: skip
def test_a_row_of_choices_acts_updates_lifts_and_compiles(row):
    one = chosen(*row)
    state, batch = one.arguments(0)
    state = one.learner.observe(state, batch.obs, batch.mask)
    after, stats = one.learner.update(state, batch)
    assert all(x.isfinite().all() for x in tree.leaves((after, stats)))
    moved = {name for name, w in after.params.weights.items()
             if not torch.equal(w, state.params.weights[name])}  # fmt: skip
    assert {name.partition(".")[0] for name in moved} >= {"actor"}
    assert any(".encoder." in name for name in moved) == (row[0] in ("image", "set", "all at once"))
    memory = examples.normal(5, *batch.mask.shape, M) if one.memory else ()
    act = one.learner.act(after.params, batch.obs, memory, random.key(1))
    assert act.log_prob.shape[: batch.mask.ndim] == batch.mask.shape
    testing.assert_pure(one.learner.update, state, batch)
    testing.assert_lifts(one.learner.update, *(one.arguments(k) for k in range(3)), atol=2e-5)
    following = iter([one.arguments(1), one.arguments(2)])
    testing.assert_compiles_once(
        one.learner.update,
        *one.arguments(0),
        advance=lambda result, _: testing.advance_state(result, next(following)),
    )
