"""Equalization: float answers stay, int8 answers come closer to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from edgepack import target
from edgepack.data.samples import Samples
from edgepack.model import Model
from edgepack.passes.equalize import equalize
from edgepack.passes.quantize import quantize
from edgepack.passes.rescale import rescale
from edgepack.passes.scale_groups import LAYERS, NORMS, ScaleGroups
from edgepack.quantization.preparation import Steps, prepare
from edgepack.reference import Session
from edgepack.target import Scheme
from tests import models
from tests.test_quantize import ORT, samples_of
from tests.test_saturate import sqnr

OPENVINO = target.load("openvino").SCHEME
C = 16
node = helper.make_node
# What a few channels of a tensor are wider than the rest, and read that much less.
WIDE = np.ones(C, np.float32)
WIDE[[2, 7]] = 50.0
FRESH = {"x": models.images(16, seed=9)}


def between(*nodes: onnx.NodeProto, **more: np.ndarray) -> Model:
    """Conv, the given nodes from "a" to "b", padded Conv; two channels between are wide."""
    weights = {
        "w1": models.random((C, 3, 3, 3), 1, 0.3) * WIDE.reshape(-1, 1, 1, 1),
        "b1": models.random((C,), 2, 0.3) * WIDE,
        "w2": models.random((8, C, 3, 3), 3, 0.3) / WIDE.reshape(1, -1, 1, 1),
    }
    everything = [node("Conv", ["x", "w1", "b1"], ["a"]), *nodes, node("Conv", ["b", "w2"], ["y"], pads=[1] * 4)]
    proto = models.model(everything, {"x": ["N", 3, 16, 16]}, {"y": None}, {**weights, **more})  # type: ignore[dict-item]
    return models.in_edgepack(onnx.shape_inference.infer_shapes(proto))


def transformer() -> Model:
    """LayerNormalization before two layers of Gemm's kin, its scale far wider in two channels, as outliers are."""
    weights = {
        "gamma": WIDE, "beta": models.random((C,), 1) * WIDE,
        "q": models.random((C, C), 2) / WIDE[:, None], "k": models.random((C, C), 3) / WIDE[:, None],
    }  # fmt: skip
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        node("Reshape", ["t", "shape"], ["tokens"]),
        node("LayerNormalization", ["tokens", "gamma", "beta"], ["n"], axis=-1),
        node("MatMul", ["n", "q"], ["nq"]),
        node("MatMul", ["n", "k"], ["nk"]),
        node("Add", ["nq", "nk"], ["y"]),
    ]
    shape = {"shape": np.array([0, -1, C], np.int64)}
    proto = models.model(nodes, {"x": ["N", 3, 16, 16]}, {"y": None}, {**weights, **shape})  # type: ignore[dict-item]
    return models.in_edgepack(onnx.shape_inference.infer_shapes(proto))


MODELS = {
    "nothing between": between(node("Identity", ["a"], ["b"])),
    "Relu": between(node("Relu", ["a"], ["b"])),
    "LeakyRelu": between(node("LeakyRelu", ["a"], ["b"], alpha=0.1)),
    "pooling": between(node("Relu", ["a"], ["c"]), node("MaxPool", ["c"], ["b"], kernel_shape=[2, 2])),
    "depthwise": between(
        node("Relu", ["a"], ["c"]), node("Conv", ["c", "d"], ["b"], group=C), d=models.random((C, 1, 3, 3), 4)
    ),
    "a residual": between(
        node("Conv", ["a", "r"], ["c"]),
        node("Add", ["a", "c"], ["b"]),
        r=models.random((C, C, 1, 1), 4, 0.3) * WIDE.reshape(-1, 1, 1, 1) / WIDE.reshape(1, -1, 1, 1),
    ),
}


def int8(model: Model, samples: Samples, scheme: Scheme, steps: Steps) -> Model:
    prepared = prepare(model, scheme, samples, steps=steps)
    return quantize(prepared.model, scheme, prepared.ranges, prepared.layers).model


@pytest.mark.parametrize("scheme", [ORT, OPENVINO], ids=["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", MODELS)
def test_wide_channels_no_longer_ruin_the_others(name: str, scheme: Scheme, tmp_path: Path) -> None:
    model = MODELS[name]
    samples = samples_of(tmp_path, model, x=models.images(32, seed=1))
    result = equalize(model, scheme, samples)
    assert result.figures["groups"] >= 1 and result.figures["noise"] < 0.5
    onnx.checker.check_model(result.model.proto(), full_check=True)
    wanted, got = (Session(each).run(FRESH)["y"] for each in (model, result.model))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    plain, even = (int8(model, samples, scheme, Steps(equalize=on, smooth=False)) for on in (False, True))
    assert sqnr(model, even, FRESH) > sqnr(model, plain, FRESH) + 6


def test_a_normalization_takes_the_scale_of_the_layers_behind(tmp_path: Path) -> None:
    model = transformer()
    tokens = np.concatenate([models.random((32, 3, 16, 16), 1)])
    samples = samples_of(tmp_path, model, x=tokens)
    assert equalize(model, ORT, samples, LAYERS).model is model
    result = equalize(model, ORT, samples, NORMS)
    wanted, got = (Session(each).run({"x": tokens})["y"] for each in (model, result.model))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    plain, smooth = (int8(model, samples, ORT, Steps(smooth=on)) for on in (False, True))
    feed = {"x": models.random((8, 3, 16, 16), 5)}
    assert sqnr(model, smooth, feed) > sqnr(model, plain, feed) + 3


def test_it_takes_no_more_operators(tmp_path: Path) -> None:
    model = MODELS["depthwise"]
    samples = samples_of(tmp_path, model, x=models.images(32, seed=1))
    plain, even = (int8(model, samples, ORT, Steps(equalize=on)) for on in (False, True))
    assert models.kernels(even, tmp_path) == models.kernels(plain, tmp_path)


def test_even_channels_and_other_activations_are_left_alone(tmp_path: Path) -> None:
    model = MODELS["depthwise"]
    samples = samples_of(tmp_path, model, x=models.images(32, seed=1))
    even = equalize(model, ORT, samples).model
    assert equalize(even, ORT, samples).model is even
    swish = between(node("HardSwish", ["a"], ["b"]))
    assert equalize(swish, ORT, samples_of(tmp_path, swish, x=models.images(8))).model is swish


def test_dead_channels_get_no_scale_of_their_own(tmp_path: Path) -> None:
    model = between(node("Relu", ["a"], ["b"]))
    for name in ("w1", "b1"):
        value = model.ir.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        array[5] = 0.0
        value.const_value = ir.tensor(array, name=name)
    samples = samples_of(tmp_path, model, x=models.images(32, seed=1))
    result = equalize(model, ORT, samples).model
    wanted, got = (Session(each).run(FRESH)["y"] for each in (model, result))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_scales_leave_room_for_what_unseen_samples_reach(tmp_path: Path) -> None:
    """Where reaches differ from sample to sample, few samples bring no channel to the range's end."""
    model = between(node("Relu", ["a"], ["b"]))
    random = np.random.default_rng(2)
    x = models.images(4, seed=1) * random.lognormal(0, 1.5, (4, 3, 1, 1)).astype(np.float32)
    fresh = {"x": models.images(32, seed=2) * random.lognormal(0, 1.5, (32, 3, 1, 1)).astype(np.float32)}
    samples = samples_of(tmp_path, model, x=x)
    plain, even = (int8(model, samples, ORT, Steps(equalize=on, rounding=False)) for on in (False, True))
    assert sqnr(model, even, fresh) > sqnr(model, plain, fresh)


def test_an_equalization_that_changes_answers_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["Relu"]

    def wrong(graph: ir.Graph, groups: ScaleGroups, scales: np.ndarray) -> None:
        rescale(graph, groups, np.where(scales == 1.0, 1.0, scales))
        value = next(iter(graph)).inputs[1]
        assert value is not None and value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * 1.01)

    monkeypatch.setattr("edgepack.passes.equalize.rescale", wrong)
    result = equalize(model, ORT, samples_of(tmp_path, model, x=models.images(8)))
    assert result.model is model and "dropped" in result.note
