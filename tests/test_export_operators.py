"""Each operation that can be exported does in ONNX what it does in torch."""

import math

import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from optinfra.export import ExportError, convert
from optinfra.export.convert import OPERATORS
from tests.examples import normal
from tests.onnx_cases import exported, ran, session

INPUTS = {"x": (4,), "y": (4,), "m": (3, 4), "i": (2, 6, 6), "s": (4, 9)}
CONSTANT = normal(50, 4)
TABLE = normal(51, 5, 2)
KERNEL = normal(52, 3, 2, 3, 3)
CONV = {"weight": KERNEL, "bias": normal(53, 3)}
INNER = normal(54, 4, 3)
OF_GROUPS, OF_SIGNALS, BACKWARDS = (
    normal(55, 4, 1, 3, 3),
    normal(56, 2, 4, 3),
    normal(57, 2, 3, 3, 3),
)

ELEMENTWISE = {
    "abs": lambda x, **_: x.abs(),
    "acos": lambda x, **_: x.tanh().acos(),
    "acosh": lambda x, **_: (1 + x.abs()).acosh(),
    "asin": lambda x, **_: x.tanh().asin(),
    "asinh": lambda x, **_: x.asinh(),
    "atan": lambda x, **_: x.atan(),
    "atanh": lambda x, **_: x.tanh().atanh(),
    "ceil": lambda x, **_: x.ceil(),
    "cos": lambda x, **_: x.cos(),
    "cosh": lambda x, **_: x.cosh(),
    "erf": lambda x, **_: x.erf(),
    "exp": lambda x, **_: x.exp(),
    "expm1": lambda x, **_: x.expm1(),
    "floor": lambda x, **_: x.floor(),
    "log": lambda x, **_: x.abs().log(),
    "log1p": lambda x, **_: x.abs().log1p(),
    "log2": lambda x, **_: x.abs().log2(),
    "log10": lambda x, **_: x.abs().log10(),
    "neg": lambda x, **_: -x,
    "reciprocal": lambda x, **_: x.reciprocal(),
    "rsqrt": lambda x, **_: x.abs().rsqrt(),
    "relu": lambda x, **_: x.relu(),
    "sigmoid": lambda x, **_: x.sigmoid(),
    "sign": lambda x, **_: x.sign(),
    "sin": lambda x, **_: x.sin(),
    "sinh": lambda x, **_: x.sinh(),
    "sqrt": lambda x, **_: x.abs().sqrt(),
    "tan": lambda x, **_: x.tan(),
    "tanh": lambda x, **_: x.tanh(),
    "trunc": lambda x, **_: (2 * x).trunc(),
    "add": lambda x, y, **_: x + y,
    "add with a factor": lambda x, y, **_: torch.add(x, y, alpha=3),
    "add a number": lambda x, **_: x + 2,
    "sub": lambda x, y, **_: x - y,
    "sub from a number": lambda x, **_: 1 - x,
    "mul": lambda x, y, **_: x * y,
    "mul by a constant": lambda x, **_: x * CONSTANT,
    "mul by truth": lambda x, y, **_: x * (y > 0),
    "div": lambda x, y, **_: x / y,
    "div, floor": lambda x, **_: torch.div(x, 0.3, rounding_mode="floor"),
    "div, trunc": lambda x, **_: torch.div(x, 0.3, rounding_mode="trunc"),
    "remainder": lambda x, **_: torch.remainder(x, 0.7),
    "square": lambda x, **_: x.square(),
    "cube": lambda x, **_: x**3,
    "power of tensors": lambda x, y, **_: x.abs() ** y,
    "power of a number": lambda x, **_: 2**x,
    "maximum": lambda x, y, **_: torch.maximum(x, y),
    "minimum": lambda x, y, **_: torch.minimum(x, y),
    "clamp": lambda x, **_: x.clamp(-0.5, 0.3),
    "clamp below": lambda x, **_: x.clamp(min=0.1),
    "clamp above": lambda x, **_: x.clamp(max=0.1),
    "clamp by tensors": lambda x, y, **_: x.clamp(y, y + 0.5),
    "hardtanh": lambda x, **_: F.hardtanh(x),
    "hardsigmoid": lambda x, **_: F.hardsigmoid(x),
    "where": lambda x, y, **_: torch.where(x > y, x, 0.5 * y),
    "where, of a number": lambda x, **_: torch.where(x > 0, x, -1e8),
    "gelu": lambda x, **_: F.gelu(x),
    "gelu by tanh": lambda x, **_: F.gelu(x, approximate="tanh"),
    "leaky relu": lambda x, **_: F.leaky_relu(x, 0.2),
    "elu": lambda x, **_: F.elu(x, 0.7),
    "selu": lambda x, **_: F.selu(x),
    "silu": lambda x, **_: F.silu(x),
    "mish": lambda x, **_: F.mish(x),
    "softplus": lambda x, **_: F.softplus(x),
    "hardswish": lambda x, **_: F.hardswish(x),
    "to int": lambda x, **_: (3 * x).to(torch.int64),
    "whole numbers": lambda x, y, **_: (3 * x).long() * 2 + (3 * y).long(),
    "mean of truth": lambda x, **_: (x > 0).float(),
    "clone": lambda x, **_: x.clone(),
    "detach": lambda x, **_: x.detach() * 2,
}
TRUTH = {
    "lt": lambda x, y, **_: x < y,
    "le": lambda x, y, **_: x <= y,
    "gt": lambda x, y, **_: x > y,
    "ge": lambda x, y, **_: x >= y,
    "eq": lambda x, y, **_: x == y,
    "ne": lambda x, y, **_: x != y,
    "ge a number": lambda x, **_: x >= 0.01,
    "le a number": lambda x, **_: x <= 0,
    "eq a number": lambda x, **_: x == 1,
    "eq of whole numbers": lambda x, y, **_: (x > 0).long() == (y > 0).long(),
    "whole against a number": lambda x, **_: (x > 0).long() > 0.5,
    "isnan": lambda x, **_: x.isnan(),
    "isinf": lambda x, **_: x.isinf(),
    "isfinite": lambda x, **_: x.isfinite(),
    "logical and": lambda x, y, **_: torch.logical_and(x > 0, y > 0),
    "logical or": lambda x, y, **_: torch.logical_or(x > 0, y > 0),
    "logical xor": lambda x, y, **_: torch.logical_xor(x > 0, y > 0),
    "logical not": lambda x, **_: torch.logical_not(x),
    "and": lambda x, y, **_: (x > 0) & (y > 0),
    "or": lambda x, y, **_: (x > 0) | (y > 0),
    "xor": lambda x, y, **_: (x > 0) ^ (y > 0),
    "not": lambda x, **_: ~(x > 0),
    "any": lambda m, **_: (m > 1).any(-1),
    "any of several": lambda m, **_: (m > 2).any((1, 2)),
    "all": lambda m, **_: (m > -1).all(-1),
}
SHAPES = {
    "view": lambda m, **_: m.reshape(-1, 12),
    "view of unknown rows": lambda m, **_: m.reshape(m.shape[0] * 3, 4).sum(-1).reshape(-1, 3),
    "view with time in front": lambda m, **_: m[None].flatten(0, 1) + 1,
    "unflatten": lambda s, **_: s.unflatten(-1, (3, 3)),
    "permute": lambda m, **_: m.permute(0, 2, 1),
    "expand": lambda x, **_: x[:, None].expand(-1, 3, -1) * 2,
    "expand to rows": lambda x, **_: torch.cat([x, CONSTANT.expand(x.shape[0], 4)], -1),
    "expand in front": lambda x, **_: x.expand(2, -1, -1).sum(0),
    "expand a constant, elementwise": lambda x, **_: x + CONSTANT.expand(x.shape).exp(),
    "expand a constant, with time": lambda x, **_: CONSTANT.expand(1, *x.shape)[0] * x,
    "expand beside what all rows share": lambda x, **_: torch.cat(
        [x, x.mean(0) + CONSTANT.expand(x.shape[0], 4)], -1
    ),
    "select of what is expanded": lambda x, **_: (
        CONSTANT.reshape(2, 2).expand(x.shape[0], 2, 2).select(1, 1) * x[:, :2]
    ),
    "squeeze": lambda x, **_: x[:, None, :, None].squeeze(-1).squeeze(1),
    "squeeze of nothing": lambda x, **_: x.squeeze(1),
    "select": lambda m, **_: m[:, 1],
    "select from the end": lambda m, **_: m[..., -1],
    "slice": lambda m, **_: m[:, 1:, :2],
    "slice from the end": lambda m, **_: m[..., -3:-1],
    "every second": lambda s, **_: s[..., ::2],
    "split": lambda s, **_: s.split([2, 3, 4], -1)[1],
    "chunk": lambda s, **_: torch.cat(s.chunk(2, -1)[::-1], -1),
    "cat": lambda x, y, **_: torch.cat([x, y], -1),
    "cat of dtypes": lambda x, y, **_: torch.cat([x, (y > 0).long()], -1),
    "cat with nothing": lambda x, **_: torch.cat([x, x[:, :0]], -1),
    "stack": lambda x, y, **_: torch.stack([x, y], 1),
    "repeat": lambda x, **_: x.repeat(1, 2),
    "repeat in front": lambda x, **_: x.repeat(3, 1, 1).sum(0),
    "pad": lambda i, **_: F.pad(i, (1, 2, 0, 1), value=0.5),
    "zeros of rows": lambda x, **_: torch.cat([x, x.new_zeros(x.shape[0], 2)], -1),
    "ones alike": lambda x, **_: torch.ones_like(x) + x,
    "full of rows, by size": lambda m, **_: torch.full((2 * m.shape[0], 3), 0.5).reshape(-1, 6),
    "take": lambda m, **_: m[:, [2, 0]],
    "index select": lambda m, **_: m.index_select(2, torch.tensor([3, 1, 1])),
    "embedding": lambda x, **_: F.embedding((x > 0).long(), TABLE),
    "a table's row": lambda x, **_: TABLE[(x > 0).long() + 1],
    "one hot": lambda x, **_: ((x > 0).long()[..., None] == torch.arange(2)).float(),
    "arithmetic with rows": lambda x, **_: x / x.shape[0],
}
AXES = {
    "sum": lambda m, **_: m.sum(-1),
    "sum of axes": lambda m, **_: m.sum((1, 2), keepdim=True),
    "sum of truth": lambda m, **_: (m > 0).sum(-1),
    "mean": lambda m, **_: m.mean(-1, keepdim=True),
    "mean of axes": lambda i, **_: i.mean((-2, -1)),
    "prod": lambda x, **_: x.prod(-1),
    "amax": lambda m, **_: m.amax(1),
    "amin": lambda m, **_: m.amin(-1, keepdim=True),
    "max": lambda m, **_: m.max(-1).values,
    "max, where": lambda m, **_: m.max(-1, keepdim=True).indices,
    "min": lambda m, **_: m.min(1).values,
    "min, where": lambda m, **_: m.min(1).indices,
    "argmax": lambda m, **_: m.argmax(-1),
    "argmin": lambda m, **_: m.argmin(1, keepdim=True),
    "var": lambda m, **_: m.var(-1),
    "std": lambda m, **_: m.std((1, 2), correction=0, keepdim=True),
    "softmax": lambda m, **_: m.softmax(-1),
    "softmax of another axis": lambda m, **_: m.softmax(1),
    "log softmax": lambda m, **_: m.log_softmax(-1),
    "norm": lambda m, **_: m.norm(dim=-1),
    "norm of order 1": lambda m, **_: torch.linalg.vector_norm(m, 1, dim=(1, 2), keepdim=True),
    "logsumexp": lambda m, **_: m.logsumexp(-1),
}
LAYERS = {
    "linear": lambda x, **_: F.linear(x, INNER.T, CONSTANT[:3]),
    "linear of sequences": lambda m, **_: F.linear(m, INNER.T, CONSTANT[:3]),
    "linear without bias": lambda x, **_: x @ INNER,
    "addmm with factors": lambda x, **_: torch.addmm(CONSTANT[:3], x, INNER, beta=2, alpha=3),
    "bmm": lambda m, **_: m @ m.mT,
    "einsum": lambda m, x, **_: torch.einsum("bnd,bd->bn", m, x),
    "attention": lambda m, **_: F.scaled_dot_product_attention(m[:, None], m[:, None], m[:, None]),
    "layer norm": lambda m, **_: F.layer_norm(m, (4,), CONSTANT, CONSTANT + 1),
    "plain layer norm": lambda m, **_: F.layer_norm(m, (3, 4)),
    "group norm": lambda s, **_: F.group_norm(s, 2, CONSTANT, CONSTANT + 1),
    "plain group norm": lambda i, **_: F.group_norm(i, 2),
    "batch norm": lambda i, **_: F.batch_norm(
        i, CONSTANT[:2], CONSTANT[:2].abs(), CONSTANT[2:], CONSTANT[1:3]
    ),
    "plain batch norm": lambda i, **_: F.batch_norm(i, CONSTANT[:2], CONSTANT[:2].abs()),
    "conv": lambda i, **_: F.conv2d(i, **CONV),
    "conv, strided": lambda i, **_: F.conv2d(i, **CONV, stride=(2, 1), padding=(1, 2), dilation=2),
    "conv without bias": lambda i, **_: F.conv2d(i, KERNEL, padding=1),
    "conv of groups": lambda i, **_: F.conv2d(i, OF_GROUPS, groups=2),
    "conv of signals": lambda s, **_: F.conv1d(s, OF_SIGNALS, stride=2),
    "conv, transposed": lambda i, **_: F.conv_transpose2d(
        i, BACKWARDS, stride=2, padding=1, output_padding=1
    ),
    "max pool": lambda i, **_: F.max_pool2d(i, 3, 2),
    "max pool, padded": lambda i, **_: F.max_pool2d(i, (2, 3), padding=1),
    "mean pool": lambda i, **_: F.avg_pool2d(i, 2),
    "mean pool, padded": lambda i, **_: F.avg_pool2d(i, 3, 2, 1),
    "mean pool, padding uncounted": lambda i, **_: F.avg_pool2d(
        i, 3, 2, 1, count_include_pad=False
    ),
    "adaptive pool": lambda i, **_: F.adaptive_avg_pool2d(i, (3, 2)),
    "adaptive pool to one": lambda i, **_: F.adaptive_avg_pool2d(i, 1),
}
SPECIAL = torch.tensor([[0.0, 1.0, -1.0, math.nan], [math.inf, -math.inf, math.inf, math.nan]])
GROUPS = {
    "elementwise": ELEMENTWISE, "truth": TRUTH, "shapes": SHAPES, "axes": AXES, "layers": LAYERS,
}  # fmt: skip
CHANCE = {"randn_like", "rand_like", "multinomial"}  # tests/test_export.py has their laws


def recording(seen, name, emit):
    def recorded(*arguments, **options):
        seen.add(name)
        return emit(*arguments, **options)

    return recorded


def feed(rows, seed=0):
    return {name: normal(seed + i, rows, *shape) for i, (name, shape) in enumerate(INPUTS.items())}


def special():
    """Zeros, ones, infinities and NaN in x, against themselves and one another in y."""
    given = feed(len(SPECIAL) * 4)
    x = SPECIAL.repeat(4, 1)
    given["x"], given["y"] = x, torch.cat([x[:2], x[:2].roll(1, 0), x[:2].roll(1, 1), x[:2] * 0])
    return given


@pytest.fixture(scope="module")
def groups():
    """A run of each group, and the rows of the tables that it took."""
    seen: set[str] = set()
    rows = {name: recording(seen, name, emit) for name, emit in OPERATORS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "OPERATORS", rows)
        runs = {name: session(exported(cases, INPUTS)) for name, cases in GROUPS.items()}
    return runs, seen


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_operations_are_those_of_torch(groups, group, rows):
    for given in (feed(rows), feed(rows, seed=7)):
        results = ran(groups[0][group], given)
        for name, function in GROUPS[group].items():
            torch.testing.assert_close(
                results[name], function(**given), atol=1e-5, rtol=1e-5, equal_nan=True,
                msg=lambda told, name=name: f"{name}: {told}",
            )  # fmt: skip


def test_every_row_of_the_tables_is_used_by_an_operation_above(groups):
    assert sorted(set(OPERATORS) - groups[1] - CHANCE) == []


def test_truth_is_that_of_torch_of_nan_and_infinity_too():
    named = ("lt", "le", "gt", "ge", "eq", "ne", "ge a number", "le a number", "eq a number",
             "isnan", "isinf", "isfinite", "logical not")  # fmt: skip
    functions = {name: TRUTH[name] for name in named}
    results = ran(session(exported(functions, INPUTS)), special())
    for name, function in functions.items():
        torch.testing.assert_close(results[name], function(**special()), msg=name)


CHANCES = {
    "normal": lambda x, **_: x + torch.randn_like(x),
    "uniform": lambda x, **_: torch.rand_like(x),
    "normal, like a constant": lambda x, **_: x + torch.randn_like(CONSTANT),
    "choice": lambda x, **_: torch.multinomial(x * 0 + 1, 1).expand(-1, 4),
}


def test_chance_is_drawn_anew_at_every_run():
    onnxruntime.set_seed(1)
    running, given = session(exported(CHANCES, INPUTS)), feed(1000)
    first, second = ran(running, given), ran(running, given)
    for name in CHANCES:
        assert not torch.equal(first[name], second[name]), name
    noise, uniform, choice = first["normal"] - given["x"], first["uniform"], first["choice"]
    assert abs(noise.mean()) < 0.1 and 0.9 < noise.std() < 1.1  # 5 standard errors or more
    assert uniform.min() >= 0 and uniform.max() <= 1 and abs(uniform.mean() - 0.5) < 0.03
    assert sorted(choice.unique().tolist()) == [0, 1, 2, 3]


REFUSED = {
    "decides in Python": lambda x, **_: x if x.sum() > 0 else -x,
    "a certain number of rows": lambda x, **_: x.reshape(2, 4) + 1,
    "`len(x)`": lambda x, **_: x.new_zeros(len(x), 4) + x,
    "`cumsum`": lambda x, **_: x.cumsum(-1),
    "result 1 of `max_pool2d": lambda i, **_: F.max_pool2d(i, 2, return_indices=True)[1],
    "rounds sizes down": lambda i, **_: F.max_pool2d(i, 2, ceil_mode=True),
    "pools by its own divisor": lambda i, **_: F.avg_pool2d(i, 2, divisor_override=3),
    "sizes that do not divide": lambda i, **_: F.adaptive_avg_pool2d(i, 4),
    "no operations on bits": lambda x, **_: (3 * x).long() & 1,
    "no remainder of whole numbers": lambda x, **_: (3 * x).long() % 2,
    "no clamp of whole numbers": lambda x, **_: (3 * x).long().clamp(0, 1),
    "no norm of order 3": lambda m, **_: torch.linalg.vector_norm(m, 3, dim=-1),
    "several axes at once": lambda m, **_: m[:, torch.tensor([0]), torch.tensor([1])],
    "a generator of its own": lambda x, **_: x + normal(0, 4),
    "no counterpart of torch.complex64": lambda x, **_: (x.to(torch.complex64) * 2).real,
    "no such luck": lambda x, **_: fail("no such luck"),
}


def fail(reason):
    raise RuntimeError(reason)


@pytest.mark.parametrize("told", REFUSED)
def test_what_cannot_be_exported_is_refused_in_one_line(told):
    def function(_, *given):
        return [REFUSED[told](**dict(zip(INPUTS, given)))]

    output = [convert.Output("y", torch.float32, (convert.ROWS, 4))]
    with pytest.raises(ExportError) as refusal:
        convert.onnx_of(function, {}, INPUTS, output)
    assert told in str(refusal.value) and "\n" not in str(refusal.value)
