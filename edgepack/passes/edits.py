"""What passes do to a graph: put nodes in another's place, add constants, take away what is not read any more."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

MICROSOFT = "com.microsoft"
# Since which opset axes are an input.
_AXES_AS_INPUT = {"Squeeze": 13, "ReduceMean": 18}


def bias_of(node: ir.Node, product: ir.Value) -> list[ir.Node]:
    """The addition that a Gemm's bias becomes once its product is another operator."""
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    return [] if bias is None else [ir.node("Add", [product, bias], name=f"{node.outputs[0].name}_bias")]


def replace(graph: ir.Graph, node: ir.Node, nodes: list[ir.Node]) -> None:
    """`nodes` in the place of `node`, the last one's output under its name."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [old], [new])


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A constant of that name, or of one like it where that is taken."""
    unique, serial = name, 0
    while unique in graph.initializers:
        unique, serial = f"{name}_{serial}", serial + 1
    value = ir.val(unique, const_value=ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=unique))
    graph.register_initializer(value)
    return value


def with_axes(
    graph: ir.Graph, op_type: str, value: ir.Value, axes: list[int], opset: int, **attributes: int
) -> ir.Node:
    """A Squeeze or ReduceMean over the axes, which newer opsets give as an input."""
    if opset < _AXES_AS_INPUT[op_type]:
        return ir.node(op_type, [value], attributes={"axes": axes, **attributes})
    given = initializer(graph, f"{value.name}_axes", np.array(axes, np.int64))
    return ir.node(op_type, [value, given], attributes=attributes)


def replace_constant(graph: ir.Graph, node: ir.Node, index: int, array: np.ndarray, name: str) -> None:
    """Another constant as a node's input, which it may not have had; the old one goes where nothing else reads it."""
    old = node.inputs[index] if len(node.inputs) > index else None
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    node.replace_input_with(index, initializer(graph, name, array))
    if old is not None:
        drop(graph, old)


def drop(graph: ir.Graph, value: ir.Value) -> None:
    """Remove a constant that nobody reads any more; one that is an input too stays, as callers may give it."""
    if value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    producer = value.producer()
    if producer is not None:
        graph.remove(producer, safe=True)
    else:
        graph.initializers.pop(str(value.name), None)
