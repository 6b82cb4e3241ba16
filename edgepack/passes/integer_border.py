"""Integers at a quantized graph's border: its first QuantizeLinear and its last DequantizeLinear go, with their grids.

An output that a float operator makes is quantized at the very end: probabilities (Softmax, Sigmoid) on the grid that
TFLite has for them, 1/256 from 0, others on that of their values over the calibration samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgepack.errors import UnsupportedOperator
from edgepack.model import Model, constant
from edgepack.passes import PassResult
from edgepack.passes.edits import initializer

_PROBABILITIES = frozenset({"Softmax", "Sigmoid"})
_HINT = "leave --io-dtype out: the bundle then takes and gives float, and quantizes inside"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """real = scale · (integer − zero_point)"""

    scale: float
    zero_point: int
    dtype: str


def input_grid(value: ir.Value) -> Grid:
    """The grid of a graph's float input that is quantized before all else.

    Raises:
        UnsupportedOperator: it is not.
    """
    nodes = [use.node for use in value.uses()]
    floats = [node for node in nodes if node.op_type != "QuantizeLinear"]
    if not nodes or floats or value.is_graph_output():
        reader = f"{floats[0].op_type} reads it" if floats else "nothing quantizes it"
        raise UnsupportedOperator(f"the input {value.name!r} is no int8 tensor: {reader} in float", _HINT)
    grids = [_grid(node) for node in nodes]
    if any(grid != grids[0] for grid in grids):
        raise UnsupportedOperator(f"the input {value.name!r} is quantized on several grids", _HINT)
    return grids[0]


def output_grid(value: ir.Value) -> Grid | None:
    """The grid of a graph's float output; None where the graph has none for it.

    Raises:
        UnsupportedOperator: there is one scale a channel.
    """
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return _grid(producer)
    known = producer is not None and producer.op_type in _PROBABILITIES
    return Grid(scale=1 / 256, zero_point=-128, dtype="int8") if known else None


def _grid(node: ir.Node) -> Grid:
    """
    Raises:
        UnsupportedOperator: there is one scale a channel, or it is no constant.
    """
    scale = constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scale is None or scale.size != 1 or zero is None:
        raise UnsupportedOperator(f"{node.op_type} {node.outputs[0].name!r} has no scale of its own", _HINT)
    return Grid(scale=float(scale.reshape(())), zero_point=int(zero.reshape(())), dtype=zero.dtype.name)


def integer_border(model: Model, grids: Mapping[str, Grid]) -> PassResult:
    """The quantized graph with integers for the named inputs and outputs, which keep their names.

    Args:
        grids: those of the inputs as the graph has them, and of outputs that it makes in float any.
    """
    changed = model.clone()
    graph = changed.ir.graph
    for place, value in enumerate(graph.inputs):
        if value.name in grids:
            _integer_input(graph, place, grids[str(value.name)])
    for place, value in enumerate(graph.outputs):
        if value.name in grids:
            _integer_output(graph, place, grids[str(value.name)])
    return PassResult(model=changed, note=f"integers at the border: {', '.join(sorted(grids))}")


def _integer_input(graph: ir.Graph, place: int, grid: Grid) -> None:
    value = graph.inputs[place]
    public = ir.Value(name=value.name, type=_type(grid), shape=value.shape)
    for node in [use.node for use in value.uses()]:
        ir.convenience.replace_all_uses_with(node.outputs[0], public, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    graph.inputs[place] = public


def _integer_output(graph: ir.Graph, place: int, grid: Grid) -> None:
    value = graph.outputs[place]
    name, producer = str(value.name), value.producer()
    source = producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else None
    # An output is a node's own, and nobody else's: integers that others read too, or that come in, pass an Identity.
    if source is None:
        scale = initializer(graph, f"{name}_scale", np.array(grid.scale, np.float32))
        zero = initializer(graph, f"{name}_zero_point", np.array(grid.zero_point, grid.dtype))
        last = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}_quantized_here")
        graph.append(last)
        public = last.outputs[0]
    elif source.is_graph_input() or source.is_graph_output():
        last = ir.node("Identity", [source], name=f"{name}_integers")
        graph.append(last)
        public = last.outputs[0]
    else:
        public = source
    graph.outputs[place] = public
    value.name, public.name = f"{name}_float", name
    public.type, public.shape = _type(grid), value.shape
    if source is not None and producer is not None and not value.uses() and not value.is_graph_output():
        graph.remove(producer, safe=True)


def _type(grid: Grid) -> ir.TensorType:
    return ir.TensorType(ir.DataType.from_numpy(np.dtype(grid.dtype)))
