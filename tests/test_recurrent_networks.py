"""Policies and values that remember: their architecture, their draws, whose memory is whose."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optinfra import networks, random, tree
from optinfra.networks import step_by_step
from optinfra.testing import assert_memory_isolated, assert_trees_close, assert_trees_equal
from optinfra.types import ActionSpec, Memories, Spec
from tests import examples
from tests.plain_recurrent import PARTS, PlainRecurrent, normal

SPEC = examples.SPEC
M = 6
BUILDERS = {
    "separate": networks.recurrent_actor_critic,
    "shared": networks.shared_recurrent_actor_critic,
}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
KIND, BUILDER = st.sampled_from(["lstm", "gru"]), st.sampled_from(list(BUILDERS))
SEEDS = st.integers(0, 999)


def given_to(seed, steps=5, rows=3):
    """obs `[S, B, D_i]`, memories `[B, M]`, reset `[S, B]`."""
    obs = tuple(normal(seed + i, steps, rows, *shape) for i, shape in enumerate(SPEC.obs))
    memories = Memories(*(normal(seed + 5 + i, rows, M) for i in range(2)))
    return obs, memories, normal(seed + 7, steps, rows) > 0.5


@given(KIND, SEEDS, st.integers(1, 5))
def test_policy_and_values_are_a_body_then_a_layer_of_torchs_then_a_head(kind, seed, steps):
    network = examples.recurrent_network(cell=kind)
    params = network.init(random.key(seed))
    obs, memories, reset = given_to(seed, steps)
    plain = PlainRecurrent(SPEC, params, kind)
    outputs, actor = network.policy(params, obs, memories.actor, reset)
    values, critic = network.values(params, obs, memories.critic, reset)
    for b in range(3):
        seen = tuple(x[:, b] for x in obs)
        encodings, memory = plain.encodings("actor", seen, memories.actor[b], reset[:, b])
        expected = [plain.linear(f"actor.head.{part}", encodings) for part in ("mean", "logits")]
        assert_trees_close([outputs.mean[:, b], outputs.logits[:, b]], expected, **CLOSE)
        assert_trees_close(actor[b], memory, **CLOSE)
        encodings, memory = plain.encodings("critic", seen, memories.critic[b], reset[:, b])
        assert_trees_close(values["extrinsic"][:, b], plain.values(encodings), **CLOSE)
        assert_trees_close(critic[b], memory, **CLOSE)
    assert torch.equal(outputs.log_std, params["actor.head.log_std"].expand(steps, 3, 2))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_shared_network_is_two_of_the_same_weights_with_a_memory_each(kind):
    shared = examples.recurrent_network(networks.shared_recurrent_actor_critic, cell=kind)
    params = shared.init(random.key(0))

    def separate_name(name):
        part, rest = name.split(".", 1)
        if part == "encoder":
            return [f"actor.{rest}", f"critic.{rest}"]
        return [f"{part}.head.{rest}"]

    same = {new: x for name, x in params.items() for new in separate_name(name)}
    separate = examples.recurrent_network(cell=kind)
    assert same.keys() == separate.init(random.key(0)).keys()
    obs, memories, reset = given_to(3)
    for call in ("policy", "values", "values_and_memories"):
        memory = memories.actor if call == "policy" else memories.critic
        ours = getattr(shared, call)(params, obs, memory, reset)
        assert_trees_equal(ours, getattr(separate, call)(same, obs, memory, reset))


@given(BUILDER, KIND, SEEDS)
def test_both_together_are_each_with_its_own_memory(build, kind, seed):
    network = examples.recurrent_network(BUILDERS[build], cell=kind)
    params = network.init(random.key(seed))
    obs, memories, reset = given_to(seed)
    outputs, values = network.policy_and_values(params, obs, memories, reset)
    assert_trees_equal(outputs, network.policy(params, obs, memories.actor, reset)[0])
    assert_trees_equal(values, network.values(params, obs, memories.critic, reset)[0])
    reset = torch.zeros_like(reset)
    outputs, values = network.policy_and_values(params, obs, memories, reset)
    swapped = network.policy_and_values(params, obs, Memories(*reversed(memories)), reset)
    assert (swapped[0].mean != outputs.mean).any()
    assert (swapped[1]["extrinsic"] != values["extrinsic"]).any()


@given(BUILDER, KIND, SEEDS, st.integers(1, 4), st.booleans())
def test_every_memory_is_that_of_running_by_single_steps(build, kind, seed, steps, resets):
    network = examples.recurrent_network(BUILDERS[build], cell=kind)
    params = network.init(random.key(seed))
    obs, memories, reset = given_to(seed, steps)
    arguments = params, obs, memories.critic, reset if resets else None
    values, every = network.values_and_memories(*arguments)
    assert_trees_close((values, every), step_by_step(network.values)(*arguments), **CLOSE)
    assert_trees_close((values, every[-1]), network.values(*arguments), **CLOSE)


@pytest.mark.parametrize("build", BUILDERS)
def test_what_every_memory_is_told_of_is_isolated_through_the_whole_network(build):
    network = examples.recurrent_network(BUILDERS[build])
    params = network.init(random.key(1))
    obs, memories, reset = given_to(1, 4, 2)
    assert_memory_isolated(
        network.values_and_memories, params, obs, memories.critic, reset,
        in_dims=(None, 1, 0, 1), out_dims=1,
    )  # fmt: skip


# --- sizes and draws --------------------------------------------------------------------------


@pytest.mark.parametrize("kind, gates, states", [("lstm", 4, 2), ("gru", 3, 1)])
@pytest.mark.parametrize("build", BUILDERS)
def test_memory_size_counts_all_numbers_that_are_remembered(build, kind, gates, states):
    network = BUILDERS[build](SPEC, memory_size=8, cell=kind, hidden_units=5)
    params, hidden = network.init(random.key(0)), 8 // states
    memory = "encoder.memory" if build == "shared" else "critic.memory"
    head = "critic.heads" if build == "shared" else "critic.head.heads"
    assert params[f"{memory}.weight_ih_l0"].shape == (gates * hidden, 5)
    assert params[f"{memory}.weight_hh_l0"].shape == (gates * hidden, hidden)
    assert params[f"{head}.extrinsic.weight"].shape == (1, hidden)
    memories = network.memories((2, 3))
    for part in memories:
        assert part.shape == (2, 3, 8) and part.dtype == torch.float32 and not part.any()
    assert network.memories((4,), torch.device("meta")).actor.device.type == "meta"


@pytest.mark.parametrize("kind, gates", [("lstm", 4), ("gru", 3)])
def test_each_gate_is_drawn_by_itself_within_xaviers_bounds(kind, gates):
    network = networks.recurrent_actor_critic(
        SPEC, memory_size=24 if kind == "lstm" else 12, cell=kind, hidden_units=40
    )
    params = network.init(random.key(0))
    blocks = [
        block
        for part in ("actor", "critic")
        for name, fan_in in (("weight_ih_l0", 40), ("weight_hh_l0", 12))
        for block in params[f"{part}.memory.{name}"].chunk(gates)
    ]
    for block in blocks:
        bound = math.sqrt(6 / sum(block.shape))
        assert block.shape[0] == 12 and 0.9 * bound < block.abs().max() <= bound
    assert len({block[0, 0].item() for block in blocks}) == len(blocks) == 4 * gates


def test_biases_are_zero_but_for_the_forget_gate():
    for kind, expected in (("lstm", [0.0, 1.0, 0.0, 0.0]), ("gru", [0.0] * 3)):
        params = examples.recurrent_network(cell=kind).init(random.key(0))
        for name in PARTS[2:]:
            gates = params[f"actor.memory.{name}"].chunk(len(expected))
            assert [gate.unique().tolist() for gate in gates] == [[x] for x in expected]


# --- networks of one's own --------------------------------------------------------------------


class Counter(nn.Module):
    """Values an observation by how many were seen before in this episode; remembers one number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.empty((), device="meta"))
        self.initializers = {"scale": networks.constant(2.0)}

    def forward(self, obs, memory, reset=None):
        values = []
        for t in range(len(obs[0])):
            if reset is not None:
                memory = torch.where(reset[t][:, None], 0.0, memory)
            values.append(self.scale * memory[:, 0])
            memory = memory + 1
        return {"extrinsic": torch.stack(values)}, memory


def test_a_network_of_ones_own_remembers_what_it_likes():
    network = networks.separate_recurrent(Counter(), Counter(), 1)
    params = network.init(random.key(0))
    assert params.keys() == {"actor.scale", "critic.scale"}
    reset = torch.tensor([False, False, True, False])[:, None]
    obs, memory = (torch.zeros(4, 1, 3),), torch.tensor([[5.0]])
    values, every = network.values_and_memories(params, obs, memory, reset)
    assert values["extrinsic"][:, 0].tolist() == [10.0, 12.0, 0.0, 2.0]
    assert every[:, 0, 0].tolist() == [6.0, 7.0, 1.0, 2.0]


def test_a_network_without_memory_passes_on_the_empty_one():
    plain = examples.network()
    seen = networks.without_memory(plain)
    params, (obs, *_) = plain.init(random.key(0)), given_to(0)
    assert seen.memories((3,)) == Memories((), ()) and tree.leaves(seen.memories((3,))) == []
    assert_trees_equal(seen.policy(params, obs, (), None), (plain.policy(params, obs), ()))
    for values in (seen.values, seen.values_and_memories):
        assert_trees_equal(values(params, obs, (), None), (plain.values(params, obs), ()))
    both = seen.policy_and_values(params, obs, Memories((), ()), None)
    assert_trees_equal(both, plain.policy_and_values(params, obs))


# --- what cannot be built ---------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDERS)
def test_what_cannot_be_built_is_named(build):
    make = BUILDERS[build]
    with pytest.raises(ValueError, match=r"`cell` must be one of \['gru', 'lstm'\], got 'rnn'"):
        make(SPEC, cell="rnn")
    for cell, size, states in (("lstm", 7, 2), ("lstm", 0, 2), ("gru", 0, 1), ("lstm", -2, 2)):
        message = f"`memory_size` must be a multiple of {states}, got {size}"
        with pytest.raises(ValueError, match=message):
            make(SPEC, cell=cell, memory_size=size)
    with pytest.raises(ValueError, match=r"`spec.obs\[0\]` must be the shape of a vector"):
        make(Spec(((2, 2, 2, 2),), ActionSpec(1)))
