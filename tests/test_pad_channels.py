from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgepack.model import Model, constant
from edgepack.passes.pad_channels import depthwise_channels, pad_channels
from edgepack.reference import Session
from tests import models

node = helper.make_node
FEED = {"x": models.images(2)}


def widths(model: Model) -> list[int]:
    """The channels of each depthwise convolution."""
    return [count for count in map(depthwise_channels, model.ir.graph) if count]


def widened(proto: onnx.ModelProto, multiple: int = 16) -> Model:
    """The widened model, whose answers must be those of before."""
    before = models.in_edgepack(proto)
    after = pad_channels(before, multiple).model
    onnx.checker.check_model(after.proto(), full_check=True)
    wanted, got = Session(before).run(FEED), Session(after).run(FEED)
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5, atol=1e-6 * np.abs(wanted[name]).max() + 1e-6)
    assert after.inputs == before.inputs and after.outputs == before.outputs
    return after


@settings(max_examples=15, deadline=None)
@given(channels=st.integers(2, 40), multiple=st.sampled_from([4, 8, 16]))
def test_a_mobile_block_answers_as_before(channels: int, multiple: int) -> None:
    after = widened(models.mobile_block(channels), multiple)
    assert widths(after) == [-(-channels // multiple) * multiple]


def test_the_new_channels_are_zero_and_the_others_are_as_they_were() -> None:
    original = models.in_edgepack(models.mobile_block(24))
    after = pad_channels(original, 16).model
    for name, axes in (("expand", [0]), ("depthwise", [0]), ("reduce", [1]), ("excite", [0]), ("project", [1])):
        old, new = (constant(next(n for n in m.ir.graph if n.name == name).inputs[1]) for m in (original, after))
        assert old is not None and new is not None
        padded = np.pad(old, [(0, 8 if i in axes else 0) for i in range(old.ndim)])
        np.testing.assert_array_equal(new, padded)


def test_whole_vectors_and_runtimes_without_need_are_left_alone() -> None:
    original = models.in_edgepack(models.mobile_block(32))
    assert pad_channels(original, 16).model is original
    assert pad_channels(models.in_edgepack(models.mobile_block(24)), 1).note == ""


def chain(*between: onnx.NodeProto, **more: np.ndarray) -> onnx.ModelProto:
    """Conv, depthwise Conv of 6 channels, the given nodes from d to r, Conv."""
    c = 6
    weights = {
        "w1": models.random((c, 3, 1, 1), 1), "b1": models.random((c,), 2),
        "w2": models.random((c, 1, 3, 3), 3), "w3": models.random((4, c, 1, 1), 4), **more,
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c"]),
        node("Conv", ["c", "w2"], ["d"], group=c, pads=[1, 1, 1, 1]),
        *between,
        node("Conv", ["r", "w3"], ["y"]),
    ]
    proto = models.model(nodes, {"x": [2, 3, 16, 16]}, {"y": None}, weights)  # type: ignore[dict-item]
    return onnx.shape_inference.infer_shapes(proto)


JOINED = {
    "clip": chain(node("Clip", ["d", "", "six"], ["r"]), six=np.array(6, np.float32)),
    "a number added": chain(node("Add", ["d", "six"], ["r"]), six=np.array([6], np.float32)),
    "a residual": chain(node("Relu", ["d"], ["e"]), node("Add", ["c", "e"], ["r"])),
    "itself twice": chain(node("Mul", ["d", "d"], ["r"])),
}
APART = {
    "a constant by channel": chain(node("Add", ["d", "k"], ["r"]), k=models.random((6, 1, 1))),
    "joined to the input": chain(
        node("Tile", ["x", "twice"], ["t"]), node("Add", ["d", "t"], ["r"]), twice=np.array([1, 2, 1, 1])
    ),
    "another operator": chain(node("Softmax", ["d"], ["r"], axis=1)),
    "turned": chain(node("Transpose", ["d"], ["r"], perm=[0, 1, 3, 2])),
    "a grouped reader": chain(node("Conv", ["d", "half"], ["r"], group=2), half=models.random((6, 3, 1, 1))),
}


@pytest.mark.parametrize("name", JOINED)
def test_joined_channels_grow_together(name: str) -> None:
    assert widths(widened(JOINED[name])) == [16]


@pytest.mark.parametrize("name", APART)
def test_channels_that_something_else_reads_are_left_alone(name: str) -> None:
    assert widths(widened(APART[name])) == [6]
