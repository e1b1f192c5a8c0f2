"""Let compiled functions multiply matrices by the faster of torch's two libraries."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

aten = torch.ops.aten

# torch multiplies float32 matrices by MKL, which computes with 256 bits at a time on processors
# of other makers than its own; oneDNN, in the same torch, takes all 512 and halves the time
# (AMD Zen 5, 1024×128×128, one thread: 0.32 ms by MKL, 0.15 ms by oneDNN). Its call costs 12 µs
# more, and a left matrix that lies column by column a copy: below so many multiplications the
# two are as fast as one another.
WORTH_IT = 2**21
WORTH_A_COPY = 2**22


def available() -> bool:
    """Whether oneDNN is here and has wider registers than MKL may use."""
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return wide and torch.backends.mkldnn.is_available() and hasattr(_onednn(), "default")


def _onednn() -> Any:
    """Find the operation, which torch keeps for its compiler; an empty thing without it."""
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


@lru_cache(maxsize=1)
def faster_products() -> Any:
    """Make the pass over a graph that puts oneDNN's products in the place of large ones of MKL.

    Each product of two float32 matrices on the CPU, with or without a bias, of at least 2²¹
    multiplications (2²² where the left one has to be copied first) is given to oneDNN. Which
    these are depends on shapes and strides alone, so one graph always computes the same bits.

    Returns:
      A `CustomGraphPass` for inductor's `post_grad_custom_post_pass`.
    """
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    product = _product()

    class FasterProducts(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            for node in graph.find_nodes(op="call_function", target=aten.mm.default):
                turned = _turned(node)
                _replace(turned, product, *_operands(turned))
            for node in graph.find_nodes(op="call_function", target=aten.addmm.default):
                bias, left, right = _operands(node)
                if not node.kwargs and bias.meta["val"].dim() == 1:
                    _replace(node, product, left, right, bias)

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))

    return FasterProducts()


def _turned(node: Node) -> Node:
    """Compute A·B as (Bᵀ·Aᵀ)ᵀ where A lies column by column and B is narrower.

    So the gradients of weights by few inputs: [256, 256]ᵀ·[256, 3] takes MKL 57 µs, turned 9 µs.
    """
    left, right = _operands(node)
    a, b = left.meta["val"], right.meta["val"]
    if not _is_of_concern(a) or a.stride(1) == 1 or b.stride(1) != 1 or b.shape[1] >= a.shape[0]:
        return node
    graph, whole = node.graph, node.meta["val"]
    with graph.inserting_before(node):
        first = _called(graph, b.t(), aten.permute.default, right, [1, 0])
        second = _called(graph, a.t(), aten.permute.default, left, [1, 0])
        turned = whole.new_empty(whole.shape[1], whole.shape[0])
        product = _called(graph, turned, aten.mm.default, first, second)
        back = _called(graph, turned.t(), aten.permute.default, product, [1, 0])
        # It lies as the product did, whoever takes it.
        lying = {"memory_format": torch.contiguous_format}
        last = _called(graph, whole, aten.clone.default, back, **lying)
    node.replace_all_uses_with(last)
    graph.erase_node(node)
    return product


def _operands(node: Node) -> Any:
    return node.args


def _called(graph: Graph, gives: Tensor, function: Any, *arguments: Any, **keywords: Any) -> Node:
    """Call a function in the graph, and note what it gives."""
    node = graph.call_function(function, arguments, keywords)
    node.meta["val"] = gives
    return node


def _replace(node: Node, product: Any, left: Node, right: Node, bias: Node | None = None) -> None:
    if not _is_worth_it(left.meta["val"], right.meta["val"]):
        return
    with node.graph.inserting_before(node):
        faster = node.graph.call_function(product, (left, right, bias))
    faster.meta.update(node.meta)
    node.replace_all_uses_with(faster)
    node.graph.erase_node(node)


def _is_worth_it(left: Tensor, right: Tensor) -> bool:
    if not _is_of_concern(left):
        return False
    multiplications = left.shape[0] * left.shape[1] * right.shape[1]
    return bool(multiplications >= (WORTH_IT if left.stride(1) == 1 else WORTH_A_COPY))


def _is_of_concern(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


@lru_cache(maxsize=1)
def _product() -> Any:
    """Register the product as an operation that inductor calls and does not look into."""
    library = torch.library.Library("optinfra", "DEF")
    library.define("product(Tensor left, Tensor right, Tensor? bias) -> Tensor")
    linear = _onednn().default

    def multiply(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
        return linear(left, right.t(), bias, "none", [], "")

    def shaped(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
        return left.new_empty(left.shape[0], right.shape[1])

    library.impl("product", multiply, "CPU")
    library.impl("product", shaped, "Meta")
    _KEPT.append(library)  # an operation lives as long as its library
    return torch.ops.optinfra.product.default


_KEPT: list[Any] = []
