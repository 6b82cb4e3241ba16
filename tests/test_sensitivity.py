"""Which layer hurts: a layer that int8 ruins is found without labels, wherever it stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from edgepack import target
from edgepack.data.reading import read
from edgepack.data.samples import Samples
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.passes.placement import place
from edgepack.passes.quantize import quantize
from edgepack.quantization.preparation import Steps, prepare
from edgepack.quantization.sensitivity import Switchboard, inject
from edgepack.reference import Session
from tests import models

ORT = target.load("onnxruntime").SCHEME


def samples_of(folder: Path, model: Model, x: np.ndarray) -> Samples:
    np.savez(folder / "samples.npz", x=x)
    return read(folder / "samples.npz", model)


def with_outlier_in(layer: str) -> Model:
    """The convnet with a dead first channel throughout, and one layer with huge weights on that channel.

    They meet only zeros, so the float answers stay, but they leave no grid for the layer's other weights.
    """
    proto = models.convnet()
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name in ("w1", "b1", "w2", "b2", "w3", "b3"):
            array[0] = 0
        if tensor.name == layer:
            array[:, 0] = 40 * np.abs(array).max()
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return models.in_edgepack(proto)


def dark(count: int) -> np.ndarray:
    images = models.images(count, seed=1)
    images[:, 0] = 0
    return images


def layers(model: Model) -> list[tuple[str, str]]:
    """Each weighted layer's output and weight."""
    return [(str(n.outputs[0].name), str(n.inputs[1].name)) for n in place(model, ORT).weighted]  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "weight"), [("c1", "w1"), ("c3", "w3"), ("y", "w4")])
def test_the_layer_that_int8_ruins_comes_first(name: str, weight: str, tmp_path: Path) -> None:
    model = with_outlier_in(weight)
    samples = samples_of(tmp_path, model, dark(32))
    prepared = prepare(model, ORT, samples, steps=Steps(rounding=False, equalize=False))
    found = inject(prepared.model, ORT, prepared, samples.first(4), parts=True)
    assert found[0].layer == name and found[0].both_db < found[1].both_db - 6
    assert found[0].weights_db is not None and found[0].activations_db is not None
    assert found[0].weights_db < found[0].activations_db


def test_equalization_heals_such_a_layer(tmp_path: Path) -> None:
    model = with_outlier_in("w4")
    samples = samples_of(tmp_path, model, dark(32))
    plain = prepare(model, ORT, samples, steps=Steps(rounding=False, equalize=False))
    evened = prepare(model, ORT, samples, steps=Steps(rounding=False))
    before, after = (inject(p.model, ORT, p, samples.first(4))[0].both_db for p in (plain, evened))
    assert before < 15 and after > before + 15


@pytest.mark.parametrize("rounding", [False, True])
def test_with_all_switches_off_it_is_the_float_model_and_with_all_on_the_int8_one(
    tmp_path: Path, rounding: bool
) -> None:
    model = models.in_edgepack(models.convnet())
    samples = samples_of(tmp_path, model, models.images(32, seed=1) + 2)
    prepared = prepare(model, ORT, samples, steps=Steps(rounding=rounding))
    board = Switchboard(prepared.model, ORT, prepared)
    feed = next(samples.batches(8))
    np.testing.assert_allclose(board.run(feed, ())["y"], Session(model).run(feed)["y"], rtol=1e-5, atol=1e-5)
    everything = [name.removeprefix("switch/") for name in board.switches]
    int8 = Session(quantize(prepared.model, ORT, prepared.ranges, prepared.layers).model).run(feed)["y"]
    assert harness().sqnr_db(int8, board.run(feed, everything)["y"]) > 35


def test_little_time_takes_fewer_feeds_and_still_ranks_every_layer(tmp_path: Path) -> None:
    model = models.in_edgepack(models.convnet())
    samples = samples_of(tmp_path, model, models.images(32, seed=1))
    prepared = prepare(model, ORT, samples, steps=Steps(rounding=False))
    found = inject(prepared.model, ORT, prepared, samples.first(8), seconds=0.0)
    assert {injection.layer for injection in found} == {name for name, _ in layers(model)}
    assert all(injection.weights_db is None for injection in found)
