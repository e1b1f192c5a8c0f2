"""Laws of the faster products: the same numbers, only where it pays, told by shapes alone."""

import os
import subprocess
import sys

import pytest
import torch
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from optinfra import lift
from optinfra.lift import products
from optinfra.lift.compiled import options

aten = torch.ops.aten
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN"
)


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)


def called(function, *arguments):
    """Trace a function, apply the pass, and give the graph and the products called in it."""
    graph = make_fx(function)(*arguments)
    products.faster_products()(graph.graph)
    graph.recompile()
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return graph, [name for name in names if name.split(".")[1] in ("mm", "addmm", "product")]


def product(left, right):
    return torch.mm(left, right)


@needs_onednn
@pytest.mark.parametrize(
    ("left", "right", "replaced"),
    [
        (normal(128, 128), normal(128, 128), True),
        (normal(127, 128), normal(128, 128), False),
        (normal(128, 128), normal(128, 128).t(), True),
        (normal(128, 128).t(), normal(128, 128), False),
        (normal(256, 128).t(), normal(256, 128), True),
        (normal(255, 128).t(), normal(255, 128), False),
        (normal(128, 128, dtype=torch.float64), normal(128, 128, dtype=torch.float64), False),
    ],
)
def test_only_products_that_are_large_enough_are_given_to_onednn(left, right, replaced):
    graph, names = called(product, left, right)
    assert names == (["optinfra.product.default"] if replaced else ["aten.mm.default"])
    result = graph(left, right)
    assert_close(result, left @ right, rtol=1e-5, atol=1e-4)
    assert result.is_contiguous()


@needs_onednn
def test_a_narrow_right_matrix_goes_to_the_left_and_the_result_lies_as_before():
    """A gradient of weights: the left matrix lies column by column."""
    for rows, width, inputs in ((256, 256, 3), (300, 128, 64), (8, 4, 3)):
        left, right = normal(rows, width).t(), normal(rows, inputs)
        graph, (name,) = called(product, left, right)
        (node,) = (x for x in graph.graph.nodes if str(x.target) == name)
        assert tuple(node.args[0].meta["val"].shape) == (inputs, rows)
        result = graph(left, right)
        assert_close(result, left @ right, rtol=1e-5, atol=1e-4)
        assert result.is_contiguous()
        assert next(iter(reversed(graph.graph.nodes))).args[0].meta["val"].is_contiguous()
    for left, right in (
        (normal(256, 128).t(), normal(256, 128)),
        (normal(128, 256), normal(256, 3)),
        (normal(256, 128).t(), normal(3, 256).t()),
    ):
        graph, (name,) = called(product, left, right)
        (node,) = (x for x in graph.graph.nodes if str(x.target) == name)
        assert tuple(node.args[0].meta["val"].shape) == tuple(left.shape)


@needs_onednn
def test_a_bias_goes_along_and_anything_else_that_is_added_stays_with_torch():
    left, right, bias = normal(128, 128), normal(128, 128), normal(128)
    graph, names = called(torch.addmm, bias, left, right)
    assert names == ["optinfra.product.default"]
    assert_close(graph(bias, left, right), left @ right + bias, rtol=1e-5, atol=1e-4)

    assert called(torch.addmm, right, left, right)[1] == ["aten.addmm.default"]

    def doubled(bias, left, right):
        return torch.addmm(bias, left, right, alpha=2.0)

    assert called(doubled, bias, left, right)[1] == ["aten.addmm.default"]


@needs_onednn
def test_what_the_operation_promises_of_its_result_is_so():
    left, right, bias = normal(128, 96), normal(64, 96).t(), normal(64)
    operation = products._product()
    for given in (None, bias):
        real = operation(left, right, given)
        promised = operation(
            left.to("meta"), right.to("meta"), None if given is None else given.to("meta")
        )
        assert (promised.shape, promised.stride()) == (real.shape, real.stride())
        assert promised.dtype == real.dtype


@needs_onednn
@pytest.mark.inductor
@pytest.mark.parametrize("rows", [512, pytest.param(1, marks=pytest.mark.thorough)])
def test_a_compiled_gradient_with_faster_products_equals_the_eager_one(monkeypatch, rows):
    monkeypatch.setattr(products, "available", lambda: True)
    weights = {"first": normal(128, 64), "bias": normal(128), "second": normal(128, 128)}
    x = normal(rows, 64)

    def loss(weights, x):
        hidden = torch.tanh(torch.nn.functional.linear(x, weights["first"], weights["bias"]))
        return (hidden @ weights["second"]).square().mean()

    expected = grad(loss)(weights, x)
    actual = lift.compiled(grad(loss))(weights, x)
    for name in weights:
        assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5)
    members = {name: torch.stack((w, 2 * w)) for name, w in weights.items()}
    expected = vmap(grad(loss), (0, None))(members, x)
    actual = lift.compiled(vmap(grad(loss), (0, None)))(members, x)
    for name in weights:
        assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5)


def test_the_pass_is_asked_for_only_where_it_helps(monkeypatch):
    monkeypatch.setattr(products, "available", lambda: False)
    assert "post_grad_custom_post_pass" not in options()["options"]
    if torch.backends.mkldnn.is_available():
        monkeypatch.setattr(products, "available", lambda: True)
        assert options()["options"]["post_grad_custom_post_pass"] is products.faster_products()


@pytest.mark.parametrize(
    ("capability", "onednn", "operation", "helps"),
    [
        ("AVX512", True, True, True),
        ("AVX512_VNNI", True, True, True),
        ("AVX2", True, True, False),
        ("DEFAULT", True, True, False),
        ("AVX512", False, True, False),
        ("AVX512", True, False, False),
    ],
)
def test_it_helps_on_wide_registers_with_onednn_at_hand(
    monkeypatch, capability, onednn, operation, helps
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    if not operation:
        monkeypatch.setattr(products, "_onednn", lambda: None)
    assert products.available() is helps


@needs_onednn
@pytest.mark.inductor
@pytest.mark.thorough
def test_another_process_finds_the_compiled_graph_and_the_operation_in_it(tmp_path):
    code = """
import torch
from torch._dynamo.utils import counters
from optinfra import lift
from optinfra.lift import products
products.available = lambda: True
x = torch.ones(128, 128)
print(lift.compiled(lambda x: torch.tanh(x @ x))(x).sum().item(), end=" ")
print(counters["inductor"]["fxgraph_cache_hit"], counters["aot_autograd"]["autograd_cache_hit"])
"""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert outputs[0] == ["16384.0", "0", "0"]
    assert outputs[1][0] == "16384.0"
    assert "1" in outputs[1][1:]
