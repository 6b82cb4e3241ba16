"""Multiply-accumulates and activations against numbers worked out by hand, and against counting them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgepack.cost import Cost, cost_of
from edgepack.errors import ShapeNeeded
from edgepack.model import Model
from edgepack.reference import Session
from tests import models

PROPERTY = settings(max_examples=25, deadline=None, database=None)
Shape = Sequence[int | str | None]
node = helper.make_node


def cost(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    weights: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Shape],
) -> Cost:
    arrays = {name: models.random(shape) for name, shape in weights.items()}
    return cost_of(models.in_edgepack(models.model(nodes, inputs, outputs, arrays)))


# --- convolutions ---------------------------------------------------------------------------------------


def conv(data: Shape, weight: Sequence[int], output: Shape, **attributes: object) -> int:
    return cost([node("Conv", ["x", "w"], ["z"], **attributes)], {"x": data}, {"w": weight}, {"z": output}).macs


def test_conv() -> None:
    # 6 × 6 places, 4 channels out, 3 × 3 × 3 products each.
    assert conv([1, 3, 8, 8], [4, 3, 3, 3], [1, 4, 6, 6]) == 36 * 4 * 27


def test_conv_with_padding_keeps_its_size() -> None:
    """Products with the padding are counted: runtimes do them."""
    assert conv([1, 3, 8, 8], [4, 3, 3, 3], [1, 4, 8, 8], pads=[1, 1, 1, 1]) == 64 * 4 * 27


def test_conv_with_strides() -> None:
    assert conv([1, 3, 8, 8], [4, 3, 3, 3], [1, 4, 4, 4], pads=[1, 1, 1, 1], strides=[2, 2]) == 16 * 4 * 27


def test_conv_with_dilations() -> None:
    # A 3 × 3 kernel spans 5 × 5.
    assert conv([1, 3, 8, 8], [4, 3, 3, 3], [1, 4, 4, 4], dilations=[2, 2]) == 16 * 4 * 27


def test_grouped_conv() -> None:
    assert conv([1, 4, 6, 6], [8, 2, 3, 3], [1, 8, 4, 4], group=2) == 16 * 8 * 2 * 9


def test_depthwise_conv() -> None:
    assert conv([1, 16, 6, 6], [16, 1, 3, 3], [1, 16, 4, 4], group=16) == 16 * 16 * 9


def test_conv_in_one_and_three_dimensions() -> None:
    assert conv([1, 2, 10], [3, 2, 5], [1, 3, 6]) == 6 * 3 * 2 * 5
    assert conv([1, 2, 4, 4, 4], [3, 2, 2, 2, 2], [1, 3, 3, 3, 3]) == 27 * 3 * 2 * 8


def test_conv_of_a_batch() -> None:
    assert conv([5, 3, 8, 8], [4, 3, 3, 3], [5, 4, 6, 6]) == 5 * conv([1, 3, 8, 8], [4, 3, 3, 3], [1, 4, 6, 6])


def transposed(data: Shape, weight: Sequence[int], output: Shape, **attributes: object) -> int:
    nodes = [node("ConvTranspose", ["x", "w"], ["z"], **attributes)]
    return cost(nodes, {"x": data}, {"w": weight}, {"z": output}).macs


def test_transposed_conv() -> None:
    # Each of 3 × 4 × 4 values is spread over 5 channels of 2 × 2.
    assert transposed([1, 3, 4, 4], [3, 5, 2, 2], [1, 5, 8, 8], strides=[2, 2]) == 3 * 16 * 5 * 4


def test_grouped_transposed_conv() -> None:
    assert transposed([1, 4, 4, 4], [4, 3, 2, 2], [1, 6, 5, 5], group=2) == 4 * 16 * 3 * 4


# --- matrices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "data", "weight"),
    [({}, [2, 7], [7, 5]), ({"transB": 1}, [2, 7], [5, 7]), ({"transA": 1}, [7, 2], [7, 5])],
)
def test_gemm(attributes: dict[str, int], data: Shape, weight: Sequence[int]) -> None:
    nodes = [node("Gemm", ["x", "w", "b"], ["z"], **attributes)]
    assert cost(nodes, {"x": data}, {"w": weight, "b": [5]}, {"z": [2, 5]}).macs == 2 * 7 * 5


@pytest.mark.parametrize(
    ("data", "weight", "output", "macs"),
    [
        ([2, 7], [7, 5], [2, 5], 2 * 7 * 5),
        ([3, 2, 7], [7, 5], [3, 2, 5], 3 * 2 * 7 * 5),
        ([4, 3, 2, 7], [3, 7, 5], [4, 3, 2, 5], 4 * 3 * 2 * 7 * 5),
        ([2, 7], [4, 7, 5], [4, 2, 5], 4 * 2 * 7 * 5),
        ([7], [7, 5], [5], 7 * 5),
        ([2, 7], [7], [2], 2 * 7),
        ([7], [7], [], 7),
    ],
)
def test_matmul(data: Shape, weight: Sequence[int], output: Shape, macs: int) -> None:
    assert cost([node("MatMul", ["x", "w"], ["z"])], {"x": data}, {"w": weight}, {"z": output}).macs == macs


def test_matmul_of_activations() -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["z"])]
    assert cost(nodes, {"x": [2, 3, 4]}, {}, {"z": [2, 3, 3]}).macs == 2 * 3 * 4 * 3


# --- recurrent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize(("direction", "ways"), [("forward", 1), ("bidirectional", 2)])
def test_recurrent(kind: str, gates: int, direction: str, ways: int) -> None:
    # 5 steps, a batch of 2, 3 features, 4 hidden units.
    nodes = [node(kind, ["x", "w", "r"], ["z"], hidden_size=4, direction=direction)]
    weights = {"w": [ways, gates * 4, 3], "r": [ways, gates * 4, 4]}
    macs = cost(nodes, {"x": [5, 2, 3]}, weights, {"z": [5, ways, 2, 4]}).macs
    assert macs == 5 * 2 * ways * gates * 4 * (3 + 4)


# --- counted: with ones everywhere, each output is the number of its products ---------------------------


def counted(proto: onnx.ModelProto) -> int:
    model = models.in_edgepack(proto)
    feed = {tensor.name: np.ones([int(dim or 0) for dim in tensor.shape], np.float32) for tensor in model.inputs}
    (answer,) = Session(model).run(feed).values()
    return round(float(answer.astype(np.float64).sum()))


def ones(nodes: Sequence[onnx.NodeProto], data: Shape, weight: Sequence[int], output: Shape) -> onnx.ModelProto:
    return models.model(nodes, {"x": data}, {"z": output}, {"w": np.ones(weight, np.float32)})


sizes = st.integers(1, 4)


@PROPERTY
@given(sizes, sizes, sizes, sizes, st.integers(1, 3), st.integers(1, 3), st.integers(4, 9))
def test_conv_counts_its_products(
    batch: int, group: int, inside: int, outside: int, kernel: int, stride: int, side: int
) -> None:
    nodes = [node("Conv", ["x", "w"], ["z"], group=group, strides=[stride, stride])]
    weight = [group * outside, inside, kernel, kernel]
    proto = ones(nodes, [batch, group * inside, side, side], weight, [batch, group * outside, None, None])
    assert cost_of(models.in_edgepack(proto)).macs == counted(proto)


@PROPERTY
@given(sizes, sizes, sizes, sizes, st.integers(1, 3), st.integers(1, 3))
def test_transposed_conv_counts_its_products(
    batch: int, group: int, inside: int, outside: int, kernel: int, stride: int
) -> None:
    nodes = [node("ConvTranspose", ["x", "w"], ["z"], group=group, strides=[stride, stride])]
    weight = [group * inside, outside, kernel, kernel]
    proto = ones(nodes, [batch, group * inside, 5, 4], weight, [batch, group * outside, None, None])
    assert cost_of(models.in_edgepack(proto)).macs == counted(proto)


@PROPERTY
@given(sizes, sizes, sizes, sizes)
def test_matmul_counts_its_products(batch: int, rows: int, inner: int, columns: int) -> None:
    proto = ones([node("MatMul", ["x", "w"], ["z"])], [batch, rows, inner], [inner, columns], [batch, rows, columns])
    assert cost_of(models.in_edgepack(proto)).macs == counted(proto)


# --- whole models ---------------------------------------------------------------------------------------


def test_convnet() -> None:
    # conv1, depthwise and pointwise at 16 × 16, and the head.
    macs = 256 * 16 * 27 + 256 * 16 * 9 + 256 * 16 * 16 + 16 * 10
    found = cost_of(models.in_edgepack(models.convnet()))
    # Conv, Relu, Conv, Clip, Conv and Add give 16 × 16 × 16, the pool a quarter, then the mean, flattened, and y.
    floats = 6 * 16 * 256 + 16 * 64 + 16 + 16 + 10
    assert found == Cost(macs=macs, activation_bytes=4 * floats, uncounted=0, input_shapes={"x": (1, 3, 16, 16)})


def test_other_operators_cost_nothing() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Add", ["r", "w"], ["z"])]
    found = cost(nodes, {"x": [2, 8]}, {"w": [8]}, {"z": [2, 8]})
    assert (found.macs, found.activation_bytes, found.uncounted) == (0, 2 * 2 * 8 * 4, 0)


def test_half_precision_activations_take_half_the_bytes() -> None:
    nodes = [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("Cast", ["h"], ["z"], to=TensorProto.FLOAT)]
    assert cost(nodes, {"x": [2, 8]}, {}, {"z": [2, 8]}).activation_bytes == 16 * 2 + 16 * 4


def test_weights_in_constant_nodes_are_weights() -> None:
    """Some exporters write them so; the model is the same, and so is its cost."""
    matrix = models.random((16, 8))
    matmul = node("MatMul", ["x", "w"], ["z"])
    held = node("Constant", [], ["w"], value=numpy_helper.from_array(matrix))
    inputs, outputs = {"x": [2, 16]}, {"z": [2, 8]}
    one = cost_of(models.in_edgepack(models.model([matmul], inputs, outputs, {"w": matrix})))
    assert cost_of(models.in_edgepack(models.model([held, matmul], inputs, outputs))) == one


def test_dequantized_weights_cost_what_float_ones_do() -> None:
    nodes = [node("DequantizeLinear", ["q", "scale", "zero"], ["w"]), node("MatMul", ["x", "w"], ["z"])]
    weights = {
        "q": np.ones((16, 8), np.int8),
        "scale": np.array(0.1, np.float32),
        "zero": np.array(0, np.int8),
    }
    found = cost_of(models.in_edgepack(models.model(nodes, {"x": [2, 16]}, {"z": [2, 8]}, weights)))
    assert found == cost([node("MatMul", ["x", "w"], ["z"])], {"x": [2, 16]}, {"w": [16, 8]}, {"z": [2, 8]})


def branch(name: str, nodes: Sequence[onnx.NodeProto]) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [2, 8])
    return helper.make_graph(list(nodes), name, [], [output])


def test_operators_inside_control_flow_are_named_not_counted() -> None:
    both = [branch(name, [node("MatMul", ["x", "w"], ["inner"])]) for name in ("then", "else")]
    nodes = [
        node("MatMul", ["x", "w"], ["outside"]),
        node("If", ["condition"], ["z"], then_branch=both[0], else_branch=both[1]),
    ]
    proto = models.model(
        nodes,
        {"x": [2, 16], "condition": []},
        {"z": [2, 8], "outside": [2, 8]},
        {"w": models.random((16, 8))},
        types={"condition": TensorProto.BOOL},
    )
    found = cost_of(models.in_edgepack(proto))
    assert (found.macs, found.uncounted) == (2 * 16 * 8, 2)


def test_operators_whose_shapes_stay_unknown_do_not_vanish() -> None:
    """ONNX infers nothing through contributed operators: what follows is not free, it is uncounted."""
    nodes = [
        node("Gelu", ["x"], ["h"], domain="com.microsoft"),
        node("MatMul", ["h", "w"], ["m"]),
        node("Relu", ["m"], ["z"]),
    ]
    proto = models.model(nodes, {"x": [2, 16]}, {"z": [2, 8]}, {"w": models.random((16, 8))})
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    found = cost_of(models.in_edgepack(proto))
    assert (found.macs, found.uncounted) in {(2 * 16 * 8, 0), (0, 1)}


# --- open dimensions ------------------------------------------------------------------------------------


def test_an_open_batch_counts_as_one() -> None:
    nodes = [node("MatMul", ["x", "w"], ["z"])]
    found = cost(nodes, {"x": ["N", 16]}, {"w": [16, 8]}, {"z": ["N", 8]})
    assert found.macs == 16 * 8
    assert found.input_shapes == {"x": (1, 16)}


@pytest.mark.parametrize("dim", ["L", None, 0, -1])
def test_another_open_dimension_needs_a_length(dim: int | str | None) -> None:
    nodes = [node("MatMul", ["x", "w"], ["z"])]
    proto = models.model(nodes, {"x": [1, dim, 16]}, {"z": [1, None, 8]}, {"w": models.random((16, 8))})
    with pytest.raises(ShapeNeeded, match="x float32 1×") as caught:
        cost_of(Model.from_proto(proto))
    assert "--input-shape x=1x1x16" in caught.value.hint


def test_the_model_is_left_as_it_was() -> None:
    model = models.in_edgepack(models.convnet())
    before = model.proto().SerializeToString()
    cost_of(model)
    assert model.proto().SerializeToString() == before
    assert model.inputs[0].shape == ("N", 3, 16, 16)
