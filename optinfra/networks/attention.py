"""Sets of entities: embedded one by one, related by self-attention, pooled to one encoding.

Entities come in any order, and any of them may be absent. The same modules serve the agents of a
group and observations of variable length.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from optinfra import random, tree
from optinfra.check import require_dtype, require_shape, require_trailing
from optinfra.networks.initializers import Initializer
from optinfra.networks.modules import Linear, swish
from optinfra.networks.normed import NORM_EPS

HEADS = 4  # ML-Agents' number
FIXUP_VARIANCE = 0.125  # over the width: weights so small that attention trains without a warm-up
ABSENT_SCORE = -1e6  # ML-Agents' number; exp of it is exactly 0
POOLING_EPS = 1e-7  # ML-Agents' guard of the mean over no entities
# Up to so many entities the products of attention are written as multiplications and sums, which
# a compiler fuses with what surrounds them, where it would call a routine per row and head. Where
# nothing is compiled they stand in memory, N times as large as the entities: hence not for many.
FEW_ENTITIES = 8


def fixup_normal(width: int) -> Initializer:
    """Draw from N(0, 0.125 / E), E the width of the embedding.

    Source: after Huang et al. 2020, http://www.cs.toronto.edu/~mvolkovs/ICML2020_tfixup.pdf.
    """
    std = math.sqrt(FIXUP_VARIANCE / width)
    return lambda key, shape: random.normal(key, shape) * std


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, present: Tensor, *, heads: int = HEADS
) -> Tensor:
    """Let each entity look at those that are present, head by head.

        s_ij = q_i · k_j / √E,   w_i = softmax over present j of s_ij,   y_i = Σ_j w_ij·v_j

    Where nobody is present, all are looked at alike.

    Args:
      queries: q `[*B, N, E]`, heads side by side in E.
      keys: k `[*B, N, E]`.
      values: v `[*B, N, E]`, finite also where an entity is absent.
      present: `[*B, N]` bool.
      heads: a divisor of E.

    Returns:
      y `[*B, N, E]`, of absent entities too.

    Differs: from Vaswani et al. 2017, who divide by the root of a head's width E / heads;
    ML-Agents divides by that of E.
    """
    count, width = queries.shape[-2:]
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (queries, keys, values))
    few = count <= FEW_ENTITIES
    scores = _scores_of_few(q, k) if few else torch.einsum("...ihd,...jhd->...ijh", q, k)
    seen = torch.where(present[..., None, :, None], scores / math.sqrt(width), ABSENT_SCORE)
    weights = torch.softmax(seen, -2)
    y = _mean_of_few(weights, v) if few else torch.einsum("...ijh,...jhd->...ihd", weights, v)
    return y.flatten(-2)


def _scores_of_few(q: Tensor, k: Tensor) -> Tensor:
    """Multiply every query with every key, `[*B, N, H, d]` each, to `[*B, N, N, H]`."""
    return (q[..., :, None, :, :] * k[..., None, :, :, :]).sum(-1)


def _mean_of_few(weights: Tensor, v: Tensor) -> Tensor:
    """Weigh values `[*B, N, H, d]` by `[*B, N, N, H]`."""
    return (weights[..., None] * v[..., None, :, :, :]).sum(-3)


class EntityEmbedding(nn.Module):
    """Embed entities one by one: y = activation([c, x]·Wᵀ + b).

    Args:
      inputs: D, width of an entity x.
      width: E of the embedding.
      activation: ML-Agents' swish unless given.
      common: F, width of what all entities of a set have in common, c; 0 for nothing.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        activation: Callable[[Tensor], Tensor] = swish,
        common: int = 0,
    ) -> None:
        super().__init__()
        self.layer = Linear(common + inputs, width, fixup_normal(width))
        self.activation = activation
        self.sizes = (common, inputs)

    def forward(self, entities: Tensor, present: Tensor, common: Tensor | None = None) -> Tensor:
        """Map entities `[*B, N, D]`, and what they have in common `[*B, F]`, to `[*B, N, E]`.

        What an absent one holds, be it NaN, changes nothing: it is blank before it is read.

        Raises:
          ValueError: a shape disagrees.
          TypeError: `present` `[*B, N]` is not bool.
        """
        require_trailing("entities", entities, self.sizes[1:])
        _require_present(entities, present)
        x = torch.where(present[..., None], entities, 0.0)
        if common is None:
            return self.activation(self.layer(x))
        of_all, own = self.layer.weight.split(self.sizes, 1)
        y = linear(x, own, self.layer.bias) + linear(common, of_all)[..., None, :]
        return self.activation(y)


class Projected(NamedTuple):
    """Entities as attention sees them."""

    normed: Tensor  # [*B, N, E]
    qkv: Tensor  # [*B, N, 3E], queries, keys and values side by side


class ResidualSelfAttention(nn.Module):
    """Let the entities of a set look at one another, and pool them to one encoding.

        x ← norm(x),   y = norm(attend(q(x), k(x), v(x))·Woᵀ + b_o + x),
        z = Σ_present y_i / (n + 1e-7),   norm(x) = (x − mean x)/√(var x + 1e-5)

    A permutation of the entities changes nothing; the encoding of an empty set is 0.

    Args:
      width: E, of the embeddings.
      heads: a divisor of E.

    Raises:
      ValueError: `heads` does not divide `width`.

    Differs: from a transformer's block: the residual is the normalised input, as in ML-Agents,
    and the norms have no parameters. Nor are the keys rounded, as ML-Agents does for its export.
    Source: Baker et al. 2019, appendix B, https://arxiv.org/abs/1909.07528.
    """

    def __init__(self, width: int, heads: int = HEADS) -> None:
        super().__init__()
        if heads < 1 or width < heads or width % heads:
            raise ValueError(f"`width` must be a multiple of {heads} heads, got {width}.")
        self.heads = heads
        self.qkv = Linear(width, 3 * width, fixup_normal(width))
        self.out = Linear(width, width, fixup_normal(width))

    def forward(self, entities: Tensor, present: Tensor) -> Tensor:
        """Encode sets of entities.

        Args:
          entities: embeddings `[*B, N, E]`, finite also where an entity is absent.
          present: `[*B, N]` bool.

        Returns:
          `[*B, E]`.

        Raises:
          ValueError: a shape disagrees.
          TypeError: `present` is not bool.
        """
        require_trailing("entities", entities, self.out.weight.shape[1:])
        _require_present(entities, present)
        return self.pool(self.project(entities), present)

    def project(self, entities: Tensor) -> Projected:
        """Do what needs to be done once per entity `[*B, N, E]`, in however many sets it is."""
        normed = layer_norm(entities, entities.shape[-1:], eps=NORM_EPS)
        return Projected(normed, self.qkv(normed))

    def pool(self, entities: Projected, present: Tensor) -> Tensor:
        """Encode sets of projected entities, present where `[*B, N]` is True, as `[*B, E]`."""
        queries, keys, values = entities.qkv.chunk(3, -1)
        seen = attend(queries, keys, values, present, heads=self.heads)
        related = self.out(seen) + entities.normed
        related = layer_norm(related, related.shape[-1:], eps=NORM_EPS)
        counted = present.to(related.dtype)
        total = (related * counted[..., None]).sum(-2)
        return total / (counted.sum(-1, keepdim=True) + POOLING_EPS)


def stretch(entities: Projected, start: int, length: int) -> Projected:
    """Take a set out of projected entities that stand one after another."""
    taken: Projected = tree.map(lambda x: x.narrow(-2, start, length), entities)
    return taken


def _require_present(entities: Tensor, present: Tensor) -> None:
    require_dtype("present", present, torch.bool)
    require_shape("present", present, entities.shape[:-1], "*B, N")
