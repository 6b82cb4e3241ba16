"""uint8 tensors of a graph that came quantized, as the int8 ones that TFLite's kernels take: 128 less, same numbers."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgepack.errors import UnsupportedOperator

_HINT = "--target onnxruntime runs it as it is; or start from the float model"
# What may stand between the two on integers alone: it moves them, or compares them.
_MOVES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Identity"}
)


def in_int8(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with int8 in place of uint8 wherever it quantizes; the same graph where it does not.

    Raises:
        UnsupportedOperator: integers that something computes on, or that are an output, or weights with a zero point.
    """
    graph = proto.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    integers = _uint8(graph, arrays)
    if not integers:
        return proto
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear", *_MOVES):
            touched = sorted(integers & set(node.input))
            if touched:
                raise UnsupportedOperator(f"{node.op_type} computes on the integers {touched[0]!r}", _HINT)
    outputs = sorted(integers & {info.name for info in (*graph.output, *graph.input)})
    if outputs:
        raise UnsupportedOperator(f"{outputs[0]!r} is uint8, and the model gives or takes it", _HINT)
    for node in graph.node:
        name = {"QuantizeLinear": node.output, "DequantizeLinear": node.input}.get(node.op_type, [""])[0]
        if name in integers:
            if len(node.input) < 3 or not node.input[2]:
                del node.input[2:]
                zero = numpy_helper.from_array(np.zeros((), np.uint8), f"{name}_zero")
                graph.initializer.append(zero)
                arrays[zero.name] = graph.initializer[-1]
                node.input.append(zero.name)
            integers.add(node.input[2])
    for name in integers & set(arrays):
        array = numpy_helper.to_array(arrays[name])
        if array.dtype == np.uint8:
            arrays[name].CopyFrom(numpy_helper.from_array((array.astype(np.int16) - 128).astype(np.int8), name))
    _refuse_asymmetric_weights(graph, arrays)
    del graph.value_info[:]
    return proto


def _uint8(graph: onnx.GraphProto, arrays: dict[str, onnx.TensorProto]) -> set[str]:
    """The names of what is quantized to uint8."""
    found: set[str] = set()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = arrays.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            source = arrays.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
            kind = zero.data_type if zero is not None else source.data_type if source is not None else None
            if kind in (onnx.TensorProto.UINT8, None) and (kind is not None or node.op_type == "QuantizeLinear"):
                found.add(node.output[0] if node.op_type == "QuantizeLinear" else node.input[0])
        elif node.op_type in _MOVES and node.input and node.input[0] in found:
            found.update(node.output[:1] if node.op_type == "MaxPool" else node.output)
    return found


def _refuse_asymmetric_weights(graph: onnx.GraphProto, arrays: dict[str, onnx.TensorProto]) -> None:
    weights = {node.input[1] for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")}
    for node in graph.node:
        constant = node.op_type == "DequantizeLinear" and node.input[0] in arrays and len(node.input) > 2
        if constant and node.output[0] in weights and numpy_helper.to_array(arrays[node.input[2]]).any():
            raise UnsupportedOperator(f"the weights {node.input[0]!r} have a zero point, and TFLite's have none", _HINT)
