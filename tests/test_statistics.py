"""Statistics: against numpy on the tensors themselves, whatever the batch, the slices and the memory cap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgepack import target
from edgepack.data.reading import read
from edgepack.data.samples import Samples, subset
from edgepack.errors import SamplesError
from edgepack.model import Model
from edgepack.passes.placement import place
from edgepack.reference import Session
from edgepack.statistics import Extent, Moments, stream
from edgepack.statistics.channel_extent import ChannelExtent
from edgepack.statistics.extent import BINS
from tests import models

ORT = target.load("onnxruntime").SCHEME


def samples_of(folder: Path, model: Model, x: np.ndarray) -> Samples:
    np.savez(folder / "samples.npz", x=x)
    return read(folder / "samples.npz", model)


def extents(model: Model, samples: Samples, names: list[str], memory: int = 10**9) -> dict[str, Extent]:
    found = {}
    for finished in stream(model, [Extent(tensor=name) for name in names], samples, memory):
        found.update({extent.tensor: extent for extent in finished})
    return found


def test_a_batch_of_one_gives_the_same_ranges_as_many(tmp_path: Path) -> None:
    open_batch, single = (models.in_edgepack(models.convnet(batch=batch)) for batch in ("N", 1))
    x = models.images(20)
    names = list(place(open_batch, ORT).tensors)
    together = extents(open_batch, samples_of(tmp_path, open_batch, x), names)
    alone = extents(single, samples_of(tmp_path, single, x[:, None]), names)
    for name in names:
        np.testing.assert_allclose(
            (together[name].low, together[name].high), (alone[name].low, alone[name].high), rtol=1e-4, atol=1e-5
        )


def test_ranges_equal_those_of_the_tensors_themselves(tmp_path: Path) -> None:
    model = models.in_edgepack(models.mlp())
    x = models.random((40, 8), 1)
    found = extents(model, samples_of(tmp_path, model, x), ["x", "r"])
    constants = {name: value.const_value.numpy() for name, value in model.ir.graph.initializers.items()}  # type: ignore[union-attr]
    hidden = np.maximum(x @ constants["w1"].T + constants["b1"], 0)
    assert (found["x"].low, found["x"].high) == (x.min(), x.max())
    np.testing.assert_allclose((found["r"].low, found["r"].high), (hidden.min(), hidden.max()), rtol=1e-5)
    assert found["r"].counts.sum() == hidden.size


def test_a_small_cap_takes_more_runs_and_gives_the_same(tmp_path: Path) -> None:
    model = models.in_edgepack(models.convnet())
    samples = samples_of(tmp_path, model, models.images(20))
    names = list(place(model, ORT).tensors)
    slices = [len(part) for part in stream(model, [Extent(tensor=name) for name in names], samples, 120_000)]
    assert len(slices) > 2 and sum(slices) == len(names)
    wide, narrow = extents(model, samples, names), extents(model, samples, names, 120_000)
    for name in names:
        np.testing.assert_allclose((wide[name].low, wide[name].high), (narrow[name].low, narrow[name].high), rtol=1e-4)


@pytest.mark.parametrize("operator", ["Exp", "Log"])
def test_an_activation_that_is_no_number_is_named(operator: str, tmp_path: Path) -> None:
    model = models.in_edgepack(
        models.model(
            [helper.make_node(operator, ["x"], ["e"]), helper.make_node("MatMul", ["e", "w"], ["y"])],
            {"x": ["N", 4]},
            {"y": ["N", 4]},
            {"w": models.random((4, 4))},
        )
    )
    x = np.ones((8, 4), np.float32)
    x[5, 2] = 200 if operator == "Exp" else -1
    with pytest.raises(SamplesError, match="'e' is NaN or infinite on sample 5 of"):
        extents(model, samples_of(tmp_path, model, x), ["e"])


def test_of_some_samples_the_one_at_fault_is_named_by_its_place_in_the_source(tmp_path: Path) -> None:
    model = models.in_edgepack(
        models.model([helper.make_node("Exp", ["x"], ["y"])], {"x": ["N", 4]}, {"y": ["N", 4]}, {})
    )
    x = np.ones((20, 4), np.float32)
    x[13] = 200
    some = subset(subset(samples_of(tmp_path, model, x), range(1, 20, 2)), range(2, 9))
    with pytest.raises(SamplesError, match="on sample 13 of"):
        extents(model, some, ["y"])


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=40), st.integers(1, 7))
def test_a_histogram_grows_without_losing_a_count(values: list[float], parts: int) -> None:
    extent = Extent(tensor="t")
    array = np.array(values, np.float32)
    for part in np.array_split(array, parts):
        if part.size:
            extent.update(part)
    assert extent.counts.sum() == len(values)
    assert (extent.low, extent.high) == (array.min(), array.max())
    held = np.repeat(extent.centers, extent.counts.astype(int))
    width = 2 * extent.reach / BINS
    np.testing.assert_allclose(held, np.sort(array), atol=0.5001 * width)


def test_two_histograms_join() -> None:
    one, two = Extent(tensor="a"), Extent(tensor="b")
    one.update(np.array([0.5, -0.25], np.float32))
    two.update(np.array([6.0, 1.0, -7.5], np.float32))
    both = one.joined(two)
    assert (both.low, both.high, both.counts.sum()) == (-7.5, 6.0, 5)
    assert both.reach == 8.0


def test_moments_are_those_of_the_patches(tmp_path: Path) -> None:
    """A 1×1 convolution's patches are its pixels."""
    model = models.in_edgepack(models.pixelwise())
    x = models.images(40, 4)
    observer = Moments(node=next(iter(model.ir.graph)), samples=40)
    list(stream(model, [observer], samples_of(tmp_path, model, x)))
    pixels = x.transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
    assert observer.rows == len(pixels)
    np.testing.assert_allclose(observer.covariance(0, centered=False)[0], pixels.T @ pixels / len(pixels), rtol=1e-4)
    np.testing.assert_allclose(
        observer.covariance(0, centered=True)[0], np.cov(pixels.T, bias=True), rtol=1e-3, atol=1e-5
    )
    assert Session(model).outputs == ["y"]


def test_channels_keep_their_extremes_by_sample() -> None:
    array = models.random((5, 4, 3, 2), 1)
    observed = ChannelExtent(tensor="t", axis=1)
    for part in (array[:2], array[2:]):
        observed.update(part)
    np.testing.assert_array_equal(observed.low, array.min(axis=(2, 3)))
    np.testing.assert_array_equal(observed.high, array.max(axis=(2, 3)))
    np.testing.assert_allclose(observed.power, np.square(array, dtype=np.float64).mean(axis=(0, 2, 3)))
    assert observed.places == 6
    with pytest.raises(FloatingPointError):
        observed.update(np.full((1, 4, 3, 2), np.nan, np.float32))
