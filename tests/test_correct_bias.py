"""Bias correction: the mean of a layer's output survives rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgepack import target
from edgepack.data.reading import read
from edgepack.data.samples import Samples
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.passes.correct_bias import correct_biases
from edgepack.passes.placement import place
from edgepack.passes.quantize import Rounded, activation_grids, quantize, rounded_nearest
from edgepack.quantization.preparation import Steps, prepare
from edgepack.reference import Session
from tests import models

# Three bits err enough to be seen.
FLOAT = onnx.TensorProto.FLOAT
COARSE = replace(target.load("onnxruntime").SCHEME, weight_bits=3)


def samples_of(folder: Path, model: Model, x: np.ndarray) -> Samples:
    np.savez(folder / "samples.npz", x=x)
    return read(folder / "samples.npz", model)


def forms(model: Model, samples: Samples) -> tuple[Model, Model]:
    """The quantized model, rounded to nearest, without and with corrected biases."""
    ranges = prepare(model, COARSE, samples, steps=Steps(rounding=False)).ranges
    layers = nearest(model, ranges)
    corrected = correct_biases(model, COARSE, ranges, layers, samples).layers
    return quantize(model, COARSE, ranges, layers).model, quantize(model, COARSE, ranges, corrected).model


def nearest(model: Model, ranges: dict[str, tuple[float, float]]) -> dict[str, Rounded]:
    placement = place(model, COARSE)
    grids = activation_grids(placement, ranges, COARSE)
    return {
        str(node.outputs[0].name): rounded_nearest(node, float(grids[str(node.inputs[0].name)].scale), COARSE)  # type: ignore[union-attr]
        for node in placement.weighted
    }


def one_layer(kind: str, *, bias: bool, group: int = 1) -> Model:
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    weights = {"b": models.random((6,), 2)} if bias else {}
    if kind == "Conv":
        node = helper.make_node("Conv", inputs, ["y"], kernel_shape=[3, 3], group=group)
        shapes: tuple[list[int | str], list[int | str]] = (["N", 6, 8, 8], ["N", 6, 6, 6])
        weights["w"] = models.random((6, 6 // group, 3, 3), 1)
    else:
        transposed = kind == "Gemm, transposed"
        node = helper.make_node("Gemm", inputs, ["y"], transB=int(transposed))
        shapes = (["N", 9], ["N", 6])
        weights["w"] = models.random((6, 9) if transposed else (9, 6), 1)
    return models.in_edgepack(models.model([node], {"x": shapes[0]}, {"y": shapes[1]}, weights))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "group"), [("Conv", 1), ("Conv", 2), ("Conv", 6), ("Gemm", 1), ("Gemm, transposed", 1)]
)
def test_the_mean_of_every_output_channel_is_restored(kind: str, group: int, bias: bool, tmp_path: Path) -> None:
    model = one_layer(kind, bias=bias, group=group)
    shape = [64, *(dim for dim in model.inputs[0].shape[1:] if isinstance(dim, int))]
    x = np.abs(models.random(shape, 3)) + models.random((1, shape[1], *[1] * (len(shape) - 2)), 4)
    plain, corrected = forms(model, samples_of(tmp_path, model, x))
    axes = (0, 2, 3)[: len(shape) - 1] if len(shape) == 4 else (0,)
    wanted = Session(model).run({"x": x})["y"].mean(axis=axes)
    before = np.abs(Session(plain).run({"x": x})["y"].mean(axis=axes) - wanted).max()
    after = np.abs(Session(corrected).run({"x": x})["y"].mean(axis=axes) - wanted).max()
    assert before > 0.05 and after < 0.15 * before


def test_a_whole_net_comes_closer_on_samples_it_has_not_seen(tmp_path: Path) -> None:
    model = models.in_edgepack(models.convnet())
    plain, corrected = forms(model, samples_of(tmp_path, model, models.images(64, seed=1)))
    fresh = {"x": models.images(64, seed=2)}
    wanted = Session(model).run(fresh)["y"]
    gain = [harness().sqnr_db(wanted, Session(form).run(fresh)["y"]) for form in (plain, corrected)]
    assert gain[1] > gain[0] + 3


def test_a_deep_net_is_corrected_layer_upon_layer(tmp_path: Path) -> None:
    """Every layer's mean is right in the end, though each was corrected behind others that moved."""
    model = models.in_edgepack(models.convnet())
    samples = samples_of(tmp_path, model, models.images(32, seed=1))
    ranges = prepare(model, COARSE, samples, steps=Steps(rounding=False)).ranges
    layers = correct_biases(model, COARSE, ranges, nearest(model, ranges), samples).layers
    form = quantize(model, COARSE, ranges, layers).model
    feed = next(samples.batches(32))
    last = str(place(model, COARSE).weighted[-1].outputs[0].name)
    wanted, got = Session(model).run(feed)[last].mean(axis=0), Session(form).run(feed)[last].mean(axis=0)
    np.testing.assert_allclose(got, wanted, atol=0.05 * np.abs(wanted).max())


def test_layers_that_stay_float_are_left_alone(tmp_path: Path) -> None:
    model = models.in_edgepack(models.convnet())
    samples = samples_of(tmp_path, model, models.images(16, seed=1))
    ranges = prepare(model, COARSE, samples, steps=Steps(rounding=False)).ranges
    layers = nearest(model, ranges)
    kept = str(place(model, COARSE).weighted[0].outputs[0].name)
    corrected = correct_biases(model, COARSE, ranges, layers, samples, frozenset({kept})).layers
    assert corrected[kept].shift is None
    assert all(rounded.shift is not None for name, rounded in corrected.items() if name != kept)


def test_a_net_with_control_flow_between_layers_is_cut_all_the_same(tmp_path: Path) -> None:
    """The branches of an If read values of the graph around them."""
    node = helper.make_node

    def branch(name: str, operator: str) -> onnx.GraphProto:
        return helper.make_graph(
            [node(operator, ["h", "w1"], [name])], name, [], [helper.make_tensor_value_info(name, FLOAT, None)]
        )

    proto = models.model(
        [
            node("Gemm", ["x", "w1"], ["h"]),
            node("ReduceMax", ["h"], ["m"], keepdims=0),
            node("Greater", ["m", "zero"], ["c"]),
            node("If", ["c"], ["i"], then_branch=branch("t", "MatMul"), else_branch=branch("e", "MatMul")),
            node("Gemm", ["i", "w2"], ["y"]),
        ],
        {"x": [1, 8]},
        {"y": [1, 8]},
        {"w1": models.random((8, 8), 1), "w2": models.random((8, 8), 2), "zero": np.zeros((), np.float32)},
    )
    model = models.in_edgepack(proto)
    x = models.random((24, 1, 8), 3) + 1
    plain, corrected = forms(model, samples_of(tmp_path, model, x))
    feeds = [{"x": row} for row in x]
    wanted, before, after = (
        np.mean([Session(form).run(feed)["y"] for feed in feeds], axis=0) for form in (model, plain, corrected)
    )
    assert np.abs(after - wanted).max() < 0.3 * np.abs(before - wanted).max()


@pytest.mark.parametrize("name", target.names())
def test_what_is_held_back_is_answered_as_the_corrected_model_answers(name: str, tmp_path: Path) -> None:
    model = models.in_edgepack(models.convnet())
    scheme = target.load(name).SCHEME
    ready = prepare(model, scheme, samples_of(tmp_path, model, models.images(32, seed=1)))
    held = [{"x": models.images(4, seed=seed)} for seed in (2, 3)]
    samples = samples_of(tmp_path, model, models.images(32, seed=1))
    made = correct_biases(model, scheme, ready.ranges, ready.layers, samples, answered=held)
    session = Session(quantize(model, scheme, ready.ranges, made.layers).model)
    for feed, answer in zip(held, made.answers, strict=True):
        # A stretched answer is not on the grid of an output in int8: it is a step of that off, at most.
        step = np.subtract(*ready.ranges["y"][::-1]) / 255 if "y" in ready.ranges else 1e-3
        np.testing.assert_allclose(answer["y"], session.run(feed)["y"], atol=1.01 * step)


def test_samples_of_several_sizes_count_alike(tmp_path: Path) -> None:
    """A layer's mean input is one for each size; its mean output is over the samples of all."""
    proto = models.model(
        [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])],
        {"x": [1, 3, "H", "W"]},
        {"y": [1, 5, "h", "w"]},
        {"w": models.random((5, 3, 3, 3))},
    )
    model = models.in_edgepack(proto)
    for index in range(12):
        np.savez(tmp_path / f"{index:02}.npz", x=models.random((1, 3, 6 + index % 3, 9), index) + 1)
    samples = read(tmp_path, model)
    plain, corrected = forms(model, samples)
    feeds = list(samples.batches(1))

    def mean(form: Model) -> np.ndarray:
        return np.mean([Session(form).run(feed)["y"].mean(axis=(0, 2, 3)) for feed in feeds], axis=0)

    wanted = mean(model)
    assert np.abs(mean(corrected) - wanted).max() < 0.15 * np.abs(mean(plain) - wanted).max()


def test_a_layer_that_none_of_the_first_samples_reaches_keeps_its_bias(tmp_path: Path) -> None:
    """It is run for the rows that are large: for one, behind those that means are taken over."""
    model = models.in_edgepack(
        models.model(
            [
                helper.make_node("Gemm", ["x", "w"], ["h"], transB=1),
                helper.make_node("ReduceMax", ["h"], ["best"], axes=[1], keepdims=0),
                helper.make_node("Greater", ["best", "least"], ["large"]),
                helper.make_node("Compress", ["h", "large"], ["chosen"], axis=0),
                helper.make_node("Gemm", ["chosen", "w2", "b2"], ["k"], transB=1),
                helper.make_node("ReduceSum", ["k"], ["sum"], keepdims=0),
                helper.make_node("Add", ["h", "sum"], ["y"]),
            ],
            {"x": ["N", 8]},
            {"y": ["N", 8]},
            {
                "w": np.eye(8, dtype=np.float32),
                "least": np.array(5, np.float32),
                "w2": models.random((4, 8), 2),
                "b2": models.random((4,), 3),
            },
        )
    )
    x = np.clip(models.random((100, 8)), -2, 2)
    x[90, 3] = 6.0
    samples = samples_of(tmp_path, model, x)
    for scheme in (target.load("onnxruntime").SCHEME, target.load("openvino").SCHEME):
        ready = prepare(model, scheme, samples)
        assert "k" in ready.layers and ready.extents["chosen"].high == 6.0
        layers = correct_biases(model, scheme, ready.ranges, ready.layers, samples, means=ready.means).layers
        assert all(np.isfinite(one.shift).all() for one in layers.values() if one.shift is not None)
        built = quantize(model, scheme, ready.ranges, layers).model
        wanted, got = (Session(one).run({"x": x[88:93]})["y"] for one in (model, built))
        np.testing.assert_allclose(got, wanted, atol=0.3)
