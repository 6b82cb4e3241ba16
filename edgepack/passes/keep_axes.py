"""A maximum over axes keeps them, and a Squeeze takes them away: OpenVINO 2026.4 answers wrongly otherwise.

Where a ReduceMax that drops its axes is read by a quantizer, its CPU plugin makes one operator of both, and that
computes something else (0 dB from the answer, for ReduceMax over all axes of space); with the axes kept it is right.
"""

from __future__ import annotations

import onnx_ir as ir

from edgepack.model import Model, constant
from edgepack.passes import PassResult
from edgepack.passes.edits import replace, with_axes

_EXTREMES = frozenset({"ReduceMax", "ReduceMin"})


def keep_axes(model: Model) -> PassResult:
    """Split each ReduceMax and ReduceMin that drops its axes in two; the answers stay the same."""
    result = model.clone()
    graph = result.ir.graph
    found = 0
    for node in list(graph):
        axes = _dropped(node)
        if axes is None:
            continue
        given = {"axes": axes} if "axes" in node.attributes else {}
        keeping = ir.node(node.op_type, node.inputs, attributes={**given, "keepdims": 1})
        keeping.outputs[0].name = f"{node.outputs[0].name}_kept"
        if node.outputs[0].dtype is not None:
            keeping.outputs[0].dtype = node.outputs[0].dtype
        squeeze = with_axes(graph, "Squeeze", keeping.outputs[0], axes, result.opset)
        squeeze.outputs[0].type, squeeze.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
        replace(graph, node, [keeping, squeeze])
        found += 1
    return PassResult(model=result if found else model, note="", figures={"split": float(found)})


def _dropped(node: ir.Node) -> list[int] | None:
    """The axes that a node drops; None where it keeps them, or they cannot be told."""
    if node.domain != "" or node.op_type not in _EXTREMES or node.attributes.get_int("keepdims", 1) != 0:
        return None
    if "axes" in node.attributes:
        return list(node.attributes.get_ints("axes"))
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if given is None or not given.size else [int(axis) for axis in given]
