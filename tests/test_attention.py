"""Sets of entities: what attention makes of them, and what absent ones must not do to it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call, grad
from torch.nn.functional import scaled_dot_product_attention

from optinfra import networks, random, tree
from optinfra.networks.attention import FEW_ENTITIES, HEADS, stretch
from optinfra.testing import assert_trees_close, assert_trees_equal
from tests import contracts, plain_groups
from tests.examples import double, key, normal

WIDTH = 8
SEEDS, COUNTS = st.integers(0, 999), st.integers(0, FEW_ENTITIES + 3)
EXACT = {"rtol": 1e-12, "atol": 1e-12}
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
WORST = [math.nan, math.inf, -math.inf, 3e38]


def layer():
    return networks.ResidualSelfAttention(WIDTH)


def large(module, seed=0):
    """Parameters so large that each of them is seen in the result."""
    return tree.map(lambda x: 0.7 * normal(seed, *x.shape), networks.draw(module)(key(0)))


def entities(seed, count, rows=4, width=WIDTH):
    """A set per row, of which a third is absent; the first row's is empty, the last one's whole."""
    present = normal(seed + 1, rows, count) > -0.4
    present = (
        present & (torch.arange(rows) > 0)[:, None] | (torch.arange(rows) == rows - 1)[:, None]
    )
    return 2 * normal(seed, rows, count, width), present


# --- attend ---------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, FEW_ENTITIES + 3), st.sampled_from([1, 2, 4, 8]))
def test_attending_is_torchs_attention_with_the_scale_of_the_whole_width(seed, count, heads):
    q, k, v = (normal(seed + i, 3, count, WIDTH).double() * 2 for i in range(3))
    present = normal(seed + 3, 3, count) > 0
    present = present | ~present.any(-1, keepdim=True)
    ours = networks.attend(q, k, v, present, heads=heads)

    def by_head(x):
        return x.unflatten(-1, (heads, WIDTH // heads)).transpose(1, 2)

    seen = scaled_dot_product_attention(
        by_head(q), by_head(k), by_head(v), present[:, None, None], scale=1 / math.sqrt(WIDTH)
    )
    assert_trees_close(ours, seen.transpose(1, 2).flatten(2), **EXACT)


def test_four_heads_are_what_is_meant_where_nothing_is_said():
    (q, present), (k, _), (v, _) = (entities(seed, 5) for seed in (0, 10, 20))
    said = networks.attend(q, k, v, present, heads=4)
    assert HEADS == layer().heads == 4 and torch.equal(networks.attend(q, k, v, present), said)


# --- embeddings -----------------------------------------------------------------------------------


def test_an_embedding_is_a_layer_and_its_activation_on_each_entity():
    x, present = entities(3, 5, width=3)
    for activation, expected in ((networks.tanh, torch.tanh), (None, plain_groups.swish)):
        given = {} if activation is None else {"activation": activation}
        module = networks.EntityEmbedding(3, WIDTH, **given)
        w = large(module)
        ours = functional_call(module, w, (x, present))
        for n, j in present.nonzero().tolist():
            one = expected(w["layer.weight"] @ x[n, j] + w["layer.bias"])
            assert_trees_close(ours[n, j], one, **CLOSE)


@pytest.mark.parametrize("worst", WORST)
def test_what_an_absent_entity_holds_reaches_neither_embeddings_nor_gradients(worst):
    x, present = entities(0, 5, width=3)
    embedding, attention = networks.EntityEmbedding(3, WIDTH), layer()
    weights = large(embedding), large(attention)
    assert present.any() and not present.all()

    def loss(weights, x):
        seen = functional_call(embedding, weights[0], (x, present))
        return functional_call(attention, weights[1], (seen, present)).sin().sum()

    spoiled = torch.where(present[..., None], x, worst)
    gradients = grad(loss, argnums=(0, 1))
    assert_trees_equal(gradients(weights, x), gradients(weights, spoiled))
    assert_trees_equal(loss(weights, x), loss(weights, spoiled))


# --- residual self-attention ----------------------------------------------------------------------


@given(SEEDS, COUNTS)
def test_an_encoding_is_what_one_gets_from_the_present_entities_alone(seed, count):
    module, (x, present) = layer(), double(entities(seed, count))
    w = double(large(module, seed))
    ours = functional_call(module, w, (x, present))
    for n, here in enumerate(present):
        alone = list(x[n][here])
        expected = plain_groups.pooled(w, "", alone) if alone else torch.zeros(WIDTH).double()
        assert_trees_close(ours[n], expected, **EXACT)


@given(SEEDS, COUNTS)
def test_the_order_of_entities_does_not_matter(seed, count):
    module, (x, present) = layer(), entities(seed, count)
    w, order = large(module, seed), normal(seed + 9, count).argsort()
    ours = functional_call(module, w, (x, present))
    assert_trees_close(functional_call(module, w, (x[:, order], present[:, order])), ours, **CLOSE)


def test_every_entity_has_its_say():
    module, (x, present) = layer(), entities(0, 5)
    w = large(module)
    ours = functional_call(module, w, (x, present))
    for j in range(5):
        moved = x.index_add(1, torch.tensor([j]), normal(j, 4, 1, WIDTH))
        changed = (functional_call(module, w, (moved, present)) != ours).any(-1)
        assert torch.equal(changed, present[:, j])


def test_overlapping_sets_are_encoded_as_each_by_itself():
    module, (x, present) = layer(), entities(7, 7)
    w = large(module)

    class Overlapping(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = module

        def forward(self, x, present):
            together = self.attention.project(x)
            return [
                self.attention.pool(stretch(together, start, 4), present[:, start : start + 4])
                for start in (0, 3)
            ]

    named = {f"attention.{name}": value for name, value in w.items()}
    both = functional_call(Overlapping(), named, (x, present))
    for start, ours in zip((0, 3), both):
        part = slice(start, start + 4)
        alone = functional_call(module, w, (x[:, part], present[:, part]))
        assert_trees_close(ours, alone, **CLOSE)


# --- draws ----------------------------------------------------------------------------------------


def test_weights_are_drawn_with_an_eighth_of_the_variance_of_the_width_and_biases_are_zero():
    width = 64
    for module in (networks.EntityEmbedding(200, width), networks.ResidualSelfAttention(width)):
        for name, x in networks.draw(module)(random.key(0)).items():
            if name.endswith("bias"):
                assert not x.any()
            else:
                assert abs(x.std() / math.sqrt(0.125 / width) - 1) < 0.05
                assert abs(x.mean()) < 0.1 * x.std()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("width, heads", [(6, 4), (0, 4), (2, 4), (4, 0), (4, -2)])
def test_a_width_that_heads_cannot_share_is_refused(width, heads):
    with pytest.raises(ValueError, match=f"`width` must be a multiple of {heads} heads, got"):
        networks.ResidualSelfAttention(width, heads)


@pytest.mark.parametrize(
    "module", [networks.EntityEmbedding(8, 8), networks.ResidualSelfAttention(8)]
)
def test_entities_of_a_wrong_shape_are_refused_by_name(module):
    w = networks.draw(module)(key(0))
    x, present = entities(0, 5)
    refused = [
        ((x[..., 1:], present), ValueError, r"`entities` must have shape \[\*B, 8\], got"),
        ((x, present[:, 1:]), ValueError, r"`present` must have shape \[\*B, N\] = \[4, 5\], got"),
        ((x, present.float()), TypeError, "`present` must have dtype torch.bool, got"),
    ]
    for given_, error, message in refused:
        with pytest.raises(error, match=message):
            functional_call(module, w, given_)


# --- contracts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("contract", [contracts.assert_lifts, contracts.assert_compiles_once])
@pytest.mark.parametrize(
    "module", [networks.EntityEmbedding(WIDTH, 4), networks.ResidualSelfAttention(WIDTH)]
)
def test_modules_of_entities_lift_and_compile(module, contract):
    def run(params, x, present):
        return functional_call(module, params, (x, present))

    contract(contracts.Case(run, lambda k: (networks.draw(module)(key(k)), *entities(k, 5, 3))))
