"""Weights in 8 and 4 bits: what a target answers is what the float model with the rounded weights answers."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgepack import target
from edgepack.data.samples import Feed
from edgepack.errors import UnsupportedOperator
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.passes.blocks import Layout, Rounded, nearest
from edgepack.passes.weight_only import store_in_4_bits, store_in_8_bits
from edgepack.reference import Session
from tests import models

ORT = target.load("onnxruntime").SCHEME
W4 = Layout(bits=4, block=32, symmetric=False)
Matrices = dict[str, np.ndarray]


def able(precision: str) -> list[str]:
    return [name for name in target.names() if precision in target.load(name).PRECISIONS]


def installed(name: str) -> str:
    modules = (package.replace("-", "_") for package in target.load(name).REQUIREMENTS)
    if not all(map(importlib.util.find_spec, modules)):
        pytest.skip(f"the {name} extra is not installed")
    return name


@pytest.fixture(params=able("w8"))
def name(request: pytest.FixtureRequest) -> str:
    return installed(request.param)


@pytest.fixture(params=able("w4"))
def four(request: pytest.FixtureRequest) -> str:
    """A target that has 4 bits."""
    return installed(request.param)


def run(name: str, model: Model, folder: Path, feed: Feed) -> np.ndarray:
    """The target's answer, from its own file in `folder`."""
    folder.mkdir(exist_ok=True)
    return target.runner(name).load(str(folder / target.load(name).lower(model, folder)), 1)(feed)["y"]


def integers_of(model: Model) -> Matrices:
    """Every weight in float, as a MatMul holds it, read by numpy alone, under its old name."""
    proto = model.proto()
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    found = {}
    for name, array in arrays.items():
        if name.endswith("_int8"):
            found[name.removesuffix("_int8")] = array.astype(np.float32) * arrays[name.replace("_int8", "_scale")]
    for node in proto.graph.node:
        if node.op_type == "MatMulNBits":
            facts = {attribute.name: attribute.i for attribute in node.attribute}
            packed, scale = arrays[node.input[1]], arrays[node.input[2]]
            nibbles = np.stack([packed & 15, packed >> 4], -1).reshape(*scale.shape, facts["block_size"])
            zero = np.full(scale.shape, 8)
            if len(node.input) > 3:
                bytes_ = arrays[node.input[3]]
                zero = np.stack([bytes_ & 15, bytes_ >> 4], -1).reshape(len(bytes_), -1)[:, : scale.shape[1]]
            matrix = (nibbles.astype(np.float32) - zero[..., None].astype(np.float32)) * scale[..., None]
            found[node.input[1].removesuffix("_int4")] = matrix.reshape(facts["N"], -1)[:, : facts["K"]].T
    return found


def with_weights(proto: onnx.ModelProto, rounded: Matrices) -> Model:
    """The float model with the rounded weights in the place of its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.name in rounded:
            tensor.CopyFrom(numpy_helper.from_array(rounded[tensor.name], tensor.name))
    return models.in_edgepack(copy)


def nets() -> dict[str, tuple[onnx.ModelProto, Feed]]:
    ids = np.array([[1, 5, 7, 2, 19, 0, 99, 3, 3, 8, 4, 6]])
    return {
        "convnet": (models.convnet(channels=32), {"x": models.images(1)}),
        "mlp": (models.mlp(features=70, classes=33), {"x": models.random((3, 70), 9)}),
        "transformer": (models.transformer(), {"ids": ids}),
        "odd widths": (models.transformer(width=51), {"ids": ids}),
        "lstm": (models.lstm(), {"x": models.random((10, 1, 16), 9)}),
        "both ways": (models.lstm(directions=2), {"x": models.random((10, 1, 16), 9)}),
    }


@pytest.mark.parametrize("net", nets())
def test_8_bits_answer_like_the_float_model_with_rounded_weights(name: str, net: str, tmp_path: Path) -> None:
    proto, feed = nets()[net]
    stored = store_in_8_bits(models.in_edgepack(proto), target.load(name).SCHEME)
    rounded = integers_of(stored.model)
    assert len(rounded) == stored.figures["int8"] >= 2
    answer = run(name, stored.model, tmp_path, feed)
    wanted = Session(with_weights(proto, rounded)).run(feed)["y"]
    assert harness().relative_error(wanted, answer) < 1e-5
    original = Session(models.in_edgepack(proto)).run(feed)["y"]
    assert harness().sqnr_db(original, answer) > 30
    assert stored.model.weight_bytes < 0.55 * models.in_edgepack(proto).weight_bytes


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize(("width", "in_4_bits"), [(64, 6), (160, 6), (200, 6)])
def test_4_bits_answer_like_the_float_model_with_rounded_weights(
    four: str, width: int, in_4_bits: int, block: int, symmetric: bool, tmp_path: Path
) -> None:
    """Widths that are a multiple of the block, of neither, and shorter than it, where 8 bits are taken."""
    proto, feed = models.transformer(width=width), {"ids": np.array([[1, 5, 7, 2, 19, 0, 99, 3, 3, 8, 4, 6]])}
    layout = Layout(bits=4, block=block, symmetric=symmetric)
    stored = store_in_4_bits(models.in_edgepack(proto), target.load(four).SCHEME, layout, int8_activations=False)
    assert stored.figures["w4"] == (in_4_bits if width >= block else 1) and f"blocks of {block}" in stored.note
    answer = run(four, stored.model, tmp_path, feed)
    wanted = Session(with_weights(proto, integers_of(stored.model))).run(feed)["y"]
    assert harness().relative_error(wanted, answer) < 1e-4


def test_4_bits_with_8_bit_activations_lose_next_to_nothing_more(four: str, tmp_path: Path) -> None:
    proto, feed = models.transformer(width=128), {"ids": np.array([[1, 5, 7, 2, 19, 0, 99, 3, 3, 8, 4, 6]])}
    original = Session(models.in_edgepack(proto)).run(feed)["y"]
    decibels = [
        harness().sqnr_db(
            original,
            run(
                four,
                store_in_4_bits(models.in_edgepack(proto), target.load(four).SCHEME, W4, int8_activations=fast).model,
                tmp_path / str(fast),
                feed,
            ),
        )
        for fast in (False, True)
    ]
    assert decibels[0] > 12 and abs(decibels[0] - decibels[1]) < 1.0


def test_files_shrink(four: str, tmp_path: Path) -> None:
    """Per weight: 8 bits and a scale a channel; 4 bits and 36 more for each block of 32 or 128."""
    model = models.in_edgepack(models.transformer(width=256, words=10))
    sizes = {}
    for key, stored in {
        "fp32": model,
        "w8": store_in_8_bits(model, ORT).model,
        "32": store_in_4_bits(model, ORT, W4, int8_activations=True).model,
        "128": store_in_4_bits(model, ORT, Layout(bits=4, block=128, symmetric=False), int8_activations=True).model,
    }.items():
        folder = tmp_path / key
        folder.mkdir()
        target.load(four).lower(stored, folder)
        sizes[key] = sum(path.stat().st_size for path in folder.iterdir())
    per_weight = {key: 8 * size / model.parameters for key, size in sizes.items()}
    assert per_weight["w8"] < 8.9 and per_weight["32"] < 6.1 and per_weight["128"] < 5.3 and per_weight["fp32"] > 31


def test_a_weight_of_two_nodes_is_stored_once(name: str, tmp_path: Path) -> None:
    node = helper.make_node
    proto = models.model(
        [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "w"], ["y"])],
        {"x": [2, 64]},
        {"y": [2, 64]},
        {"w": models.random((64, 64), 1, 0.125)},
    )
    feed = {"x": models.random((2, 64), 5)}
    module = target.load(name)
    forms = [store_in_8_bits(models.in_edgepack(proto), module.SCHEME).model]
    if "w4" in module.PRECISIONS:
        forms.append(store_in_4_bits(models.in_edgepack(proto), module.SCHEME, W4, int8_activations=False).model)
    for stored in forms:
        assert Counter(tensor.size > 1000 for tensor in stored.tensors())[True] == 1
        answer = run(name, stored, tmp_path, feed)
        wanted = Session(with_weights(proto, integers_of(stored))).run(feed)["y"]
        assert harness().relative_error(wanted, answer) < 1e-4


def test_a_table_that_is_also_a_matrix_is_stored_once(name: str, tmp_path: Path) -> None:
    """Tied embeddings: looked up by row, multiplied by through a Transpose or a Gemm."""
    node = helper.make_node
    proto = models.model(
        [node("Gather", ["w", "ids"], ["h"]), node("Gemm", ["h", "w"], ["y"], transB=1)],
        {"ids": [5]},
        {"y": [5, 90]},
        {"w": models.random((90, 64), 1)},
        types={"ids": onnx.TensorProto.INT64},
    )
    feed = {"ids": np.array([0, 7, 89, 7, 3])}
    stored = store_in_8_bits(models.in_edgepack(proto), target.load(name).SCHEME).model
    assert [t.dtype.numpy().name for t in stored.tensors() if t.size == 90 * 64] == ["int8"]
    wanted = Session(with_weights(proto, integers_of(stored))).run(feed)["y"]
    assert harness().relative_error(wanted, run(name, stored, tmp_path, feed)) < 1e-5


def test_a_table_stays_int8_in_memory() -> None:
    """ONNX Runtime would fold what restores it."""
    model = store_in_8_bits(models.in_edgepack(models.transformer()), ORT).model
    assert "Gather" in {use[0].op_type for use in model.ir.graph.initializers["table_int8"].uses()}


def test_a_rounding_of_ones_own_is_called_with_the_moments() -> None:
    seen: dict[tuple[int, ...], np.ndarray | None] = {}

    def rounding(matrix: np.ndarray, layout: Layout, moments: np.ndarray | None) -> Rounded:
        seen[matrix.shape] = moments
        return nearest(matrix, layout, moments)

    moments = np.eye(70)
    store_in_4_bits(
        models.in_edgepack(models.mlp(features=70, classes=33)),
        ORT,
        W4,
        int8_activations=True,
        rounding=rounding,
        moments={"w1": moments},
    )
    assert seen == {(16, 70): moments, (33, 16): None}


def test_what_lies_inside_control_flow_stays_and_is_named() -> None:
    node = helper.make_node
    branch = helper.make_graph(
        [node("MatMul", ["x", "inner"], ["z"])],
        "then",
        [],
        [helper.make_tensor_value_info("z", models.FLOAT, [2, 64])],
        [numpy_helper.from_array(models.random((64, 64), 3), "inner")],
    )
    other = helper.make_graph(
        [node("Identity", ["x"], ["z2"])], "else", [], [helper.make_tensor_value_info("z2", models.FLOAT, [2, 64])]
    )
    proto = models.model(
        [node("If", ["c"], ["h"], then_branch=branch, else_branch=other), node("MatMul", ["h", "w"], ["y"])],
        {"c": [], "x": [2, 64]},
        {"y": [2, 64]},
        {"w": models.random((64, 64), 1, 0.125)},
        types={"c": onnx.TensorProto.BOOL},
    )
    model = models.in_edgepack(proto)
    for stored in (store_in_8_bits(model, ORT), store_in_4_bits(model, ORT, W4, int8_activations=True)):
        assert "1× inside control flow: MatMul" in stored.note
        nested = next(node for node in stored.model.ir.graph if node.op_type == "If").attributes["then_branch"]
        np.testing.assert_array_equal(
            nested.as_graph().initializers["inner"].const_value.numpy(), models.random((64, 64), 3)
        )
    del proto.graph.node[1], proto.graph.initializer[:]
    proto.graph.output[0].name = "h"
    model = models.in_edgepack(proto)
    with pytest.raises(UnsupportedOperator, match="inside control flow: MatMul"):
        store_in_8_bits(model, ORT)
    with pytest.raises(UnsupportedOperator, match="inside control flow: MatMul"):
        store_in_4_bits(model, ORT, W4, int8_activations=True)


def test_what_is_not_float32_or_not_finite_is_named() -> None:
    proto = models.mlp(features=70, classes=33)
    broken = models.random((16, 70), 1)
    broken[0, 0] = np.inf
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(broken, "w1"))
    stored = store_in_8_bits(models.in_edgepack(proto), ORT)
    assert "1× weights that are not finite: Gemm" in stored.note and set(integers_of(stored.model)) == {"w2"}


def test_vectors_and_small_weights_stay_float() -> None:
    model = models.in_edgepack(models.mlp())
    with pytest.raises(UnsupportedOperator, match="no weight large enough for w8"):
        store_in_8_bits(model, ORT)
    with pytest.raises(UnsupportedOperator, match="no matrix that activations are multiplied by for w4"):
        store_in_4_bits(models.in_edgepack(models.convnet(channels=32)), ORT, W4, int8_activations=True)


def test_the_model_given_is_not_changed() -> None:
    model = models.in_edgepack(models.transformer())
    before = model.proto().SerializeToString()
    store_in_8_bits(model, ORT)
    store_in_4_bits(model, ORT, W4, int8_activations=True)
    assert model.proto().SerializeToString() == before
