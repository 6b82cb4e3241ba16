"""What is left open is settled on samples that preparation did not see, and the best of the forms is what is built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgepack import target
from edgepack.data.reading import read
from edgepack.data.samples import Samples
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.passes.quantize import quantize
from edgepack.quantization.preparation import prepare
from edgepack.quantization.settle import HELD, hold_back, settle
from edgepack.reference import Session
from edgepack.statistics.stream import few
from tests import models

ORT = target.load("onnxruntime").SCHEME


def samples_of(folder: Path, model: Model, x: np.ndarray) -> Samples:
    np.savez(folder / "samples.npz", x=x)
    return read(folder / "samples.npz", model)


@pytest.mark.parametrize("count", [1, 5, 2 * HELD - 1, 2 * HELD, 100])
def test_samples_are_held_back_where_there_are_enough(count: int, tmp_path: Path) -> None:
    model = models.in_edgepack(models.convnet())
    samples = samples_of(tmp_path, model, models.images(count))
    prepared, held = hold_back(samples)
    one, other = ({part.digest(i) for i in range(part.count)} for part in (prepared, held))
    if count < 2 * HELD:
        assert prepared is held and one == {samples.digest(i) for i in range(count)}
    else:
        assert len(other) == HELD and not one & other and len(one | other) == count


def test_means_are_taken_over_samples_from_all_of_a_sorted_set(tmp_path: Path) -> None:
    model = models.in_edgepack(models.convnet())
    sorted_by_class = np.repeat(np.arange(10, dtype=np.float32), 40)[:, None, None, None] * np.ones((1, 3, 16, 16))
    prepared, held = hold_back(samples_of(tmp_path, model, sorted_by_class.astype(np.float32)))
    for part in (few(prepared), held):
        assert {float(feed["x"].flat[0]) for feed in part} == set(range(10))


def test_a_model_that_finds_more_in_int8_is_settled(tmp_path: Path) -> None:
    """A detector's answers have as many rows as it found: other numbers in int8, and none at all for some images."""
    proto = models.model(
        [
            helper.make_node("Gemm", ["x", "w"], ["h"], transB=1),
            helper.make_node("ReduceMax", ["h"], ["best"], axes=[1], keepdims=0),
            helper.make_node("Greater", ["best", "least"], ["found"]),
            helper.make_node("Compress", ["h", "found"], ["y"], axis=0),
        ],
        {"x": [1, 8]},
        {"y": ["n", 8]},
        {"w": models.random((8, 8)), "least": np.array(2.5, np.float32)},
    )
    model = models.in_edgepack(proto)
    x = models.random((90, 8), 3)
    found = [len(Session(model).run({"x": row[None]})["y"]) for row in x]
    assert 10 < sum(found) < 80
    prepared, held = hold_back(samples_of(tmp_path, model, x))
    settled = settle(prepare(model, ORT, prepared, held=held), ORT, prepared, held)
    assert all(figure > 5 for figure in settled.sqnr_db.values())


def test_the_best_of_the_forms_is_taken(tmp_path: Path) -> None:
    """With one wild pixel in the calibration set its range covers next to nothing but that."""
    model = models.in_edgepack(models.convnet())
    x = models.images(80, seed=1)
    x[11, 0, 3, 3] = 200.0
    prepared, held = hold_back(samples_of(tmp_path, model, x))
    ready = prepare(model, ORT, prepared)
    settled = settle(ready, ORT, prepared, held)
    assert not settled.name.startswith("ranges by minmax")
    assert settled.sqnr_db[settled.name] == max(settled.sqnr_db.values())
    # What is worst with biases corrected at once is not corrected layer upon layer.
    assert [name for name in settled.sqnr_db if "minmax" in name] == ["ranges by minmax, biases corrected at once"]
    fresh = {"x": models.images(64, seed=2)}
    wanted = Session(model).run(fresh)["y"]

    def sqnr(ranges: dict[str, tuple[float, float]]) -> float:
        layers = settled.layers()
        return harness().sqnr_db(wanted, Session(quantize(ready.model, ORT, ranges, layers).model).run(fresh)["y"])

    assert sqnr(settled.ready.ranges) > sqnr(ready.ranges)


def test_without_a_clear_winner_everything_seen_stays_in_range(tmp_path: Path) -> None:
    model = models.in_edgepack(models.mlp())
    prepared, held = hold_back(samples_of(tmp_path, model, models.random((80, 8), 1)))
    settled = settle(prepare(model, ORT, prepared), ORT, prepared, held)
    assert settled.name == "ranges by minmax, biases corrected layer upon layer" and len(settled.sqnr_db) == 5


def test_forms_are_compared_before_a_softmax(tmp_path: Path) -> None:
    """A sharp one gives little but zeros and ones, where one sample on the edge outweighs all else."""

    def figures(sharpness: float) -> list[float]:
        proto = models.mlp()
        proto.graph.node[-1].output[0] = "scores"
        proto.graph.initializer.append(numpy_helper.from_array(np.array(sharpness, np.float32), "sharpness"))
        sharpened = helper.make_node("Mul", ["scores", "sharpness"], ["sharpened"])
        proto.graph.node.extend([sharpened, helper.make_node("Softmax", ["sharpened"], ["y"])])
        model = models.in_edgepack(proto)
        prepared, held = hold_back(samples_of(tmp_path, model, models.random((80, 8), 1)))
        return list(settle(prepare(model, ORT, prepared), ORT, prepared, held).sqnr_db.values())

    assert figures(1000.0) == pytest.approx(figures(1.0), abs=0.01)
