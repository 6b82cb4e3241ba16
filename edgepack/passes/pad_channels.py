"""Widen depthwise convolutions to whole vectors of channels, with channels that nothing reads.

ONNX Runtime's int8 depthwise kernels (MLAS, qdwconv) compute so many channels at a time and the rest one by one: 88
channels of 5×5 take 50 µs, 96 take 22. The float kernels need none of this, since they pad by themselves.

A new channel has zero weights where it is made and zero weights where it is read, so integer answers are the same to
the last bit. The channels of a depthwise convolution are those of all that it is joined to by activations, pooling,
sums and products, up to the ordinary convolutions on all sides; where anything else is joined to them, nothing is
widened.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgepack.model import Model, constant
from edgepack.passes import PassResult
from edgepack.passes.affine import foldable
from edgepack.passes.edits import replace_constant

# Operators that treat each channel by itself; those of two operands join the channels of both.
_CHANNELWISE = frozenset(
    {"Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool"}
)
_JOINING = frozenset({"Add", "Mul"})


@dataclass(frozen=True, kw_only=True)
class Channels:
    """What shares a number of channels: the convolutions that make them, keep them and read them."""

    makers: dict[int, ir.Node] = field(default_factory=dict)
    keepers: dict[int, ir.Node] = field(default_factory=dict)
    readers: dict[int, ir.Node] = field(default_factory=dict)
    values: dict[int, ir.Value] = field(default_factory=dict)


def pad_channels(model: Model, multiple: int) -> PassResult:
    """Widen each depthwise Conv whose channels are no multiple of `multiple`, where that is possible exactly."""
    if multiple <= 1:
        return PassResult(model=model, note="")
    result = model.clone()
    common.ShapeInferencePass()(result.ir)
    graph = result.ir.graph
    widened = 0
    for node in list(graph):
        count = depthwise_channels(node)
        missing = -count % multiple
        if not count or not missing:
            continue
        joined = _joined(node, count)
        if joined is not None:
            _widen(graph, joined, missing)
            widened += len(joined.keepers)
    if not widened:
        return PassResult(model=model, note="")
    for node in graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None
    common.ShapeInferencePass()(result.ir)
    return PassResult(
        model=result,
        note=f"{widened} depthwise convolutions widened to multiples of {multiple} channels",
        figures={"widened": float(widened)},
    )


def depthwise_channels(node: ir.Node) -> int:
    """The channels of a Conv that has one filter for each; 0 for any other node."""
    if node.op_type != "Conv" or not foldable(node):
        return 0
    weight = constant(node.inputs[1])
    assert weight is not None
    groups = node.attributes.get_int("group", 1)
    return groups if groups > 1 and weight.shape[:2] == (groups, 1) else 0


def _joined(start: ir.Node, count: int) -> Channels | None:
    """All that shares the channels of a depthwise Conv; None where they cannot be widened."""
    found = Channels()
    pending = [start.outputs[0]]
    while pending:
        value = pending.pop()
        if id(value) in found.values:
            continue
        if value.is_graph_output() or value.shape is None or len(value.shape) < 3 or value.shape[1] != count:
            return None
        found.values[id(value)] = value
        producer = value.producer()
        for node in [producer, *(node for node, _ in value.uses())]:
            further = None if node is None else _through(node, value, count, found)
            if further is None:
                return None
            pending += further
    return found


def _through(node: ir.Node, value: ir.Value, count: int, found: Channels) -> list[ir.Value] | None:
    """The values that a node joins to `value`; None where it does not let channels be added."""
    if node.domain != "" or len(node.outputs) != 1:
        return None
    if node.op_type == "Conv":
        if not foldable(node):
            return None
        if depthwise_channels(node) == count:
            found.keepers[id(node)] = node
            return [node.outputs[0], *(v for v in node.inputs[:1] if v is not None)]
        if node.attributes.get_int("group", 1) != 1:
            return None
        side = found.makers if node.outputs[0] is value else found.readers
        side[id(node)] = node
        return []
    if node.op_type in _CHANNELWISE:
        rest = [v for v in node.inputs[1:] if v is not None]
        if any((array := constant(v)) is None or array.size != 1 for v in rest):
            return None
        return [node.outputs[0], *(v for v in node.inputs[:1] if v is not None)]
    if node.op_type not in _JOINING:
        return None
    operands = [v for v in node.inputs if v is not None]
    numbers = [v for v in operands if (array := constant(v)) is not None and array.size == 1]
    return [node.outputs[0], *(v for v in operands if v not in numbers)]


def _widen(graph: ir.Graph, joined: Channels, missing: int) -> None:
    for node in joined.makers.values():
        _pad(graph, node, 1, 0, missing)
        _pad(graph, node, 2, 0, missing)
    for node in joined.keepers.values():
        _pad(graph, node, 1, 0, missing)
        _pad(graph, node, 2, 0, missing)
        node.attributes["group"] = ir.AttrInt64("group", node.attributes.get_int("group", 1) + missing)
    for node in joined.readers.values():
        _pad(graph, node, 1, 1, missing)
    for value in joined.values.values():
        assert value.shape is not None
        dims = list(value.shape)
        dims[1] = int(dims[1]) + missing if isinstance(dims[1], int) else dims[1]
        value.shape = ir.Shape(dims)


def _pad(graph: ir.Graph, node: ir.Node, index: int, axis: int, missing: int) -> None:
    """Zeros behind a constant input of the node, under a name of its own."""
    old = node.inputs[index] if len(node.inputs) > index else None
    array = constant(old)
    if old is None or array is None:
        return
    widths = [(0, missing if i == axis else 0) for i in range(array.ndim)]
    replace_constant(graph, node, index, np.pad(array, widths), f"{old.name}_wide")
