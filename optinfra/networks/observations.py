"""Observations of every kind, encoded side by side: vectors, images, sets, and goals among them."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from optinfra.networks.attention import EntityEmbedding, ResidualSelfAttention, fixup_normal
from optinfra.networks.images import IMAGE, IMAGE_ENCODERS
from optinfra.networks.modules import Linear, swish
from optinfra.networks.own import OwnModule
from optinfra.types import Obs, Spec

VECTOR, SET = 1, 2  # how many axes they have
KINDS = {VECTOR: "vector", SET: "set", IMAGE: "image"}
SET_WIDTH = 128  # E of the encoding of all sets together, ML-Agents' number
LEAST_ENTITY = 0.01  # Σ features² below which an entity counts as absent, ML-Agents' number

# (shape of an observation, h) -> a module from [N, *shape] to [N, h]; None: the usual one
EncoderFactory: TypeAlias = Callable[[tuple[int, ...], int], nn.Module | None]


class Encoded(NamedTuple):
    """What observations become."""

    together: Tensor  # [*B, E], all of them side by side
    goal: Tensor  # [*B, G], those that are goals; G is 0 where none is


def require_observations(spec: Spec) -> None:
    """Raise unless every observation of a spec is of a known kind.

    Raises:
      ValueError: an observation has other than one to three axes or an empty one, a goal or an
        image of bytes is no observation, a goal is a set, or there is nothing to see.
    """
    if not spec.obs:
        raise ValueError("`spec.obs` must have an observation, got none.")
    for i, shape in enumerate(spec.obs):
        if len(shape) not in KINDS or min(shape) < 1:
            raise ValueError(
                f"`spec.obs[{i}]` must be the shape of a vector [D], a set [N, D] or an image "
                f"[C, H, W], got {tuple(shape)}."
            )
    for name, kinds in (("goals", (VECTOR, IMAGE)), ("bytes", (IMAGE,))):
        for i in getattr(spec, name):
            known = isinstance(i, int) and 0 <= i < len(spec.obs)
            if not known or len(spec.obs[i]) not in kinds:
                allowed = " or ".join(KINDS[kind] for kind in kinds)
                raise ValueError(
                    f"`spec.{name}` must be indices of {allowed} observations, got {i!r}."
                )


class ObservationEncoder(nn.Module):
    """Encode observations: vectors as they are, images one by one, all sets together.

        e_i = o_i of a vector, encoder_i(o_i) of an image;   e = [e_1, e_2, …, sets(e, o)]

    Args:
      spec: what is seen.
      hidden_units: h, width of an image's encoding.
      image: one of `IMAGE_ENCODERS`.
      encoder: makes encoders of the user's own, which may also read vectors and sets.

    Raises:
      ValueError: an observation is of no known kind, an image is too small, `image` unknown, or
        an encoder of the user's own does not work; the message names the observation.
    """

    def __init__(
        self,
        spec: Spec,
        hidden_units: int,
        image: str = "simple",
        encoder: EncoderFactory | None = None,
    ) -> None:
        super().__init__()
        require_observations(spec)
        if image not in IMAGE_ENCODERS:
            raise ValueError(f"`image` must be one of {sorted(IMAGE_ENCODERS)}, got {image!r}.")
        own = {i: OwnModule(f"encoder of obs[{i}]", module, [shape], hidden_units)
               for i, shape in enumerate(spec.obs)
               if encoder and (module := encoder(shape, hidden_units)) is not None}  # fmt: skip
        usual = {i: IMAGE_ENCODERS[image](shape, hidden_units)
                 for i, shape in enumerate(spec.obs)
                 if len(shape) == IMAGE and i not in own}  # fmt: skip
        self.spec = spec
        self.encoders = nn.ModuleDict({str(i): each for i, each in sorted((own | usual).items())})
        self.own, self.alike = tuple(own), _alike(spec, usual)
        self.sets = tuple(
            i for i, shape in enumerate(spec.obs) if len(shape) == SET and i not in own
        )
        widths = {i: hidden_units if str(i) in self.encoders else shape[0]
                  for i, shape in enumerate(spec.obs) if i not in self.sets}  # fmt: skip
        fixed = sum(widths.values())
        if self.sets:
            self.entities = SetEncoder([spec.obs[i] for i in self.sets], fixed)
        self.width = fixed + (SET_WIDTH if self.sets else 0)  # E
        self.goal_width = sum(widths[i] for i in spec.goals)  # G

    def forward(self, obs: Obs) -> Encoded:
        """Map observations `[*B, *shape_i]` to their encoding."""
        parts = {i: x for i, x in enumerate(obs) if i not in self.sets}
        parts |= self._encodings(obs)
        fixed = list(parts.values())
        together = side_by_side(fixed) if fixed else None
        if self.sets:
            seen = self.entities([obs[i] for i in self.sets], together)
            together = seen if together is None else torch.cat([together, seen], -1)
        assert together is not None  # a spec has an observation
        goal = side_by_side([parts[i] for i in self.spec.goals] or [together[..., :0]])
        return Encoded(together, goal)

    def _encodings(self, obs: Obs) -> dict[int, Tensor]:
        """Encode what does not pass as it is."""
        encodings = {i: self.encoders[str(i)]((obs[i],)) for i in self.own}
        for group in self.alike:
            modules = [self.encoders[str(i)] for i in group]
            encodings |= zip(group, encode_each(modules, [obs[i] for i in group]))
        return encodings


class SetEncoder(nn.Module):
    """Encode sets of entities as one: each entity is embedded, all look at one another.

        s = swish(e·W_sᵀ + b_s),   x ← swish([s, x]·W_iᵀ + b_i),   z = pool(attention(all x))

    An entity of which Σ features² < 0.01 is absent; so is one that holds NaN. Their order is of
    no account.

    Args:
      shapes: (N_i, D_i) of each set.
      fixed: width of what is seen besides e; 0 for nothing.

    Source: Baker et al. 2019, appendix B, https://arxiv.org/abs/1909.07528; sizes and
    initialisation are ML-Agents'.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], fixed: int) -> None:
        super().__init__()
        common = SET_WIDTH if fixed else 0
        if fixed:
            self.itself = Linear(fixed, SET_WIDTH, fixup_normal(SET_WIDTH))
        self.embeddings = nn.ModuleList(
            EntityEmbedding(features, SET_WIDTH, common=common) for _, features in shapes
        )
        self.attention = ResidualSelfAttention(SET_WIDTH)

    def forward(self, sets: Sequence[Tensor], fixed: Tensor | None) -> Tensor:
        """Map sets `[*B, N_i, D_i]`, and what is seen besides `[*B, F]`, to `[*B, 128]`."""
        itself = None if fixed is None else swish(self.itself(fixed))
        present = [x.square().sum(-1) >= LEAST_ENTITY for x in sets]
        embedded = [
            embed(x, there, itself) for embed, x, there in zip(self.embeddings, sets, present)
        ]
        return self.attention(torch.cat(embedded, -2), torch.cat(present, -1))


def encode_each(modules: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Encode observations of one shape, each by a module of its own of one architecture.

    In one call, but on a CPU: there convolutions in groups take 1.5 to 2.5 times as long as one
    after the other (two images of 3×84×84 by `simple`, forwards and back, 128 rows, torch 2.13).

    Args:
      modules: K of them.
      inputs: K of `[*B, *shape]`.

    Returns:
      K of `[*B, h]`.
    """
    if len(modules) == 1 or inputs[0].device.type == "cpu":
        return [module(x) for module, x in zip(modules, inputs)]
    return encode_at_once(modules, inputs)


def encode_at_once(modules: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Do what `encode_each` does by one call on stacked parameters and stacked observations."""
    each = [dict(module.named_parameters()) for module in modules]
    stacked = {name: torch.stack([params[name] for params in each]) for name in each[0]}

    def encode(params: dict[str, Tensor], x: Tensor) -> Tensor:
        encoding: Tensor = functional_call(modules[0], params, (x,))
        return encoding

    return list(vmap(encode)(stacked, torch.stack(list(inputs))).unbind())


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Lay `[*B, D_i]` side by side."""
    return torch.cat(list(parts), -1) if len(parts) > 1 else parts[0]


def _alike(spec: Spec, usual: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    """Group images by their shape: those of a group can be encoded in one call."""
    groups: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    for i in usual:
        groups.setdefault((spec.obs[i], i in spec.bytes), []).append(i)
    return tuple(map(tuple, groups.values()))
