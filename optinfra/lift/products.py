"""Let compiled functions multiply matrices by the faster of torch's two libraries."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

# torch multiplies float32 matrices by MKL, which computes with 256 bits at a time on processors
# of other makers than its own; oneDNN, in the same torch, takes all 512 and halves the time
# (AMD Zen 5, 1024×128×128, one thread: 0.32 ms by MKL, 0.15 ms by oneDNN). Its call costs 12 µs
# more, and a left matrix that lies column by column a copy: below so many multiplications the
# two are as fast as one another.
WORTH_IT = 2**21
WORTH_A_COPY = 2**23


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
    multiplications (2²³ where the left one has to be copied first) is given to oneDNN. Which
    these are depends on shapes and strides alone, so one graph always computes the same bits.

    Returns:
      A `CustomGraphPass` for inductor's `post_grad_custom_post_pass`.
    """
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    product = _product()

    class FasterProducts(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            for node in graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default):
                _replace(node, product, *node.args)
            for node in graph.find_nodes(op="call_function", target=torch.ops.aten.addmm.default):
                bias, left, right = node.args
                if not node.kwargs and bias.meta["val"].dim() == 1:
                    _replace(node, product, left, right, bias)

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))

    return FasterProducts()


def _replace(node: Node, product: Any, left: Node, right: Node, bias: Node | None = None) -> None:
    if not _is_worth_it(left.meta["val"], right.meta["val"]):
        return
    with node.graph.inserting_before(node):
        faster = node.graph.call_function(product, (left, right, bias))
    faster.meta.update(node.meta)
    node.replace_all_uses_with(faster)
    node.graph.erase_node(node)


def _is_worth_it(left: Tensor, right: Tensor) -> bool:
    if left.device.type != "cpu" or left.dtype != torch.float32:
        return False
    multiplications = left.shape[0] * left.shape[1] * right.shape[1]
    return bool(multiplications >= (WORTH_IT if left.stride(1) == 1 else WORTH_A_COPY))


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
