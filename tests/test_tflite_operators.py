"""Every operator alone in LiteRT, with XNNPACK and with the builtin kernels, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgepack import target
from edgepack.model import Model
from edgepack.passes.quantize import quantize
from edgepack.preparation import Steps, prepare
from edgepack.reference import Session
from edgepack.samples import Samples
from tests import models
from tests import tflite_cases as cases
from tests.tflite_cases import Case

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
TFLITE = target.load("tflite")
KERNELS = {
    "xnnpack": interpreter.OpResolverType.AUTO,
    "builtin": interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


def lowered(proto: onnx.ModelProto, folder: Path) -> Path:
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    return folder / TFLITE.lower(Model.from_proto(copy), folder)


def in_float(path: Path) -> list[str]:
    """The operators that compute in float, and do not only move numbers."""
    session: Any = interpreter.Interpreter(str(path), experimental_op_resolver_type=KERNELS["builtin"])
    types = {details["index"]: details["dtype"] for details in session.get_tensor_details()}
    return [
        details["op_name"]
        for details in session._get_ops_details()
        if details["op_name"] not in ("QUANTIZE", "DEQUANTIZE", "TRANSPOSE", "RESHAPE")
        and any(types.get(index) == np.float32 for index in details["inputs"])
    ]


def run(path: Path, kernels: str, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    session: Any = interpreter.Interpreter(str(path), experimental_op_resolver_type=KERNELS[kernels])
    session.allocate_tensors()
    answers: dict[str, np.ndarray] = session.get_signature_runner()(**feed)
    return answers


def distance(answer: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest number."""
    assert answer.shape == wanted.shape and answer.dtype == wanted.dtype
    if wanted.dtype.kind != "f":
        return float((answer != wanted).any())
    return float(np.abs(answer - wanted).max() / max(np.abs(wanted).max(), 1e-6))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", cases.FLOAT)
def test_float_answers_are_those_of_onnx_runtime(name: str, kernels: str, tmp_path: Path) -> None:
    case = cases.FLOAT[name]
    path = lowered(case.proto, tmp_path)
    session = Session(case.proto, threads=1)
    for seed in range(2):
        feed = case.feed(seed)
        wanted, answers = session.run(feed), run(path, kernels, feed)
        for output in session.outputs:
            assert distance(answers[output], wanted[output]) < 1e-5, output


LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def quantized(case: Case) -> onnx.ModelProto:
    """The model as the quantizer writes it by TFLite's scheme, its outputs those behind the last quantizers.

    What is no layer runs in int8 only between layers, so they are put around it and cut off again.
    """
    proto = onnx.ModelProto.FromString(case.proto.SerializeToString())
    inputs, ends = ([value.name for value in values] for values in (proto.graph.input, proto.graph.output))
    between = not any(node.op_type in LAYERS for node in proto.graph.node)
    if between:
        _put_between_layers(proto)
    feeds = [{f"{name}_before" if between else name: array for name, array in case.feed(i).items()} for i in range(8)]
    model = Model.from_proto(onnx.shape_inference.infer_shapes(proto))
    samples = Samples(source="drawn", count=len(feeds), read=feeds.__getitem__, digest=str)
    prepared = prepare(model, TFLITE.SCHEME, samples, steps=Steps(equalize=False, smooth=False, swish=False))
    result = quantize(prepared.model, TFLITE.SCHEME, prepared.ranges, prepared.layers).model.proto()
    return ending(result, inputs, ends)


def _put_between_layers(proto: onnx.ModelProto) -> None:
    graph = proto.graph
    for value in [*graph.input]:
        width = value.type.tensor_type.shape.dim[-1].dim_value
        graph.initializer.append(numpy_helper.from_array(np.eye(width, dtype=np.float32), f"{value.name}_same"))
        graph.node.insert(0, helper.make_node("MatMul", [f"{value.name}_before", f"{value.name}_same"], [value.name]))
        value.name = f"{value.name}_before"
    for value in [*graph.output]:
        width = value.type.tensor_type.shape.dim[-1].dim_value
        graph.initializer.append(numpy_helper.from_array(models.random((width, 3), 50), f"{value.name}_layer"))
        graph.node.append(helper.make_node("MatMul", [value.name, f"{value.name}_layer"], [f"{value.name}_end"]))
        graph.output.append(helper.make_tensor_value_info(f"{value.name}_end", onnx.TensorProto.FLOAT, None))
        graph.output.remove(value)


def ending(proto: onnx.ModelProto, inputs: list[str], ends: list[str]) -> onnx.ModelProto:
    """The graph from those inputs as far as those tensors, restored from their integers."""
    restored = [name if makes(proto, name, "DequantizeLinear") else f"{name}_dequantized" for name in ends]
    wanted, kept = set(restored), []
    for node in reversed(proto.graph.node):
        if wanted & set(node.output) - set(inputs):
            wanted.update(node.input)
            kept.append(node)
    for value in proto.graph.input:
        value.name = value.name.removesuffix("_before")
    for field, values in (
        (proto.graph.node, kept[::-1]),
        (proto.graph.initializer, [tensor for tensor in proto.graph.initializer if tensor.name in wanted]),
        (proto.graph.output, [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in restored]),
    ):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
    return proto


def makes(proto: onnx.ModelProto, name: str, op_type: str) -> bool:
    return any(node.op_type == op_type and name in node.output for node in proto.graph.node)


def steps(proto: onnx.ModelProto) -> dict[str, float]:
    """The scale of each output."""
    scales = {
        tensor.name: float(numpy_helper.to_array(tensor)) for tensor in proto.graph.initializer if not tensor.dims
    }
    return {
        node.output[0]: scales[node.input[1]] for node in proto.graph.node if node.output[0] in wanted_outputs(proto)
    }


def wanted_outputs(proto: onnx.ModelProto) -> set[str]:
    return {output.name for output in proto.graph.output}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", cases.INT8)
def test_integers_are_within_a_step_of_the_same_graph_in_onnx_runtime(name: str, kernels: str, tmp_path: Path) -> None:
    case = cases.INT8[name]
    proto = quantized(case)
    path = lowered(proto, tmp_path)
    assert bool(in_float(path)) == (name in cases.IN_FLOAT)
    session, scale = Session(proto, threads=1), steps(proto)
    for seed in range(20, 22):
        feed = case.feed(seed)
        wanted, answers = session.run(feed), run(path, kernels, feed)
        for output in session.outputs:
            assert answers[output].shape == wanted[output].shape
            assert np.abs(answers[output] - wanted[output]).max() <= 1.001 * scale[output], output
