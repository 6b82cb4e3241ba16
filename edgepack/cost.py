"""What a model costs to run: multiply-accumulates and bytes of activations, from its shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, shape_inference

from edgepack.bundles.golden import lengths
from edgepack.errors import ShapeNeeded
from edgepack.model import LARGEST_MESSAGE, Model
from edgepack.passes.fix_shapes import fix_shapes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """For one inference at `input_shapes`. `uncounted` operators do multiply, but inside control flow."""

    macs: int
    activation_bytes: int
    uncounted: int
    input_shapes: dict[str, tuple[int, ...]]


def cost_of(model: Model) -> Cost:
    """Count multiply-accumulates of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN.

    Raises:
        ShapeNeeded: a dimension other than the first is open.
    """
    shapes = {tensor.name: lengths(tensor) for tensor in model.inputs}
    if model.weight_bytes >= LARGEST_MESSAGE:
        raise ShapeNeeded("shapes cannot be inferred for a model of this size")
    fixed = fix_shapes(model, shapes).model
    inferred = ir.from_proto(shape_inference.infer_shapes(fixed.proto(), data_prop=True))
    macs = activation_bytes = unknown = 0
    constants = set(inferred.graph.initializers.values())
    for node in inferred.graph:
        if all(value is None or value in constants for value in node.inputs):
            constants.update(node.outputs)
            continue
        count = _macs(node)
        macs += count
        unknown += not count and node.op_type in _COUNTED and node.domain == ""
        activation_bytes += sum(_bytes(output) for output in node.outputs)
    nested = sum(1 for node in model.nodes() if node.op_type in _COUNTED) - sum(
        1 for node in model.ir.graph if node.op_type in _COUNTED
    )
    return Cost(macs=macs, activation_bytes=activation_bytes, uncounted=nested + unknown, input_shapes=shapes)


def layer_shares(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Each weighted node's share of the model's multiply-accumulates, by the name of its output.

    Args:
        shapes: of the inputs. Where shapes cannot be inferred the result is empty.
    """
    if model.weight_bytes >= LARGEST_MESSAGE:
        return {}
    fixed = fix_shapes(model, shapes).model
    inferred = ir.from_proto(shape_inference.infer_shapes(fixed.proto(), data_prop=True))
    macs = {str(node.outputs[0].name): _macs(node) for node in inferred.graph if node.op_type in _COUNTED}
    total = sum(macs.values())
    return {name: count / total for name, count in macs.items()} if total else {}


def macs_by_output(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Multiply-accumulates of each weighted node, by the name of its output; those inside control flow are left out.

    Args:
        shapes: of tensors, by name.
    """
    seen = model.clone().ir.graph
    for node in seen:
        for value in (*node.inputs, *node.outputs):
            if value is not None and str(value.name) in shapes:
                value.shape = ir.Shape(shapes[str(value.name)])
    return {str(node.outputs[0].name): _macs(node) for node in seen if node.op_type in _COUNTED}


def observed_shapes(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shapes of what weighted nodes read and make, by name, as they are when the model runs on `feed`.

    Inference stops where shapes are computed; running does not.

    Args:
        model: small enough to be one message, or the result is empty.
        feed: of any type, since only shapes matter; an input that is missing is a state, and zero.
    """
    from edgepack.reference import Session

    if model.ByteSize() >= LARGEST_MESSAGE:
        return {}
    constants = {tensor.name for tensor in model.graph.initializer} | {""}
    names = [name for node in model.graph.node if node.op_type in _COUNTED for name in (*node.input, *node.output)]
    given = {value.name for value in model.graph.input}
    wanted = [name for name in dict.fromkeys(names) if name not in constants and name not in given]
    asked = onnx.ModelProto.FromString(model.SerializeToString())
    has = {value.name for value in asked.graph.output}
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in has)
    whole = {
        value.name: _fed(value, feed.get(value.name)) for value in model.graph.input if value.name not in constants
    }
    answers = Session(asked, threads=1).run(whole, wanted)
    return {name: array.shape for name, array in {**whole, **answers}.items()}


def _fed(value: onnx.ValueInfoProto, array: np.ndarray | None) -> np.ndarray:
    kind = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if array is None:
        return np.zeros([dim.dim_value or 1 for dim in kind.shape.dim], dtype)
    return np.asarray(array).astype(dtype)


_COUNTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def _macs(node: ir.Node) -> int:
    """Multiply-accumulates of one node; 0 for those that do none, and where a shape stayed unknown."""
    if node.op_type not in _COUNTED or node.domain != "" or len(node.inputs) < 2:
        return 0
    data, weight, output = (_dims(value) for value in (node.inputs[0], node.inputs[1], node.outputs[0]))
    if node.op_type in _RECURRENT:
        recurrence = _dims(node.inputs[2])
        if data is None or recurrence is None or weight is None:
            return 0
        return int(data[0] * data[1] * (math.prod(weight) + math.prod(recurrence)))
    if data is None or weight is None or output is None:
        return 0
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(weight[1:])
    if node.op_type == "Gemm":
        return math.prod(output) * (weight[1] if node.attributes.get_int("transB", 0) else weight[0])
    return int(math.prod(output) * data[-1])


def _dims(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.shape is None:
        return None
    dims = tuple(dim for dim in value.shape if isinstance(dim, int))
    return dims if len(dims) == len(value.shape) else None


def _bytes(value: ir.Value) -> int:
    dims = _dims(value)
    return int(math.prod(dims) * value.dtype.itemsize) if dims is not None and value.dtype is not None else 0
