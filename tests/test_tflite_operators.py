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
from edgepack.data.samples import Samples
from edgepack.errors import UnsupportedOperator
from edgepack.model import Model
from edgepack.passes.quantize import quantize
from edgepack.quantization.preparation import Steps, prepare
from edgepack.reference import Session
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


def between_grids(
    nodes: list[onnx.NodeProto],
    grids: Mapping[str, tuple[float, int]],
    constants: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A graph that came quantized: x of [2, 3, 4], Q/DQ behind each value that has a grid (scale, zero point)."""
    held: dict[str, np.ndarray] = dict(constants or {})
    written: list[onnx.NodeProto] = []
    for node in [None, *nodes]:
        name = "x" if node is None else node.output[0]
        if node is not None:
            names = [f"{one}_dq" if one in grids else one for one in node.input]
            written.append(helper.make_node(node.op_type, names, node.output))
        if name in grids:
            held[f"{name}_s"], held[f"{name}_z"] = np.float32(grids[name][0]), np.int8(grids[name][1])
            pair = f"{name}_s {name}_z"
            written.append(cases.n("QuantizeLinear", f"{name} {pair}", f"{name}_q"))
            written.append(cases.n("DequantizeLinear", f"{name}_q {pair}", f"{name}_dq"))
    return cases.case(written, {"x": [2, 3, 4]}, held).proto


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("grid", "kinds"), [((1 / 256, -128), ["LOGISTIC"]), ((1 / 255, -128), [])])
def test_a_sigmoid_that_came_quantized_is_an_integer_one_on_tflites_own_grid(
    grid: tuple[float, int], kinds: list[str], kernels: str, tmp_path: Path
) -> None:
    proto = between_grids([cases.n("Sigmoid", "x", "y")], {"x": (0.03, 5), "y": grid})
    path = lowered(proto, tmp_path)
    assert in_float(path) == ([] if kinds else ["LOGISTIC"])
    for seed in range(3):
        feed = {"x": models.random((2, 3, 4), seed) * 2}
        wanted = Session(proto, threads=1).run(feed)["y_dq"]
        assert np.abs(run(path, kernels, feed)["y_dq"] - wanted).max() <= 1.001 * grid[0]


def test_an_integer_product_takes_the_bias_behind_it_with_it(tmp_path: Path) -> None:
    for name in ("matmul_bias", "matmul_bias_relu"):
        path = lowered(quantized(cases.INT8[name]), tmp_path)
        assert operators(path) == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"]


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_constant_on_a_grid_of_its_own_is_no_bias(kernels: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    constants = {
        "w_q": rng.integers(-127, 128, (4, 4)).astype(np.int8), "w_s": np.full(4, 0.01, np.float32),
        "w_z": np.zeros(4, np.int8),
        "k_q": rng.integers(-127, 128, 4).astype(np.int8), "k_s": np.float32(0.02), "k_z": np.int8(3),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w"], axis=1),
        cases.n("DequantizeLinear", "k_q k_s k_z", "k"),
        cases.n("MatMul", "x w", "m"),
        cases.n("Add", "m k", "y"),
    ]
    proto = between_grids(nodes[2:], {"x": (0.03, 5), "y": (0.05, -3)}, constants)
    for node in nodes[1::-1]:
        proto.graph.node.insert(0, node)
    path, feed = lowered(proto, tmp_path), {"x": models.random((2, 3, 4), 1)}
    wanted = Session(proto, threads=1).run(feed)["y_dq"]
    assert np.abs(run(path, kernels, feed)["y_dq"] - wanted).max() <= 1.001 * 0.05


REFUSED = {
    "conv of three dimensions": (cases.one("Conv", [1, 2, 4, 4, 4], weights=[models.random((3, 2, 1, 1, 1))]), "Conv"),
    "no such operator": (cases.one("Det", [3, 3], out_type=onnx.TensorProto.FLOAT), "Det"),
    "diagonal": (cases.one("Einsum", [3, 3], equation="ii->i"), "the equation ii->i"),
    "sum over one alone": (cases.one("Einsum", [3, 4], [4, 5], equation="ij,jk->k"), "a sum over one operand"),
    "cubic": (cases._resize([1, 1, 4, 4], (1, 1, 2, 2), mode="cubic"), "mode cubic"),
    "long sequence": (cases._recurrent("LSTM", 4, steps=513), "513 steps, more than 512"),
    "peepholes": (
        cases.one(
            "LSTM", [3, 1, 2], outputs=1, hidden_size=2,
            weights=[*(models.random(shape) for shape in [(1, 8, 2), (1, 8, 2), (1, 16)]), None, None, None,
                     models.random((1, 6))],
        ),
        "peepholes",
    ),
    "computed weights": (cases.one("Conv", [1, 2, 4, 4], [3, 2, 1, 1]), "weights are computed"),
    "places of maxima": (cases.one("MaxPool", [1, 2, 4, 4], kernel_shape=[2, 2], outputs=2), "places of its maxima"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_is_refused_by_name(name: str, tmp_path: Path) -> None:
    case, said = REFUSED[name]
    with pytest.raises(UnsupportedOperator) as refusal:
        lowered(case.proto, tmp_path)
    assert said in str(refusal.value) and next(filter(None, case.proto.graph.node[0].output)) in str(refusal.value)
    assert not list(tmp_path.iterdir())


def operators(path: Path) -> list[str]:
    session: Any = interpreter.Interpreter(str(path), experimental_op_resolver_type=KERNELS["builtin"])
    return [details["op_name"] for details in session._get_ops_details()]


@pytest.mark.parametrize("name", cases.GELUS)
def test_a_spelled_out_gelu_is_one_operator(name: str, tmp_path: Path) -> None:
    assert operators(lowered(cases.GELUS[name].proto, tmp_path)) == ["GELU"]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("matmul_bias", ["FULLY_CONNECTED"]),
        ("matmul_bias_relu", ["FULLY_CONNECTED"]),
        ("matmul_bias_by_row", ["FULLY_CONNECTED", "ADD"]),
        ("matmul_keys", ["BATCH_MATMUL"]),
        ("gather_one", ["SLICE", "RESHAPE"]),
    ],
)
def test_a_transformers_steps_are_few_and_xnnpacks(name: str, kinds: list[str], tmp_path: Path) -> None:
    assert operators(lowered(cases.FLOAT[name].proto, tmp_path)) == kinds


def test_a_stream_of_tokens_is_turned_once(tmp_path: Path) -> None:
    kinds = operators(lowered(cases.BEHIND_CONV["tokens"].proto, tmp_path))
    # The input, the picture to rows of channels, and the rows to tokens.
    assert kinds.count("TRANSPOSE") == 3 and kinds.count("ADD") == 2


@pytest.mark.parametrize(("name", "windows"), [("conv_signal", 16), ("conv_signal_1d", 15), ("conv_signal_stereo", 8)])
def test_a_signals_first_convolution_reads_several_steps_as_channels(name: str, windows: int, tmp_path: Path) -> None:
    path = lowered(cases.CONVOLUTIONS[name].proto, tmp_path)
    session: Any = interpreter.Interpreter(str(path), experimental_op_resolver_type=KERNELS["builtin"])
    shapes = {details["index"]: details["shape"] for details in session.get_tensor_details()}
    (conv,) = (details for details in session._get_ops_details() if details["op_name"] == "CONV_2D")
    picture, kernel = (shapes[index] for index in conv["inputs"][:2])
    assert max(shapes[conv["outputs"][0]][1:3]) == windows and picture[3] == kernel[3] > 2


def test_an_erf_that_is_no_gelu_stays_one(tmp_path: Path) -> None:
    n, constants = cases.n, {"root": cases.scalar(2**0.5), "one": cases.scalar(1), "third": cases.scalar(1 / 3)}
    spelled = [
        n("Div", "x root", "d"),
        n("Erf", "d", "e"),
        n("Add", "e one", "a"),
        n("Mul", "x a", "m"),
        n("Mul", "m third", "y"),
    ]
    case = cases.case(spelled, {"x": [3, 7]}, constants)
    path = lowered(case.proto, tmp_path)
    assert "GELU" not in operators(path)
    feed = case.feed()
    assert distance(run(path, "xnnpack", feed)["y"], Session(case.proto).run(feed)["y"]) < 1e-5


def test_erf_is_within_a_millionth_everywhere(tmp_path: Path) -> None:
    case = cases.one("Erf", [1, 20001])
    feed = {"x0": np.linspace(-5, 5, 20001, dtype=np.float32)[None]}
    path = lowered(case.proto, tmp_path)
    wanted = Session(case.proto).run(feed)["y0"]
    for kernels in KERNELS:
        assert np.abs(run(path, kernels, feed)["y0"] - wanted).max() < 1e-6


# As TensorFlow's own converter numbers them (lite/tools/versioning/op_version.cc).
VERSIONS = {
    "conv": {"CONV_2D": 1}, "conv_groups": {"CONV_2D": 6}, "depthwise_dilated": {"DEPTHWISE_CONV_2D": 2},
    "transposed": {"TRANSPOSE_CONV": 3}, "matmul_rank_3": {"FULLY_CONNECTED": 5}, "gemm": {"FULLY_CONNECTED": 1},
    "linear_half_pixel": {"RESIZE_BILINEAR": 3}, "linear_asymmetric": {"RESIZE_BILINEAR": 1},
    "transpose_rank_5": {"TRANSPOSE": 4}, "expand": {"BROADCAST_TO": 2}, "add_int": {"ADD": 4}, "mul_int": {"MUL": 5},
}  # fmt: skip
INT8_VERSIONS = {
    "conv": {"CONV_2D": 3, "TRANSPOSE": 2, "QUANTIZE": 1, "DEQUANTIZE": 2}, "conv_groups": {"CONV_2D": 6},
    "depthwise": {"DEPTHWISE_CONV_2D": 3}, "gemm": {"FULLY_CONNECTED": 4}, "add_alike": {"ADD": 2},
    "mul_alike": {"MUL": 2}, "split": {"SPLIT": 2}, "leakyrelu": {"LEAKY_RELU": 1}, "concat": {"CONCATENATION": 2},
}  # fmt: skip


@pytest.mark.parametrize("int8", [False, True])
def test_operators_have_the_version_that_first_took_them(int8: bool, tmp_path: Path) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    for name, wanted in (INT8_VERSIONS if int8 else VERSIONS).items():
        proto = quantized(cases.INT8[name]) if int8 else cases.FLOAT[name].proto
        model = schema.ModelT.InitFromPackedBuf(lowered(proto, tmp_path).read_bytes())
        found = {(names[code.builtinCode], code.version) for code in model.operatorCodes}
        assert set(wanted.items()) <= found, name


@pytest.mark.parametrize(
    ("name", "kind"),
    [("average_pool", "DEPTHWISE_CONV_2D"), ("average_pool_pads", "AVERAGE_POOL_2D"),
     ("average_pool_include", "DEPTHWISE_CONV_2D"), ("average_pool_large", "AVERAGE_POOL_2D")],
)  # fmt: skip
def test_integer_averages_of_few_numbers_are_xnnpacks(name: str, kind: str, tmp_path: Path) -> None:
    assert kind in operators(lowered(quantized(cases.INT8[name]), tmp_path))
    assert "AVERAGE_POOL_2D" in operators(lowered(cases.FLOAT[name].proto, tmp_path))


def test_integer_averages_are_off_to_no_side(tmp_path: Path) -> None:
    case = cases.one("AveragePool", [1, 64, 56, 56], kernel_shape=[2, 2], strides=[2, 2])
    proto = quantized(case)
    path, feed, (output, scale) = lowered(proto, tmp_path), case.feed(30), next(iter(steps(proto).items()))
    apart = run(path, "xnnpack", feed)[output] - Session(proto, threads=1).run(feed)[output]
    assert abs(apart.mean()) < 0.01 * scale


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_integer_mean_over_a_picture_is_off_to_no_side(kernels: str, tmp_path: Path) -> None:
    case = cases.one("GlobalAveragePool", [1, 512, 14, 14])
    proto = quantized(case)
    path, feed, (output, scale) = lowered(proto, tmp_path), case.feed(30), next(iter(steps(proto).items()))
    apart = run(path, kernels, feed)[output] - Session(proto).run(feed)[output]
    assert abs(apart.mean()) < 0.05 * scale
