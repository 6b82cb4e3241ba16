"""A maximum that drops its axes is written as one that keeps them and a Squeeze; OpenVINO then answers rightly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgepack import target
from edgepack.data.reading import read
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.passes.keep_axes import keep_axes
from edgepack.passes.quantize import quantize
from edgepack.quantization.preparation import prepare
from edgepack.reference import Session
from tests import models

node = helper.make_node


def operators(model: Model) -> list[str]:
    return [made.op_type for made in model.ir.graph]


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("axes", [[1], [0, 2], [-1]])
@pytest.mark.parametrize("kind", ["ReduceMax", "ReduceMin"])
def test_the_answers_stay_the_same(kind: str, axes: list[int], opset: int) -> None:
    shape = [size for axis, size in enumerate((3, 4, 5)) if axis not in [a % 3 for a in axes]]
    given = {"axes": axes} if opset < 18 else {}
    inputs = ["x"] if opset < 18 else ["x", "axes"]
    weights = {} if opset < 18 else {"axes": np.array(axes, np.int64)}
    proto = models.model(
        [node(kind, inputs, ["y"], keepdims=0, **given)], {"x": [3, 4, 5]}, {"y": shape}, weights, opset=opset
    )
    before = models.in_edgepack(proto)
    after = keep_axes(before).model
    onnx.checker.check_model(after.proto(), full_check=True)
    assert operators(after) == [kind, "Squeeze"]
    feed = {"x": models.random((3, 4, 5))}
    np.testing.assert_array_equal(Session(after).run(feed)["y"], Session(before).run(feed)["y"])


def test_what_keeps_its_axes_stays() -> None:
    proto = models.model([node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=1)], {"x": [3, 4]}, {"y": [3, 1]})
    model = models.in_edgepack(proto)
    assert keep_axes(model).model is model


@pytest.mark.parametrize("name", target.names())
def test_int8_behind_a_maximum_over_space_answers_like_float(name: str, tmp_path: Path) -> None:
    """Without the pass OpenVINO 2026.4.1 loses 16 dB here."""
    proto = models.model(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1]),
            node("Relu", ["c"], ["r"]),
            node("ReduceMax", ["r"], ["m"], axes=[2], keepdims=0),
            node("Gemm", ["m", "v"], ["y"], transB=1),
        ],
        {"x": ["N", 3, 24]},
        {"y": ["N", 10]},
        {"w": models.random((32, 3, 3)), "v": models.random((10, 32))},
    )
    original = models.in_edgepack(proto)
    np.savez(tmp_path / "calib.npz", x=models.random((64, 3, 24), 1))
    scheme = target.load(name).SCHEME
    prepared = prepare(original, scheme, read(tmp_path / "calib.npz", original))
    quantized = quantize(original, scheme, prepared.ranges, prepared.layers).model
    run = target.runner_here(name).load(str(tmp_path / target.load(name).lower(quantized, tmp_path)), 1)
    feed = {"x": models.random((1, 3, 24), 2)}
    assert harness().sqnr_db(Session(original).run(feed)["y"], run(feed)["y"]) > 36
