"""Networks of a group: what they compute, in which order, and whose business it is not."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap

from optinfra import networks, random, tree
from optinfra.testing import (
    assert_compiles_once,
    assert_memory_isolated,
    assert_trees_close,
    assert_trees_equal,
)
from optinfra.types import Action, ActionSpec, Mates, Memories, Spec
from tests import examples, plain_groups
from tests.examples import SPEC, double, normal
from tests.plain_groups import obs_and_mates

M = 6
STREAMS = ("first", "second")
SPECS = [SPEC, Spec(((4,),), ActionSpec(3)), Spec(((1,), (2,), (1,)), ActionSpec(0, (4, 2)))]
WAYS = ["values", "baselines"]
SEEDS = st.integers(0, 999)
SPECIFIED, WAY, KIND = (
    st.sampled_from(SPECS),
    st.sampled_from(WAYS),
    st.sampled_from(["lstm", "gru"]),
)
LARGEST = torch.tensor(5.0)
EXACT = {"rtol": 1e-9, "atol": 1e-10}
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
NEAR = {"rtol": 1e-4, "atol": 1e-5}  # gradients: sums of many numbers


def network(spec=SPEC, *, memory_size=None, **options):
    sizes = {"hidden_units": 8, "num_layers": 1} | options
    return networks.group_actor_critic(spec, STREAMS, memory_size=memory_size, **sizes)


def params_of(net, seed):
    """Parameters so large that each of them is seen in the result."""
    drawn = net.init(random.key(seed))
    return {name: 0.6 * normal(seed + i, *x.shape) for i, (name, x) in enumerate(drawn.items())}


def remembering(seed, steps=5, rows=3, mates=3, **options):
    """A network with a memory, its parameters, and sequences for it."""
    net = network(memory_size=M, **options)
    obs, others = obs_and_mates(seed, steps, rows, mates=mates)
    memory, reset = normal(seed + 60, rows, 2 * M), normal(seed + 61, steps, rows) > 0.5
    return net, params_of(net, seed), obs, others, memory, reset


def loss_of(judged):
    """A number that all of values and baselines, or of one of them, go into."""
    return sum((1 + i) * x.sin().sum() for i, x in enumerate(tree.leaves(judged[:-1])))


# --- what is computed -------------------------------------------------------------------------


@given(SPECIFIED, WAY, SEEDS, st.integers(1, 2), st.integers(0, 4))
def test_values_and_baselines_are_what_one_writes_down_agent_by_agent(
    spec, way, seed, layers, mates
):
    net = network(spec, num_layers=layers)
    given_ = params_of(net, seed), *obs_and_mates(seed, 4, mates=mates, spec=spec), LARGEST
    params, obs, others, largest = double(given_)
    ours, memory = getattr(net, way)(params, obs, others, largest, (), None)
    plain = plain_groups.judged_rows(params, spec, way, obs, others, largest)
    assert memory == () and ours.keys() == plain.keys() == set(STREAMS)
    assert_trees_close(ours, plain, **EXACT)


@pytest.mark.parametrize("way", WAYS)
def test_groups_of_all_sizes_from_no_mate_to_sixteen_stand_in_one_batch(way):
    net, sizes = network(), torch.arange(17)
    obs, mates = double(obs_and_mates(0, 17, mates=16, sizes=sizes))
    assert mates.present.sum(-1).tolist() == list(range(17))
    params, largest = double((params_of(net, 0), torch.tensor(17.0)))

    def ours(params):
        return getattr(net, way)(params, obs, mates, largest, (), None)

    def plain(params):
        return plain_groups.judged_rows(params, SPEC, way, obs, mates, largest), ()

    assert_trees_close(ours(params), plain(params), **EXACT)
    assert_trees_close(
        *(grad(lambda p, f=f: loss_of(f(p)))(params) for f in (ours, plain)), **EXACT
    )


@given(KIND, WAY, SEEDS, st.integers(1, 4))
def test_a_sequence_is_what_one_gets_step_by_step_with_resets(kind, way, seed, steps):
    net, *given_ = remembering(seed, steps, 2, cell=kind)
    params, obs, mates, memory, reset = double(given_)
    memory = memory[:, :M]
    ours, after = getattr(net, way)(params, obs, mates, LARGEST, memory, reset)
    same, every = getattr(net, f"{way}_and_memories")(params, obs, mates, LARGEST, memory, reset)
    assert_trees_close(ours, same, **EXACT)
    for b in range(2):
        own = tree.map(lambda x, b=b: x[:, b], (obs, mates))
        plain, memories = plain_groups.judged_sequence(
            params, SPEC, way, *own, LARGEST.double(), memory[b], reset[:, b]
        )
        assert_trees_close({name: x[:, b] for name, x in ours.items()}, plain, **EXACT)
        assert_trees_close((after[b], every[:, b]), (memories[-1], memories), **EXACT)


@given(SEEDS, WAY, st.integers(2, 6))
def test_a_sequence_may_be_cut_anywhere(seed, way, steps):
    net, params, obs, mates, memory, reset = remembering(seed, steps)
    judge, memory, cut = getattr(net, way), memory[:, :M], steps // 2
    whole, last = judge(params, obs, mates, LARGEST, memory, reset)
    parts = []
    for part in (slice(0, cut), slice(cut, None)):
        seen = tree.take((obs, mates), part)
        by_stream, memory = judge(params, *seen, LARGEST, memory, reset[part])
        parts.append(by_stream)
    assert_trees_close((tree.map(lambda *xs: torch.cat(xs), *parts), memory), (whole, last), **NEAR)


@given(SEEDS, st.sampled_from([None, M]), st.integers(0, 4))
def test_both_in_one_pass_are_each_by_itself(seed, memory_size, mates):
    net = network(memory_size=memory_size)
    params, reset, memory, apart = params_of(net, seed), None, (), [(), ()]
    rows = (3,) if memory_size is None else (4, 3)
    obs, others = obs_and_mates(seed, *rows, mates=mates)
    if memory_size:
        reset, memory = normal(seed, *rows) > 0.5, normal(seed + 1, 3, 2 * M)
        apart = memory.split(M, -1)

    def together(params):
        return net.values_and_baselines(params, obs, others, LARGEST, memory, reset)

    def each(params):
        values, first = net.values(params, obs, others, LARGEST, apart[0], reset)
        baselines, second = net.baselines(params, obs, others, LARGEST, apart[1], reset)
        return values, baselines, torch.cat([first, second], -1) if memory_size else ()

    assert_trees_close(together(params), each(params), **CLOSE)
    gradients = (grad(lambda p, f=f: loss_of(f(p)))(params) for f in (together, each))
    assert_trees_close(*gradients, **NEAR)


@given(SEEDS)
def test_value_and_baseline_remember_apart(seed):
    net, params, obs, mates, memory, _ = remembering(seed)
    _, baselines, after = net.values_and_baselines(params, obs, mates, LARGEST, memory, None)
    moved = torch.cat([memory[:, :M] + 1, memory[:, M:]], -1)
    _, same, other = net.values_and_baselines(params, obs, mates, LARGEST, moved, None)
    assert_trees_equal((same, other[:, M:]), (baselines, after[:, M:]))
    assert (other[:, :M] != after[:, :M]).any()


def test_the_heads_are_told_how_large_the_group_is():
    net, sizes = network(), torch.arange(5)
    params, (obs, mates) = params_of(net, 0), obs_and_mates(0, 5, mates=4, sizes=sizes)
    one, other = (
        net.values_and_baselines(params, obs, mates, torch.tensor(n), (), None) for n in (5.0, 8.0)
    )
    for stream in STREAMS:
        slope = params[f"critic.head.heads.{stream}.weight"][0, -1]
        expected = slope * 2 * (1 + sizes) * (1 / 5 - 1 / 8)
        for judged, scaled in zip(one[:2], other[:2]):
            assert_trees_close(judged[stream] - scaled[stream], expected, **NEAR)


def test_a_policy_is_that_of_the_actor_critic_without_a_group():
    obs, memory = obs_and_mates(0, 5, 3)[0], normal(1, 3, M)
    net, alone = network(), examples.network()
    params = net.init(random.key(3))
    expected = alone.policy(alone.init(random.key(3)), obs)
    assert_trees_equal(net.policy(params, obs, (), None), (expected, ()))
    for cell in ("lstm", "gru"):
        net = network(memory_size=M, cell=cell)
        alone, reset = examples.recurrent_network(cell=cell), normal(2, 5, 3) > 0.5
        params, same = (one.init(random.key(3)) for one in (net, alone))
        ours = net.policy(params, obs, memory, reset)
        assert_trees_equal(ours, alone.policy(same, obs, memory, reset))


# --- whose business it is not ---------------------------------------------------------------


@given(SEEDS, st.integers(0, 12))
def test_the_order_of_the_mates_does_not_matter(seed, mates):
    net = network()
    params, (obs, others) = params_of(net, seed), obs_and_mates(seed, 13, mates=mates)
    order = normal(seed + 70, mates).argsort()
    shuffled = tree.map(lambda x: x[:, order], others)
    ours, again = (
        net.values_and_baselines(params, obs, each, LARGEST, (), None)
        for each in (others, shuffled)
    )
    assert_trees_close(ours, again, **CLOSE)


def spoiled(mates, number, choice):
    """The same mates, but for what the absent ones hold."""

    def spoil(x):
        worst = number if x.is_floating_point() else choice
        return torch.where(mates.present[..., None], x, worst)

    return Mates(*tree.map(spoil, (mates.obs, mates.action)), mates.present)


@pytest.mark.parametrize("worst", [(math.nan, -7), (math.inf, 2**40), (-math.inf, 5), (3e38, -1)])
@pytest.mark.parametrize("way", [*WAYS, "values_and_baselines"])
@pytest.mark.parametrize("memory_size, mates", [(None, 3), (M, 3), (None, 11)])
def test_what_an_absent_mate_holds_changes_nothing_to_the_last_bit(memory_size, mates, way, worst):
    net, params, obs, others, memory, reset = remembering(5, 4, 5, mates)
    memory = memory if way == "values_and_baselines" else memory[:, :M]
    if memory_size is None:
        net, memory = network(), ()
        params = params_of(net, 5)

    def result(params, obs, mates):
        return getattr(net, way)(params, obs, mates, LARGEST, memory, reset)

    def slopes(mates):
        def loss(params, obs, seen):
            return loss_of(result(params, obs, mates._replace(obs=seen)))

        return grad(loss, argnums=(0, 1, 2))(params, obs, mates.obs)

    ours, expected = (
        (result(params, obs, x), slopes(x)) for x in (spoiled(others, *worst), others)
    )
    assert_trees_equal(ours, expected)
    assert all(x.isfinite().all() for x in tree.leaves(expected))
    of_mates = expected[1][2]
    for x in of_mates:
        assert torch.equal((x != 0).any(-1), others.present)


@given(SEEDS, st.integers(0, 9), st.integers(1, 4))
def test_slots_in_which_nobody_is_change_nothing(seed, mates, empty):
    net = network()
    params, (obs, others) = params_of(net, seed), obs_and_mates(seed, 5, mates=mates)
    _, more = obs_and_mates(seed + 7, 5, mates=empty)
    more = more._replace(present=torch.zeros_like(more.present))
    both = tree.map(lambda x, y: torch.cat([y, x], 1), others, more)
    ours, again = (
        net.values_and_baselines(params, obs, each, LARGEST, (), None) for each in (others, both)
    )
    assert_trees_close(ours, again, **CLOSE)


def test_present_mates_are_seen_by_both_and_what_they_do_by_the_baseline_alone():
    net = network()
    params, (obs, mates) = params_of(net, 0), obs_and_mates(0, 8, mates=3)
    some = mates.present.any(-1)

    def changed(mates):
        ours = net.values_and_baselines(params, obs, mates, LARGEST, (), None)
        return [(x["first"] != y["first"]) for x, y in zip(ours[:2], expected[:2])]

    expected = net.values_and_baselines(params, obs, mates, LARGEST, (), None)
    for i in range(2):
        moved = tuple(x + (j == i) for j, x in enumerate(mates.obs))
        assert all(torch.equal(x, some) for x in changed(mates._replace(obs=moved)))
    continuous, discrete = mates.action
    for part in (Action(continuous + 1, discrete), Action(continuous, 1 - discrete.clip(max=1))):
        value, baseline = changed(mates._replace(action=part))
        assert not value.any() and torch.equal(baseline, some)
    unread = mates._replace(action=Action(continuous * math.nan, discrete))
    assert_trees_equal(net.values(params, obs, unread, LARGEST, (), None)[0], expected[0])


@pytest.mark.parametrize("way", WAYS)
def test_an_agent_remembers_nothing_of_others(way):
    net, params, obs, mates, memory, reset = remembering(1, 4, 2)
    assert_memory_isolated(
        getattr(net, f"{way}_and_memories"),
        params, obs, mates, LARGEST, memory[:, :M], reset,
        in_dims=(None, 1, 1, None, 0, 1), out_dims=1,
    )  # fmt: skip


# --- transforms -------------------------------------------------------------------------------


@given(SEEDS)
def test_agents_and_parameters_may_be_vmapped(seed):
    net, params, obs, mates, memory, reset = remembering(seed)
    other = params_of(net, seed + 1)
    judge = net.values_and_baselines
    expected = judge(params, obs, mates, LARGEST, memory, reset)
    mapped = vmap(judge, in_dims=(None, 1, 1, None, 0, 1), out_dims=(1, 1, 0))
    assert_trees_close(mapped(params, obs, mates, LARGEST, memory, reset), expected, **CLOSE)
    given_ = (obs, mates, LARGEST, memory, reset)
    members = vmap(judge, in_dims=(0, *[None] * 5))(tree.stack([params, other]), *given_)
    for m, own in enumerate((params, other)):
        assert_trees_close(tree.take(members, m), judge(own, *given_), **CLOSE)


@pytest.mark.parametrize("memory_size, mates", [(None, 0), (M, 3), (None, 10)])
def test_gradients_compile_to_one_graph(memory_size, mates):
    net, params, obs, others, memory, reset = remembering(0, 4, 3, mates)
    if memory_size is None:
        net, memory, reset = network(), (), None
        params = params_of(net, 0)

    def slopes(params, obs, others, largest):
        def loss(params):
            return loss_of(net.values_and_baselines(params, obs, others, largest, memory, reset))

        return grad(loss)(params)

    def following(_, arguments):
        return tree.map(lambda x: x * 0.9 if x.is_floating_point() else x, arguments)

    assert_compiles_once(slopes, params, obs, others, LARGEST, advance=following)


# --- sizes and draws --------------------------------------------------------------------------


def test_memories_are_one_of_the_policy_and_two_of_the_critic_end_to_end():
    memories = network(memory_size=M).memories((2, 3))
    assert (memories.actor.shape, memories.critic.shape) == ((2, 3, M), (2, 3, 2 * M))
    assert not any(x.any() for x in memories)
    assert network(memory_size=M).memories((4,), torch.device("meta")).critic.is_meta
    assert network().memories((4,)) == Memories((), ())


def test_the_body_behind_attention_is_drawn_as_small_as_the_rest_of_the_critic():
    params = network(hidden_units=64, num_layers=2).init(random.key(0))
    bodies = [params[f"critic.body.layers.{i}.weight"] for i in range(2)]
    for x in bodies:
        assert abs(x.std() / math.sqrt(0.125 / 64 / 64) - 1) < 0.05
    for name in ("observed.layer", "acted.layer", "attention.qkv", "attention.out"):
        x = params[f"critic.{name}.weight"]
        assert abs(x.std() / math.sqrt(0.125 / 64) - 1) < 0.1
    # 3 + 2 numbers seen, 2 + (3 + 2) done; the heads see one number more than the encoding
    assert params["critic.observed.layer.weight"].shape == (64, 5)
    assert params["critic.acted.layer.weight"].shape == (64, 12)
    assert params["critic.head.heads.first.weight"].shape == (1, 65)
    assert len({x.flatten()[0].item() for x in bodies}) == 2


def test_the_activation_is_that_of_bodies_and_embeddings():
    net = network(activation=networks.tanh, num_layers=2)
    params, obs, mates, largest = double((params_of(net, 0), *obs_and_mates(0, 3), LARGEST))
    for way in WAYS:
        ours, _ = getattr(net, way)(params, obs, mates, largest, (), None)
        given_ = params, SPEC, way, obs, mates, largest, torch.tanh
        assert_trees_close(ours, plain_groups.judged_rows(*given_), **EXACT)
    alone = networks.actor_critic(SPEC, hidden_units=8, activation=networks.tanh)
    assert_trees_equal(net.policy(params, obs, (), None)[0], alone.policy(params, obs))


# --- what is refused --------------------------------------------------------------------------


def test_what_cannot_be_built_is_named():
    make = networks.group_actor_critic
    for units in (0, 2, 6, -4):
        with pytest.raises(
            ValueError, match=f"`hidden_units` must be a multiple of 4, got {units}"
        ):
            make(SPEC, hidden_units=units)
    with pytest.raises(ValueError, match=r"`cell` must be one of \['gru', 'lstm'\], got 'rnn'"):
        make(SPEC, memory_size=4, cell="rnn")
    with pytest.raises(ValueError, match=r"`memory_size` must be a multiple of 2, got 5"):
        make(SPEC, memory_size=5)
    with pytest.raises(ValueError, match=r"`spec.obs\[0\]` must be the shape of a vector"):
        make(Spec(((2, 2, 2, 2),), ActionSpec(1)))


def refused():
    obs, mates = obs_and_mates(0, 5)
    continuous, discrete = mates.action
    shapes = {
        "`obs` must have 2 observations, got 1": (obs[:1], mates),
        r"`obs\[1\]` must have shape \[\*B, D\] = \[5, 2\], got \[5, 3\]": ((obs[0],) * 2, mates),
        "`mates.obs` must have 2 observations, got 1": (obs, mates._replace(obs=mates.obs[:1])),
        r"`mates.obs\[1\]` must have shape \[\*B, G, D\] = \[5, 3, 2\], got \[5, 3, 3\]": (
            obs, mates._replace(obs=(mates.obs[0],) * 2),
        ),
        r"`mates.present` must have shape \[\*B, G\] = \[5, 3\], got \[4, 3\]": (
            obs, mates._replace(present=mates.present[:4]),
        ),
        r"`mates.present` must have shape \[\*B, G\] = \[5, 0\], got \[5\]": (
            obs, mates._replace(present=mates.present[:, 0]),
        ),
        r"`mates.action.continuous` must have shape \[\*B, G, A\] = \[5, 3, 2\], got": (
            obs, mates._replace(action=Action(continuous[..., :1], discrete)),
        ),
        r"`mates.action.discrete` must have shape \[\*B, G, K\] = \[5, 3, 2\], got": (
            obs, mates._replace(action=Action(continuous, discrete[:4])),
        ),
    }  # fmt: skip
    return shapes.items()


@pytest.mark.parametrize("message, given_", refused())
def test_groups_of_a_wrong_shape_are_refused_by_name(message, given_):
    net = network()
    with pytest.raises(ValueError, match=message):
        net.values_and_baselines(params_of(net, 0), *given_, LARGEST, (), None)


def test_other_arguments_of_a_wrong_kind_are_refused_by_name():
    net, params, obs, mates, memory, reset = remembering(0)
    judge = net.values_and_baselines
    floats = mates._replace(present=mates.present.float())
    with pytest.raises(TypeError, match=r"`mates.present` must have dtype torch.bool, got"):
        judge(params, obs, floats, LARGEST, memory, reset)
    with pytest.raises(ValueError, match=r"`largest` must have shape \[\], got \[1\]"):
        judge(params, obs, mates, LARGEST[None], memory, reset)
    with pytest.raises(ValueError, match=r"`memory` must have shape \[\*B, C·M\] = \[3, 12\], got"):
        judge(params, obs, mates, LARGEST, memory[:, :M], reset)
    with pytest.raises(ValueError, match=r"`memory` must have shape \[\*B, C·M\] = \[3, 6\], got"):
        net.values(params, obs, mates, LARGEST, memory, reset)
    with pytest.raises(ValueError, match=r"`reset` must have shape \[S, \*B\] = \[5, 3\], got"):
        judge(params, obs, mates, LARGEST, memory, reset[:4])
    with pytest.raises(TypeError, match=r"`reset` must have dtype torch.bool, got"):
        judge(params, obs, mates, LARGEST, memory, reset.float())
