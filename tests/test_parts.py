"""Modules as pure functions: what they share, and the constants they take along."""

import pytest
import torch
from torch import nn
from torch.func import grad

from optinfra import networks, random, tree
from optinfra.learners import ppo
from optinfra.signals import gail, rnd
from optinfra.types import ActionSpec, Spec
from tests import examples, own_networks
from tests.examples import normal

KEY = random.key(5)
STREAMS = ("extrinsic", "novelty")
ACTION = ActionSpec(2, (3, 2))


def test_a_module_that_two_parts_share_is_one_and_learns_from_both():
    torso, spec = nn.Linear(3, 4), Spec(((3,),), ACTION)

    class First(nn.Module):
        def forward(self, obs):
            return obs[0]

    def over(head):
        return nn.Sequential(First(), torso, head)

    actor, critic = networks.PolicyHead(4, ACTION), networks.ValueHeads(4, STREAMS)
    network = networks.separate(over(actor), over(critic))
    weights, obs = network.init(KEY), (normal(1, 5, 3),)
    assert [n for n in weights if ".1." in n] == ["actor.1.weight", "actor.1.bias"]
    encoding = obs[0] @ weights["actor.1.weight"].T + weights["actor.1.bias"]
    for stream in STREAMS:
        w, b = (weights[f"critic.2.heads.{stream}.{part}"] for part in ("weight", "bias"))
        expected = (encoding @ w.T + b)[:, 0]
        torch.testing.assert_close(network.values(weights, obs)[stream], expected)

    def total(weights, of_policy, of_values):
        outputs, values = network.policy_and_values(weights, obs)
        return of_policy * outputs.logits.sin().sum() + of_values * values["novelty"].sin().sum()

    apart = [grad(total)(weights, *each)["actor.1.weight"] for each in ((1.0, 0.0), (0.0, 1.0))]
    both = grad(total)(weights, 1.0, 1.0)["actor.1.weight"]
    assert all(x.any() for x in apart)
    torch.testing.assert_close(both, sum(apart))
    assert ppo(network, spec).init(KEY).params.weights.keys() == weights.keys()


def test_weights_that_are_tied_within_a_module_are_drawn_once():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    weights = networks.draw(module)(KEY)
    assert set(weights) == {"0.weight", "0.bias", "1.bias"}
    x = normal(1, 2, 4)
    expected = (x @ weights["0.weight"].T + weights["0.bias"]) @ weights["0.weight"].T
    ours = networks.whole(module)(weights, x)
    torch.testing.assert_close(ours, expected + weights["1.bias"])


def test_networks_of_sac_share_nothing_for_each_target_follows_its_own():
    one = own_networks.Values(5, STREAMS, squeezed=False)
    actor = own_networks.Policy(5, ACTION, by_state=True)
    with pytest.raises(ValueError, match="`q2` must have parameters of its own, got one of `q1`"):
        networks.separate_soft(ACTION, actor, [one, one])
    with pytest.raises(ValueError, match=r"`len\(critics\)` must lie in \[1, inf\), got 0"):
        networks.separate_soft(ACTION, actor, [])


class Shifted(nn.Module):
    """Takes a mean off that it never learns."""

    def __init__(self, mean):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("mean", mean)

    def forward(self, x):
        return self.layer(x - self.mean)


@pytest.mark.parametrize("call", ["whole", "part"])
def test_buffers_are_constants_and_go_where_the_parameters_are(call):
    mean = torch.tensor([1.0, 2.0, 3.0])
    module = Shifted(mean)
    parts = nn.ModuleDict({"it": module})
    function = networks.whole(module) if call == "whole" else networks.part(parts, "it")
    weights = networks.draw(module if call == "whole" else parts)(KEY)
    assert not any("mean" in name for name in weights)
    x = normal(1, 4, 3)
    w, b = weights.values()
    torch.testing.assert_close(function(weights, x), (x - mean) @ w.T + b)
    described = function({n: w.to("meta") for n, w in weights.items()}, x.to("meta"))
    assert described.is_meta and not module.mean.is_meta and torch.equal(module.mean, mean)


def test_rnd_and_gail_take_buffers_along():
    def make(shape, hidden_units):
        return nn.Sequential(Shifted(torch.ones(3)), nn.Linear(2, hidden_units))

    spec = Spec(((3,),), ActionSpec(1))
    encoding, rows = networks.Encoding(encoder=make), examples.transitions(1, 6, spec=spec)
    elsewhere = tree.map(lambda x: x.to("meta"), rows)
    for signal in (rnd(spec, encoding=encoding), gail(spec, rows, encoding=encoding)):
        assert signal.evaluate(
            tree.map(lambda x: x.to("meta"), signal.init(KEY)), elsewhere
        ).is_meta
