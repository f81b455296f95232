"""What compiled code allocates: torch's own graphs of a function, walked as the compiler's kernels would run.

AOTAutograd traces a function and its backward pass into two graphs and decides what is kept between them (min-cut:
cheap values are computed again). The compiler then joins element-wise operations into kernels. Only what a kernel or a
library's product hands to another one has a buffer; the rest lives in registers. `Compiler` stands in the place of
torch.compile for tensors without contents, and allocates just those buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._functorch.aot_autograd import aot_function
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

aten, prims = torch.ops.aten, torch.ops.prims
# Names of operations without a kernel of their own: the result shares the operand's memory.
VIEWS = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "slice", "select", "squeeze",
    "unsqueeze", "alias", "split", "split_with_sizes", "as_strided", "detach", "unbind",
}  # fmt: skip
# Computed where they are used, beside those that torch tags as pointwise.
INLINE = {
    "convert_element_type", "_to_copy", "clone", "full", "full_like", "zeros", "ones", "zeros_like", "ones_like",
    "iota", "arange", "empty", "scalar_tensor", "where", "cat", "index", "gather", "embedding", "copy",
    "slice_scatter", "select_scatter", "constant_pad_nd", "device_put", "lift_fresh_copy",
}  # fmt: skip
REDUCTIONS = {"sum", "mean", "amax", "amin", "max", "min", "any", "all", "prod", "var", "var_mean", "logsumexp"}
# Loops that write single places of a copy of their first operand.
SCATTERS = {"index_put", "scatter", "scatter_add", "index_add", "_unsafe_index_put", "scatter_reduce"}


class Compiler:
    """Called like torch.compile. Equal signatures share a graph, as they share compiled code."""

    def __init__(self, counting: Callable[[bool], AbstractContextManager[None]], on_cpu: bool) -> None:
        """counting: a context in which allocations count, or do not, as when a graph is traced."""
        self._counting, self._on_cpu = counting, on_cpu
        self._tracing = False
        self._graphs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        return partial(self._run, function)

    def _run(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        module = getattr(function, "__self__", None)
        weights: dict[str, Tensor] = {}
        if isinstance(module, nn.Module):
            weights = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        leaves, spec = tree_flatten((weights, given, named))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        kinds = tuple(
            (tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.requires_grad) if isinstance(leaf, Tensor) else leaf
            for leaf in leaves
        )
        plain = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]  # a graph must not keep the tensors
        slots = [isinstance(leaf, Tensor) for leaf in leaves]
        key = (getattr(function, "__func__", function), str(spec), kinds, torch.is_grad_enabled())
        if key not in self._graphs:

            def flat(*tensors: Tensor) -> Any:
                rest = iter(tensors)
                filled = [next(rest) if slot else leaf for slot, leaf in zip(slots, plain, strict=True)]
                weights, given, named = tree_unflatten(filled, spec)
                if not weights:
                    return function(*given, **named)
                assert isinstance(module, nn.Module)
                with _reparametrize_module(module, weights):
                    return function(*given, **named)

            self._graphs[key] = aot_function(
                flat,
                fw_compiler=self._allocating,
                bw_compiler=self._allocating,
                partition_fn=min_cut_rematerialization_partition,
                decompositions=select_decomp_table(),
                keep_inference_input_mutations=True,
            )
            # Traced with others of the same layout, since a graph keeps what it was traced with.
            self._tracing = True
            # The hooks keep an activation checkpoint, if there is one, from seeing this.
            with self._counting(False), saved_tensors_hooks(_same, _same):
                self._graphs[key](*map(_like, tensors))
            self._tracing = False
        with self._counting(False):
            return self._graphs[key](*tensors)

    def _allocating(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """A function that takes what the graph takes, and allocates what its kernels would."""
        kernels = Kernels(gm.graph, self._on_cpu)

        def run(given: list[Any]) -> list[Any]:
            with self._counting(not self._tracing):
                return kernels(given)

        run._boxed_call = True  # type: ignore[attr-defined]  # it gets its arguments in a list, which it empties
        return run


class Kernels:
    """A graph's buffers in the order of its kernels."""

    def __init__(self, graph: fx.Graph, on_cpu: bool):
        self.nodes = list(graph.nodes)
        self.layouts = {node: tree_map_only(Tensor, _Layout.of, node.meta.get("val")) for node in self.nodes}
        self.output = self.nodes[-1]
        returned = {_base(node) for node in _nodes(self.output.args)}
        operands = {_base(node) for user in self.nodes if _kind(user) == "product" for node in _nodes(user.args)}
        self.real = {
            node
            for node in self.nodes
            if _kind(node) in ("input", "product", "reduction", "scatter")
            or (_kind(node) == "inline" and (node in returned or node in operands))
        }
        if on_cpu:
            self.real |= _reused(self.nodes, self.real)
        self.reads: dict[fx.Node, set[fx.Node]] = {}
        for node in self.nodes:
            found: set[fx.Node] = set()
            for operand in _nodes((node.args, node.kwargs)):
                found |= {operand} if operand in self.real else self.reads[operand]
            self.reads[node] = found
        self.frees: dict[fx.Node, list[fx.Node]] = {}
        seen: set[fx.Node] = set()
        for node in reversed(self.nodes):
            if node in self.real or node is self.output or _kind(node) == "write":
                last = self.reads[node] - seen
                seen |= last
                self.frees[node] = list(last)

    def __call__(self, given: list[Any]) -> list[Any]:
        buffers: dict[fx.Node, Any] = {}
        arguments = iter(list(given))
        given.clear()
        for node in self.nodes:
            if node.op == "placeholder":
                buffers[node] = next(arguments)
        del arguments
        out: list[Any] = []
        for node in self.nodes:
            if node is self.output:
                out = [None if x is None else self._value(x, buffers) for x in node.args[0]]
            elif node in self.real and node.op != "placeholder":
                buffers[node] = self._made(node, buffers)
            for read in self.frees.get(node, ()):
                buffers.pop(read, None)
        return out

    def _made(self, node: fx.Node, buffers: dict[fx.Node, Any]) -> Any:
        value = self.layouts[node]
        if not isinstance(value, _Layout):
            return [part.new() if isinstance(part, _Layout) else part for part in value]
        if _kind(node) in ("inline", "scatter"):  # a kernel writes over an operand that nobody needs afterwards
            for read in self.frees[node]:
                held = None if read.op == "placeholder" else buffers.get(read)
                if (
                    isinstance(held, Tensor)
                    and held.dtype == value.dtype
                    and held.untyped_storage().nbytes() == value.size
                ):
                    return torch.as_strided(held, value.shape, value.stride, 0)
        return value.new()

    def _value(self, node: Any, buffers: dict[fx.Node, Any]) -> Any:
        """What the graph returns for a node."""
        if not isinstance(node, fx.Node):
            return node
        held = buffers[_base(node)]
        value = self.layouts[node]
        if isinstance(held, list):
            held = held[_which(node)]
        if not isinstance(value, _Layout) or held.shape == value.shape:
            return held
        return torch.as_strided(held, value.shape, value.stride, value.offset)


def _reused(nodes: list[fx.Node], real: set[fx.Node]) -> set[fx.Node]:
    """Values that code for a CPU stores: an exponential is in them, and they are needed before a sum and after it."""
    seen: dict[fx.Node, set[fx.Node]] = {}  # what a node computes from, up to other buffers
    slow: set[fx.Node] = set()
    stored: set[fx.Node] = set()
    for node in nodes:
        seen[node] = set()
        for operand in _nodes((node.args, node.kwargs)):
            if _kind(operand) == "reduction":
                seen[node].add(operand)
            elif operand not in real:
                seen[node] |= {operand, *seen[operand]}
        if _kind(node) == "inline" and node not in real and (_is_slow(node) or slow & seen[node]):
            slow.add(node)
        for reduction in (found for found in seen[node] if _kind(found) == "reduction"):
            stored |= seen[reduction] & slow & seen[node]
    return {node for node in stored if len(node.users) > 1}


def _is_slow(node: fx.Node) -> bool:
    return _name(node) in ("exp", "sigmoid")


def _name(node: fx.Node) -> str:
    return getattr(node.target, "_opname", None) or str(getattr(node.target, "__name__", ""))


def _kind(node: fx.Node) -> str:
    if node.op != "call_function":
        return {"placeholder": "input", "output": "output"}.get(node.op, "product")
    name = _name(node)
    if name in VIEWS or name == "getitem":
        return "view"
    if name == "copy_":
        return "write"
    if name in INLINE or torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return "inline"
    if name in REDUCTIONS:
        return "reduction"
    return "scatter" if name in SCATTERS else "product"


def _base(node: fx.Node) -> fx.Node:
    """The node whose memory a view shows."""
    while _kind(node) in ("view", "write"):
        node = next(iter(_nodes(node.args)))
    return node


def _which(node: fx.Node) -> int:
    """Which of an operation's several results a node is or shows."""
    while True:
        if getattr(node.target, "__name__", "") == "getitem":
            return int(node.args[1])  # type: ignore[arg-type]  # a getitem's second argument is its index
        node = next(iter(_nodes(node.args)))


def _nodes(args: Any) -> list[fx.Node]:
    return [leaf for leaf in tree_flatten(args)[0] if isinstance(leaf, fx.Node)]


@dataclass(frozen=True)
class _Layout:
    """Of a tensor. size: bytes of its storage."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    size: int

    @classmethod
    def of(cls, t: Tensor) -> _Layout:
        return cls(t.shape, t.stride(), t.dtype, int(t.storage_offset()), t.untyped_storage().nbytes())

    def new(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="cpu")


def _same(t: Tensor) -> Tensor:
    return t


def _like(t: Tensor) -> Tensor:
    layout = _Layout.of(t)
    return layout.new().requires_grad_(t.requires_grad)
