"""HardSwish and HardSigmoid in integers, in the runtime's own kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgepack import target
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.passes.placement import place
from edgepack.reference import Session
from tests import models
from tests.test_quantize import ORT, quantized, samples_of

node = helper.make_node


def sqnr(one: Model, other: Model, feed: dict[str, np.ndarray]) -> float:
    wanted, got = Session(one).run(feed), Session(other).run(feed)
    return float(harness().sqnr_db(wanted["y"], got["y"]))


def swish_between(*nodes: object, opset: int = 17) -> Model:
    """Conv, the given nodes from c to r, Conv."""
    first, last = node("Conv", ["x", "w1", "b1"], ["c"], name="first"), node("Conv", ["r", "w2"], ["y"], name="last")
    weights = {
        "w1": models.random((8, 3, 3, 3), 1, 0.6),
        "b1": models.random((8,), 2),
        "w2": models.random((4, 8, 1, 1), 3),
        "k": models.random((8, 1, 1), 4),
    }
    nodes = [first, *nodes, last]
    return models.in_edgepack(models.model(nodes, {"x": ["N", 3, 16, 16]}, {"y": ["N", 4, 14, 14]}, weights))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    original = models.in_edgepack(models.mobile_block())
    samples = samples_of(tmp_path_factory.mktemp("samples"), original, x=models.images(64, seed=1))
    return original, quantized(original, samples)


def test_a_mobile_block_computes_in_integers_only(block: tuple[Model, Model], tmp_path: Path) -> None:
    found = models.kernels(block[1], tmp_path)
    assert found.count("QuantizeLinear") == 1
    assert not set(found) & {"HardSwish", "HardSigmoid", "Mul", "Add", "Conv"}
    assert found.count("QLinearMul") == 4
    assert found.count("QLinearAdd") == 5


def test_a_mobile_block_is_as_close_as_with_float_activations(block: tuple[Model, Model], tmp_path: Path) -> None:
    original, integers = block
    samples = samples_of(tmp_path, original, x=models.images(64, seed=1))
    without = quantized(original, samples, replace(ORT, light=ORT.light - {"HardSwish", "HardSigmoid"}))
    fresh = {"x": models.images(32, seed=9)}
    assert sqnr(original, integers, fresh) > sqnr(original, without, fresh) - 2.0
    assert sqnr(original, integers, fresh) > 20


@pytest.mark.parametrize(
    ("activation", "ends"),
    [
        (node("HardSwish", ["c"], ["r"]), (-3.0, np.inf)),
        (node("HardSigmoid", ["c"], ["r"], alpha=0.25, beta=0.5), (-2.0, 2.0)),
    ],
)
def test_a_scale_is_not_spent_on_what_the_activation_clips(
    activation: object, ends: tuple[float, float], tmp_path: Path
) -> None:
    model = swish_between(activation)
    assert place(model, ORT).limits == {"c": ends}
    integers = quantized(model, samples_of(tmp_path, model, x=4 * models.images(32)))
    scale = next(n.inputs[1] for n in integers.ir.graph if n.op_type == "QuantizeLinear" and n.inputs[0].name == "c")  # type: ignore[union-attr]
    assert scale is not None and scale.const_value is not None
    width = float(scale.const_value.numpy()) * 255
    values = Session(swish_values(model)).run({"x": 4 * models.images(32)})["c"]
    assert width == pytest.approx(min(values.max(), ends[1]) - max(values.min(), ends[0]), rel=1e-5)
    assert sqnr(model, integers, {"x": 4 * models.images(8, seed=5)}) > 30


def swish_values(model: Model) -> Model:
    """The model with the activation's input as its output."""
    shown = model.clone()
    graph = shown.ir.graph
    graph.outputs.clear()
    graph.outputs.append(next(n.outputs[0] for n in graph if n.name == "first"))
    return shown


def test_another_reader_needs_the_whole_range() -> None:
    model = swish_between(node("HardSwish", ["c"], ["h"]), node("Add", ["c", "h"], ["r"]))
    assert place(model, ORT).limits == {}


def test_a_falling_hard_sigmoid_stays_float(tmp_path: Path) -> None:
    model = swish_between(node("HardSigmoid", ["c"], ["r"], alpha=-0.2, beta=0.5))
    integers = quantized(model, samples_of(tmp_path, model, x=models.images(16)))
    assert integers.operators["HardSigmoid"] == 1
    assert sqnr(model, integers, {"x": models.images(8, seed=5)}) > 25


def test_a_pooling_behind_hard_swish_is_quantized_only_before_a_convolution() -> None:
    swish, pool = node("HardSwish", ["c"], ["h"]), node("MaxPool", ["h"], ["r"], kernel_shape=[1, 1], name="pool")
    before = swish_between(swish, pool)
    assert "pool" in {n.name for n in place(before, ORT).light}
    proto = before.proto()
    del proto.graph.node[-1:]
    proto.graph.node.extend(
        [node("GlobalAveragePool", ["r"], ["g"]), node("Flatten", ["g"], ["f"]), node("Gemm", ["f", "w3"], ["y"])]
    )
    proto.graph.initializer.append(models.numpy_helper.from_array(models.random((8, 4)), "w3"))
    del proto.graph.output[0].type.tensor_type.shape.dim[2:]
    assert "pool" not in {n.name for n in place(Model.from_proto(proto), ORT).light}


def test_chains_that_a_runtime_fuses_are_rounded_once() -> None:
    swish, scaled = node("HardSwish", ["c"], ["h"]), node("Mul", ["k", "h"], ["m"])
    model = swish_between(swish, scaled, node("Add", ["m", "k"], ["r"]))
    assert set(place(model, target.load("openvino").SCHEME).tensors) == {"x", "r"}
    assert set(place(model, ORT).tensors) == {"x", "c", "h", "m", "r", "y"}
