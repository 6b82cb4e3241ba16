"""Another weight and another bias for a layer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgepack.model import constant
from edgepack.passes.edits import initializer
from edgepack.quantization.layer import addition, from_matrix


def has_matrix(node: ir.Node) -> bool:
    """Whether a layer's output is one matrix, a float32 constant, times its input."""
    weight = constant(node.inputs[1])
    if weight is None or weight.dtype != np.float32:
        return False
    if node.op_type in ("Gemm", "MatMul") and (weight.ndim != 2 or node.attributes.get_int("transA", 0) != 0):
        return False
    return node.op_type != "Gemm" or node.attributes.get_float("alpha", 1.0) == 1.0


def bias_input(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The node and the input that hold a layer's bias, given or not; None where there is no place for one."""
    if node.op_type == "MatMul":
        return addition(node)
    return (node, 2) if node.op_type != "Gemm" or node.attributes.get_float("beta", 1.0) == 1.0 else None


def bias_of(node: ir.Node, outputs: int) -> np.ndarray:
    """The layer's bias by output channel, float64; zeros where it has none."""
    place = bias_input(node)
    value = place[0].inputs[place[1]] if place is not None and len(place[0].inputs) > place[1] else None
    array = constant(value)
    return np.zeros(outputs) if array is None else np.broadcast_to(array.reshape(-1).astype(np.float64), (outputs,))


def set_layer(graph: ir.Graph, node: ir.Node, matrix: np.ndarray, bias: np.ndarray) -> None:
    """Put a matrix [G, O, K] and a bias [G · O] in the place of the layer's own.

    The constants that are replaced must be the layer's alone; a bias that has no place is left out.
    """
    weight = node.inputs[1]
    old = constant(weight)
    assert weight is not None and old is not None
    array = np.ascontiguousarray(from_matrix(node, matrix, old.shape), np.float32)
    weight.const_value = ir.tensor(array, name=weight.name)
    place = bias_input(node)
    if place is None:
        return
    holder, index = place
    held = holder.inputs[index] if len(holder.inputs) > index else None
    if held is None:
        if not bias.any():
            return
        holder.resize_inputs(max(len(holder.inputs), index + 1))
        holder.replace_input_with(index, initializer(graph, f"{node.outputs[0].name}_bias", bias.astype(np.float32)))
        return
    before = constant(held)
    assert before is not None
    shape = before.shape if before.size == bias.size else bias.shape
    held.const_value = ir.tensor(np.ascontiguousarray(bias.reshape(shape), np.float32), name=held.name)
    held.shape = ir.Shape(shape)
