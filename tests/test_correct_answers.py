"""What clipping does to the scores is taken out of the layer that gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgepack import target
from edgepack.model import Model
from edgepack.passes.correct_answers import answering
from edgepack.passes.correct_bias import correct_biases
from edgepack.passes.logits import logits
from edgepack.passes.quantize import quantize
from edgepack.quantization.preparation import prepare
from edgepack.reference import Session
from tests import models
from tests.test_correct_bias import samples_of

ORT = target.load("onnxruntime").SCHEME
FLOAT = onnx.TensorProto.FLOAT
ENDS = {
    "Gemm": [("Gemm", ["r", "w2", "b2"], "y", {})],
    "MatMul": [("MatMul", ["r", "w2"], "m", {}), ("Add", ["m", "b2"], "y", {})],
    "added in front": [("MatMul", ["r", "w2"], "m", {}), ("Add", ["b2", "m"], "y", {})],
    "Softmax": [
        ("MatMul", ["r", "w2"], "m", {}),
        ("Add", ["m", "b2"], "s", {}),
        ("Flatten", ["s"], "f", {"axis": 1}),
        ("Softmax", ["f"], "y", {}),
    ],
    "Conv": [("Unsqueeze", ["r", "axes"], "u", {}), ("Conv", ["u", "k2", "b2"], "y", {"kernel_shape": [1]})],
}


def net(end: str) -> Model:
    """Two layers with a Relu between, ending in one way or another."""
    nodes = [("MatMul", ["x", "w1"], "h", {}), ("Relu", ["h"], "r", {}), *ENDS[end]]
    second = models.random((16, 6), 2)
    constants = {
        "w1": models.random((12, 16), 1),
        "w2": second,
        "k2": np.ascontiguousarray(second.T)[:, :, None],
        "b2": models.random((6,), 3),
        "axes": np.array([2]),
    }
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    graph = helper.make_graph(
        [
            helper.make_node(kind, inputs, [output], name=output, **attributes)
            for kind, inputs, output, attributes in nodes
        ],
        "net",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 12])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 6, 1] if end == "Conv" else ["N", 6])],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return models.in_edgepack(onnx.shape_inference.infer_shapes(proto))


def narrowed(ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Half of what the Relu gives is clipped off."""
    return {name: (low, high * (0.5 if name in ("r", "u") else 1.0)) for name, (low, high) in ranges.items()}


def slope(wanted: np.ndarray, got: np.ndarray) -> float:
    """How much of a difference between float answers is left."""
    wanted, got = (
        array.reshape(len(array), -1) - array.reshape(len(array), -1).mean(axis=0) for array in (wanted, got)
    )
    return float((wanted * got).sum() / (wanted**2).sum())


@pytest.mark.parametrize("end", ENDS)
def test_scores_that_clipping_made_smaller_are_as_large_as_they_should_be(end: str, tmp_path: Path) -> None:
    model = logits(net(end))
    assert [found.bias.tolist() for found in answering(model)] == [pytest.approx(models.random((6,), 3).tolist())]
    samples = samples_of(tmp_path, model, models.random((64, 12), 5))
    ready = prepare(model, ORT, samples)
    ranges = narrowed(ready.ranges)
    fresh = {"x": models.random((512, 12), 6)}
    wanted = Session(model).run(fresh)["y"]

    layers = correct_biases(model, ORT, ranges, ready.layers, samples).layers
    plain = Session(quantize(model, ORT, ranges, ready.layers).model).run(fresh)["y"]
    corrected = Session(quantize(model, ORT, ranges, layers).model).run(fresh)["y"]
    assert slope(wanted, plain) < 0.85
    # A few samples tell how much is missing, not to the last percent.
    assert abs(1 - slope(wanted, corrected)) < 0.5 * (1 - slope(wanted, plain))


@pytest.mark.parametrize("end", ["Gemm", "MatMul", "Softmax", "Conv"])
def test_what_is_said_of_the_answers_is_what_the_layers_give(end: str, tmp_path: Path) -> None:
    """Forms are compared by answers that were stretched, builds hold layers that were."""
    model = logits(net(end))
    samples = samples_of(tmp_path, model, models.random((64, 12), 5))
    ready = prepare(model, ORT, samples)
    ranges = narrowed(ready.ranges)
    feed = {"x": models.random((16, 12), 7)}
    made = correct_biases(model, ORT, ranges, ready.layers, samples, answered=[feed])
    built = Session(quantize(model, ORT, ranges, made.layers).model).run(feed)["y"]
    assert np.abs(built - made.answers[0]["y"]).max() < 0.02 * np.abs(built).max()


def test_a_last_layer_that_stays_float_stays_as_it_is(tmp_path: Path) -> None:
    model = net("Gemm")
    samples = samples_of(tmp_path, model, models.random((64, 12), 5))
    ready = prepare(model, ORT, samples)
    made = correct_biases(model, ORT, ready.ranges, ready.layers, samples, frozenset({"y"}))
    assert made.layers["y"] is ready.layers["y"]


def test_scores_that_something_else_made_are_left_alone() -> None:
    """A state of an LSTM is an output that no layer's numbers are."""
    assert [found.output for found in answering(models.in_edgepack(models.lstm_step()))] == ["y"]
