"""Bias correction: the mean of a layer's output survives rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgepack import target
from edgepack.errors import SamplesError
from edgepack.metric import harness
from edgepack.model import Model
from edgepack.passes.correct_bias import mean_shift
from edgepack.passes.quantize import observed_channels, observed_tensors, quantize
from edgepack.reference import Session
from edgepack.samples import Samples, read
from edgepack.statistics import collect
from tests import models

# Three bits err enough to be seen.
COARSE = replace(target.load("onnxruntime").SCHEME, weight_bits=3)


def samples_of(folder: Path, model: Model, x: np.ndarray) -> Samples:
    np.savez(folder / "samples.npz", x=x)
    return read(folder / "samples.npz", model)


def forms(model: Model, samples: Samples) -> tuple[Model, Model]:
    """The quantized model without and with corrected biases."""
    found = collect(model, observed_tensors(model, COARSE), samples, channels=observed_channels(model, COARSE))
    return (
        quantize(model, COARSE, found.ranges).model,
        quantize(model, COARSE, found.ranges, found.means).model,
    )


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


def test_the_shift_is_that_of_the_definition() -> None:
    """Against the convolution of a constant image with the error, group by group."""
    model = one_layer("Conv", bias=False, group=2)
    node = next(iter(model.ir.graph))
    error, means = models.random((6, 3, 3, 3), 7), np.arange(6.0)
    expected = [sum(error[o, c].sum() * means[(o // 3) * 3 + c] for c in range(3)) for o in range(6)]
    np.testing.assert_allclose(mean_shift(node, error, means), expected, rtol=1e-5)


def test_means_count_every_sample_alike(tmp_path: Path) -> None:
    """20 samples in batches of 16 and 4."""
    model = one_layer("Conv", bias=True)
    x = models.random((20, 6, 8, 8), 5) + np.arange(20, dtype=np.float32)[:, None, None, None]
    found = collect(model, ["x"], samples_of(tmp_path, model, x), channels=observed_channels(model, COARSE)).means["x"]
    np.testing.assert_allclose(found, x.mean(axis=(0, 2, 3)), rtol=1e-4)


def test_nan_inside_the_model_is_named(tmp_path: Path) -> None:
    """ONNX Runtime's minimum passes over NaN."""
    nodes = [helper.make_node("Sqrt", ["x"], ["s"]), helper.make_node("Gemm", ["s", "w"], ["y"])]
    model = models.in_edgepack(models.model(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {"w": models.random((4, 4))}))
    x = np.abs(models.random((30, 4)))
    x[17, 2] = -1
    with pytest.raises(SamplesError, match="'s' is NaN"):
        forms(model, samples_of(tmp_path, model, x))
