"""A typed fp16 graph as a float32 one that rounds where the typed one does.

ONNX Runtime's CPU kernels compute float16 graphs in float32 and take out the roundings between them, which hides what
overflows and underflows. Casts there and back that the graph itself holds are kept.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgepack.model import Model

_HALF, _FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT


def emulated(model: Model) -> Model:
    """`model` in float32, every float16 result of an operator rounded; what a DQ restores is not, since it is fused."""
    result = model.clone()
    common.ShapeInferencePass(data_prop=False)(result.ir)
    graph = result.ir.graph
    for value in graph.initializers.values():
        if value.dtype == _HALF and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
            value.type = ir.TensorType(_FLOAT)
    for node in list(graph):
        for output in node.outputs:
            if output.dtype == _HALF:
                output.type = ir.TensorType(_FLOAT)  # as a whole: clones share it
                if node.op_type != "DequantizeLinear":
                    _round(graph, node, output)
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == _HALF:
            node.attributes["to"] = ir.AttrInt64("to", int(_FLOAT))
    return result


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    uses = list(value.uses())
    there = ir.node("Cast", [value], attributes={"to": int(_HALF)}, name=f"{value.name}_to_half")
    back = ir.node("Cast", [there.outputs[0]], attributes={"to": int(_FLOAT)}, name=f"{value.name}_from_half")
    there.outputs[0].name, there.outputs[0].dtype = f"{value.name}_in_half", _HALF
    back.outputs[0].name, back.outputs[0].dtype = f"{value.name}_rounded", _FLOAT
    for made in (there, back):
        made.outputs[0].shape = value.shape
    graph.insert_after(node, [there, back])
    for reader, index in uses:
        reader.replace_input_with(index, back.outputs[0])
