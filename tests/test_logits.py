"""Scores before the last Softmax take its place as a model's output; nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from edgepack import target
from edgepack.passes.logits import logits
from edgepack.passes.placement import place
from edgepack.reference import Session
from tests import models

node = helper.make_node
X = models.random((3, 4, 5), 3, scale=4.0)


def answers(proto: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray]:
    """What the first output is without and with `logits`."""
    model = models.in_edgepack(proto)
    before, after = (Session(form).run({"x": X}) for form in (model, logits(model)))
    assert before.keys() == after.keys() and before["y"].shape == after["y"].shape
    return before["y"], after["y"]


def centered(scores: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.asarray(scores - scores.mean(axis=axes, keepdims=True))


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("axis", [-1, 1, None])
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_each_row_of_scores_has_its_mean_taken_off(kind: str, axis: int | None, opset: int) -> None:
    softmax = node(kind, ["z"], ["y"], **({} if axis is None else {"axis": axis}))
    scaled = node("Mul", ["x", "three"], ["z"])
    proto = models.model(
        [scaled, softmax], {"x": [3, 4, 5]}, {"y": [3, 4, 5]}, {"three": np.array(3, np.float32)}, opset=opset
    )
    before, after = answers(proto)
    np.testing.assert_allclose(after, centered(3 * X, (-1 if axis is None else axis,)), rtol=1e-5, atol=1e-5)
    again = np.exp(after) / np.exp(after).sum(axis=-1 if axis is None else axis, keepdims=True)
    np.testing.assert_allclose(again if kind == "Softmax" else np.log(again), before, rtol=1e-4, atol=1e-5)


def test_an_old_softmax_is_over_all_axes_from_its_own() -> None:
    proto = models.model([node("Softmax", ["x"], ["y"])], {"x": [3, 4, 5]}, {"y": [3, 4, 5]}, opset=11)
    np.testing.assert_allclose(answers(proto)[1], centered(X, (1, 2)), rtol=1e-5, atol=1e-5)


def test_it_is_found_behind_what_only_moves_numbers() -> None:
    nodes = [node("Softmax", ["x"], ["p"], axis=2), node("Transpose", ["p"], ["y"], perm=[2, 0, 1])]
    proto = models.model(nodes, {"x": [3, 4, 5]}, {"y": [5, 3, 4]})
    np.testing.assert_allclose(answers(proto)[1], centered(X, (2,)).transpose(2, 0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Softmax", ["x"], ["p"]), node("Relu", ["p"], ["y"])],
        [node("Softmax", ["x"], ["p"]), node("Identity", ["p"], ["y"]), node("Neg", ["p"], ["unread"])],
        [node("Sigmoid", ["x"], ["y"])],
        [node("Relu", ["x"], ["y"])],
    ],
    ids=["attention", "read twice", "sigmoid", "no softmax"],
)
def test_other_graphs_stay_as_they_are(nodes: list[onnx.NodeProto]) -> None:
    model = models.in_edgepack(models.model(nodes, {"x": [3, 4, 5]}, {"y": [3, 4, 5]}))
    assert logits(model) is model


def test_the_same_tensors_are_quantized() -> None:
    nodes = [node("MatMul", ["x", "w"], ["z"]), node("Softmax", ["z"], ["y"])]
    proto = models.model(nodes, {"x": [3, 4, 5]}, {"y": [3, 4, 6]}, {"w": models.random((5, 6))})
    model = models.in_edgepack(proto)
    for name in ("onnxruntime", "openvino"):
        scheme = target.load(name).SCHEME
        assert place(logits(model), scheme).tensors == place(model, scheme).tensors
