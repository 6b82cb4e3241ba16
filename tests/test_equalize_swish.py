from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgepack import target
from edgepack.data.samples import Samples
from edgepack.model import Model, constant
from edgepack.passes.equalize_swish import equalize_swish
from edgepack.passes.placement import place
from edgepack.passes.quantize import quantize
from edgepack.reference import Session
from edgepack.statistics.extent import Extent
from edgepack.statistics.stream import stream
from edgepack.target import Scheme
from tests import models
from tests.test_quantize import ORT, samples_of
from tests.test_saturate import sqnr

node = helper.make_node
FRESH = {"x": models.images(16, seed=9)}


def widened(proto: onnx.ModelProto, layer: str, factor: float, readers: tuple[str, ...]) -> onnx.ModelProto:
    """Channel 3 of a layer made so much larger, and read so much less by those behind: what int8 is ruined by."""
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    inputs = {n.name: list(n.input) for n in proto.graph.node}
    for name, axis, times in (
        *((w, 0, factor) for w in inputs[layer][1:]),
        *((inputs[reader][1], 1, 1 / factor) for reader in readers),
    ):
        array = numpy_helper.to_array(held[name]).copy()
        np.moveaxis(array, axis, 0)[3] *= times
        held[name].CopyFrom(numpy_helper.from_array(array, name))
    return proto


def block() -> Model:
    """The mobile block with a wide channel in front of its squeeze-excite."""
    return models.in_edgepack(widened(models.mobile_block(16), "depthwise", 40.0, ("reduce", "project")))


def integers(model: Model, samples: Samples) -> Model:
    """Int8 of the model just as it is."""
    extents = [Extent(tensor=name) for name in place(model, ORT).tensors]
    for _ in stream(model, extents, samples):
        pass
    return quantize(model, ORT, {extent.tensor: (extent.low, extent.high) for extent in extents}).model


def evened(model: Model, samples: Samples, scheme: Scheme = ORT) -> Model:
    """The model with even channels, whose answers must be those of before."""
    result = equalize_swish(model, scheme, samples).model
    onnx.checker.check_model(result.proto(), full_check=True)
    wanted, got = Session(model).run(FRESH)["y"], Session(result).run(FRESH)["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    return result


def test_a_wide_channel_no_longer_ruins_the_others(tmp_path: Path) -> None:
    model = block()
    samples = samples_of(tmp_path, model, x=models.images(64, seed=1))
    even = evened(model, samples)
    assert even.operators["HardSwish"] == 2
    assert sqnr(model, integers(even, samples), FRESH) > sqnr(model, integers(model, samples), FRESH) + 4


def test_it_takes_no_more_operators(tmp_path: Path) -> None:
    model = block()
    samples = samples_of(tmp_path, model, x=models.images(64, seed=1))
    before, after = (models.kernels(integers(m, samples), tmp_path) for m in (model, evened(model, samples)))
    assert len(after) == len(before)
    assert after.count("QLinearMul") == before.count("QLinearMul") + 1
    assert after.count("QLinearAdd") == before.count("QLinearAdd") - 1


def test_the_scale_is_exact_in_int8_and_spends_nothing_below_what_the_gate_clips(tmp_path: Path) -> None:
    model = block()
    even = evened(model, samples_of(tmp_path, model, x=models.images(64, seed=1)))
    slant = next(n for n in even.ir.graph if str(n.name).endswith("_slant"))
    scale = constant(slant.inputs[1])
    assert scale is not None and scale.max() == 1.0
    np.testing.assert_allclose(scale * 255, np.rint(scale * 255), atol=1e-4)
    assert slant.inputs[0] is not None
    assert place(even, ORT).limits[str(slant.inputs[0].name)] == (pytest.approx(-3 / scale.min()), np.inf)


def test_even_channels_are_left_alone(tmp_path: Path) -> None:
    model = models.in_edgepack(models.mobile_block(16))
    assert equalize_swish(model, ORT, samples_of(tmp_path, model, x=models.images(16))).model is model


def test_a_runtime_that_fuses_products_gets_one_behind(tmp_path: Path) -> None:
    model = block()
    scheme = target.load("openvino").SCHEME
    even = evened(model, samples_of(tmp_path, model, x=models.images(64, seed=1)), scheme)
    assert even.operators["HardSwish"] == 3
    scaled = next(n for n in even.ir.graph if str(n.name).endswith("_scaled"))
    placed = place(even, scheme).tensors
    assert scaled.outputs[0].name in placed and scaled.inputs[0].name not in placed  # type: ignore[union-attr]


def test_a_runtime_without_either_form_is_left_alone(tmp_path: Path) -> None:
    model = block()
    scheme = replace(ORT, saturating=frozenset())
    assert equalize_swish(model, scheme, samples_of(tmp_path, model, x=models.images(16))).model is model


def chain(*between: onnx.NodeProto, outputs: tuple[str, ...] = (), **more: np.ndarray) -> Model:
    """Conv with a wide channel, HardSwish, the given nodes from h to r, padded Conv."""
    c = 8
    weights = {
        "w1": models.random((c, 3, 3, 3), 1, 0.4), "b1": models.random((c,), 2),
        "w2": models.random((4, c, 3, 3), 3), "k": models.random((c, 1, 1), 4), **more,
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c"], name="first"),
        node("HardSwish", ["c"], ["h"]),
        *between,
        node("Conv", ["r", "w2"], ["y"], name="last", pads=[1, 1, 1, 1]),
    ]
    ends = {"y": None, **dict.fromkeys(outputs)}
    proto = models.model(nodes, {"x": ["N", 3, 16, 16]}, ends, weights)  # type: ignore[arg-type]
    proto = widened(proto, "first", 60.0, ("last",))
    return models.in_edgepack(onnx.shape_inference.infer_shapes(proto))


CARRIED = {
    "a number added": chain(node("Add", ["h", "number"], ["r"]), number=np.array([0.3], np.float32)),
    "channels added": chain(node("Add", ["k", "h"], ["r"])),
    "pooled": chain(node("MaxPool", ["h"], ["r"], kernel_shape=[2, 2])),
}
NOT_CARRIED = {
    "input read elsewhere": chain(node("Add", ["h", "c"], ["r"])),
    "an output": chain(node("MaxPool", ["h"], ["r"], kernel_shape=[2, 2]), outputs=("h",)),
    "another activation": chain(node("Relu", ["h"], ["s"]), node("Sigmoid", ["s"], ["r"])),
    "its own square": chain(node("MaxPool", ["h"], ["p"], kernel_shape=[1, 1]), node("Mul", ["h", "p"], ["r"])),
}


@pytest.mark.parametrize("name", CARRIED)
def test_what_scales_along_is_passed(name: str, tmp_path: Path) -> None:
    model = CARRIED[name]
    samples = samples_of(tmp_path, model, x=models.images(32, seed=1))
    even = evened(model, samples)
    assert "HardSwish" not in even.operators
    assert sqnr(model, integers(even, samples), FRESH) > sqnr(model, integers(model, samples), FRESH) + 4


@pytest.mark.parametrize("name", NOT_CARRIED)
def test_what_does_not_is_left_alone(name: str, tmp_path: Path) -> None:
    model = NOT_CARRIED[name]
    assert equalize_swish(model, ORT, samples_of(tmp_path, model, x=models.images(8))).model is model
