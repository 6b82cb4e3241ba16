"""The float → float passes: each keeps the model's answers, judged by ONNX Runtime on the untouched file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgepack import inputs
from edgepack.errors import CleanupError, ShapeNeeded
from edgepack.model import Model
from edgepack.passes.fix_shapes import fix_shapes
from edgepack.passes.half import half
from edgepack.passes.raise_opset import RAISE_TO, raise_opset
from edgepack.passes.simplify import largest_error, simplify
from edgepack.reference import Session
from tests import models


def session(proto: onnx.ModelProto) -> Session:
    return Session(Model.from_proto(proto))


def old_model(opset: int) -> onnx.ModelProto:
    """Operators whose form changed since opset 7: BatchNormalization, Dropout, Squeeze, Pad, Clip, Upsample, Slice."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        node("Relu", ["n"], ["r"]),
    ]
    weights = {
        "w": models.random((8, 3, 3, 3), 1, 0.3),
        "b": models.random((8,), 2, 0.1),
        "scale": np.abs(models.random((8,), 3)) + 0.5,
        "shift": models.random((8,), 4),
        "mean": models.random((8,), 5),
        "var": np.abs(models.random((8,), 6)) + 0.5,
    }
    if opset < 11:
        nodes.append(node("Clip", ["r"], ["k"], min=0.0, max=2.0))
        nodes.append(node("Pad", ["k"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="constant", value=0.5))
    else:
        nodes.append(node("Clip", ["r", "low", "high"], ["k"]))
        nodes.append(node("Pad", ["k", "pads", "fill"], ["p"], mode="constant"))
        weights |= {
            "low": np.array(0, np.float32),
            "high": np.array(2, np.float32),
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
            "fill": np.array(0.5, np.float32),
        }
    if opset < 9:
        nodes.append(node("Upsample", ["p"], ["u"], mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]))
    elif opset == 9:
        nodes.append(node("Upsample", ["p", "up"], ["u"], mode="nearest"))
        weights["up"] = np.array([1, 1, 2, 2], np.float32)
    else:
        nodes.append(node("AveragePool", ["p"], ["u"], kernel_shape=[2, 2], strides=[1, 1]))
    nodes += [
        node("GlobalAveragePool", ["u"], ["g"]),
        node("Squeeze", ["g"], ["s"], axes=[2, 3]),
        node("Softmax", ["s"], ["y"], axis=1),
    ]
    return models.model(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 8]}, weights, opset=opset, ir_version=4)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12])
def test_old_opsets_are_raised_and_answer_the_same(opset: int) -> None:
    original = models.in_edgepack(old_model(opset))
    result = raise_opset(original)
    assert result.model.opset == RAISE_TO
    feeds = [{"x": image[None]} for image in models.images(4, 8)]
    assert largest_error(Session(original), Session(result.model), feeds) < 1e-5


def test_initializers_listed_as_inputs_survive_raising() -> None:
    proto = old_model(7)
    proto.ir_version = 3
    listed = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.name not in listed:
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    original = models.in_edgepack(proto)
    assert [tensor.name for tensor in original.inputs] == ["x"]
    raised = raise_opset(original).model
    feeds = [{"x": image[None]} for image in models.images(2, 8)]
    assert largest_error(Session(original), Session(raised), feeds) < 1e-5


def test_metadata_survives_raising() -> None:
    proto = old_model(11)
    helper.set_model_props(proto, {"character": "abc"})
    assert raise_opset(models.in_edgepack(proto)).model.ir.metadata_props["character"] == "abc"


def test_a_new_opset_is_left_alone() -> None:
    original = models.in_edgepack(models.convnet(opset=18))
    assert raise_opset(original).model is original


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("opset", [9, 10])
def test_old_resizing_measures_from_the_corner_as_before(opset: int, mode: str, factor: float) -> None:
    scales = np.array([1, 1, factor, factor], np.float32)
    node = helper.make_node("Upsample" if opset == 9 else "Resize", ["x", "s"], ["y"], mode=mode)
    size = int(6 * factor)
    proto = models.model([node], {"x": [1, 1, 6, 6]}, {"y": [1, 1, size, size]}, {"s": scales}, opset=opset)
    original = models.in_edgepack(proto)
    raised = raise_opset(original).model
    assert largest_error(Session(original), Session(raised), [{"x": models.random((1, 1, 6, 6))}]) < 1e-5


def test_what_was_changed_before_clean_up_is_checked_too() -> None:
    original = models.in_edgepack(models.convnet())
    other = models.convnet()
    for tensor in other.graph.initializer:
        if tensor.name == "b4":
            tensor.CopyFrom(onnx.numpy_helper.from_array(models.random((10,), 99, 5.0), "b4"))
    with pytest.raises(CleanupError, match="differently"):
        simplify(original, session(other), [{"x": models.images(1)}])


def test_batch_normalization_is_folded_and_the_answers_stay() -> None:
    original = models.in_edgepack(old_model(12))
    feeds = [{"x": image[None]} for image in models.images(3, 8)]
    result = simplify(raise_opset(original).model, Session(original), feeds)
    assert "BatchNormalization" not in result.model.operators
    assert result.figures["relative_error"] < 1e-5
    assert result.figures["nodes_after"] < result.figures["nodes_before"]


def test_clean_up_keeps_names_types_and_open_dimensions() -> None:
    original = models.in_edgepack(models.convnet())
    clean = simplify(original, Session(original), [{"x": models.images(1)}]).model
    assert [str(t) for t in clean.inputs] == ["x float32 N×3×16×16"]
    assert [t.name for t in clean.outputs] == ["y"]
    batch = models.images(5)
    assert Session(clean).run({"x": batch})["y"].shape == (5, 10)


def test_shapes_are_fixed_by_name_and_shared_dimensions_follow() -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    proto = models.model([node], {"a": ["N", 4], "b": ["N", 4]}, {"y": ["N", 4]})
    fixed = fix_shapes(models.in_edgepack(proto), {"a": (2, 4)}).model
    assert fixed.outputs[0].shape == (2, 4)
    assert fixed.inputs[0].shape == (2, 4)


def test_dimensions_without_a_name_are_not_tied_together() -> None:
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    proto = models.model([node], {"x": [1, 3, "?", "?"]}, {"y": [1, 3, 1, 1]})
    fixed = fix_shapes(models.in_edgepack(proto), {"x": (1, 3, 48, 192)}).model
    assert fixed.inputs[0].shape == (1, 3, 48, 192)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"z": (1, 3, 16, 16)}, "no input 'z'"),
        ({"x": (1, 3, 16)}, "does not fit"),
        ({"x": (1, 3, 8, 8)}, "does not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(ShapeNeeded, match=words):
        fix_shapes(models.in_edgepack(models.convnet()), shapes)


def test_half_stores_weights_in_two_bytes_and_changes_little(tmp_path: Path) -> None:
    original = models.in_edgepack(models.convnet(channels=64))
    result = half(original).model
    assert result.weight_bytes < 0.55 * original.weight_bytes
    feeds = [{"x": image[None]} for image in models.images(4)]
    assert largest_error(Session(original), Session(result), feeds) < 5e-3
    result.save(tmp_path / "half.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "half.onnx"), full_check=True)


def test_half_leaves_weights_beyond_its_range() -> None:
    proto = models.mlp(features=64)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(models.random((16, 64), 1, 1e6), "w1"))
    result = half(models.in_edgepack(proto))
    assert result.figures["kept"] == 1 and "w1" in result.note
    types = {value.name: value.const_value.dtype for value in result.model.ir.graph.initializers.values()}  # type: ignore[union-attr]
    assert types["w1"] == TensorProto.FLOAT


def test_passes_do_not_change_the_model_they_get() -> None:
    original = models.in_edgepack(models.convnet())
    before = original.proto().SerializeToString()
    half(original)
    fix_shapes(original, {"x": (1, 3, 16, 16)})
    simplify(original, Session(original), [{"x": models.images(1)}])
    assert original.proto().SerializeToString() == before


def test_external_data_is_read_and_written(tmp_path: Path) -> None:
    onnx.save(models.convnet(), tmp_path / "big.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    model = inputs.load(tmp_path / "big.onnx")
    feeds = [{"x": models.images(1)}]
    assert largest_error(session(models.convnet()), Session(model), feeds) == 0.0
