"""Groups whose agents see images, sets and goals: each is read as if it were alone."""

import math

import pytest
import torch
from torch.func import functional_call, grad

from optinfra import networks, random, testing, tree
from optinfra.networks.observations import ObservationEncoder
from optinfra.types import ActionSpec, Spec
from tests import examples, group_cases

SIGHTS = Spec(
    ((2, 5, 6), (4, 3), (2,), (2, 5, 6), (3,)), ActionSpec(2, (3,)), goals=(4,), bytes=(0,)
)
LARGEST = torch.tensor(5.0)
WAYS = ("values", "baselines")
ENCODING = networks.Encoding("match3")
SIZES = {"hidden_units": 8, "num_layers": 1, "encoding": ENCODING}


def seen(seed=0):
    """A network, its parameters, and what five agents and their mates see."""
    network = networks.group_actor_critic(SIGHTS, **SIZES)
    mates = group_cases.mates(seed, 5, spec=SIGHTS)
    assert mates.present.any() and not mates.present.all()
    return (
        network,
        network.init(random.key(seed)),
        examples.observed(seed + 50, (5,), SIGHTS),
        mates,
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_critic_reads_each_agent_by_one_encoder_and_relates_what_it_read(way):
    """It is the critic of vectors, given what the encoder makes of each agent alone."""
    network, params, obs, mates = seen()
    own = "critic.encoder."
    encoder = ObservationEncoder(SIGHTS, 8, "match3")
    weights = {n.removeprefix(own): w for n, w in params.items() if n.startswith(own)}
    vectors = SIGHTS._replace(obs=((encoder.width,),), goals=(), bytes=())
    plain = networks.group_actor_critic(vectors, hidden_units=8, num_layers=1)
    rest = {n: w for n, w in params.items() if n.startswith("critic.") and not n.startswith(own)}

    def read(obs):
        """One agent after the other."""
        rows = [tree.take(obs, k) for k in range(len(obs[0]))]
        return torch.stack([functional_call(encoder, weights, (row,)).together for row in rows])

    alone = tuple(x.flatten(0, 1) for x in mates.obs)
    others = read(alone).unflatten(0, mates.present.shape)
    ours = getattr(network, way)(params, obs, mates, LARGEST, (), None)[0]
    given = (read(obs),), mates._replace(obs=(others,)), LARGEST, (), None
    theirs = getattr(plain, way)(plain.init(random.key(1)) | rest, *given)[0]
    testing.assert_trees_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not any("weights" in name for name in rest)  # goals make none here


@pytest.mark.parametrize("number", [math.nan, math.inf, 3e38])
def test_what_absent_mates_see_changes_no_value_and_no_slope(number):
    network, params, obs, mates = seen(3)
    spoiled = group_cases.with_absent(mates, number, 1)

    def judged(params, mates):
        values, baselines, _ = network.values_and_baselines(params, obs, mates, LARGEST, (), None)
        return values["extrinsic"], baselines["extrinsic"]

    def slopes(mates):
        return grad(lambda params: sum(x.sin().sum() for x in judged(params, mates)))(params)

    assert all(x.isfinite().all() for x in slopes(spoiled).values())
    testing.assert_trees_equal(judged(params, spoiled), judged(params, mates))
    testing.assert_trees_equal(slopes(spoiled), slopes(mates))


@pytest.mark.parametrize("i", range(len(SIGHTS.obs)))
def test_what_present_mates_see_is_seen_of_each_kind(i):
    network, params, obs, mates = seen(6)
    other = tuple(x + 1 if k == i else x for k, x in enumerate(mates.obs))
    for way in WAYS:
        judge = getattr(network, way)
        ours, changed = (
            judge(params, obs, mates._replace(obs=x), LARGEST, (), None)[0]["extrinsic"]
            for x in (mates.obs, other)
        )
        assert torch.equal(ours != changed, mates.present.any(-1))
