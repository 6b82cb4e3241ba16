"""States: outputs that become the next call's inputs, in every target, in samples, and on the device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgepack
from edgepack.bundles import bundle
from edgepack.data import states
from edgepack.data.samples import Feed, subset
from edgepack.errors import SamplesError, UsageError
from edgepack.model import Model
from edgepack.reference import Session
from tests import models

STATE = {"h": "hn", "c": "cn"}
FAST: dict[str, Any] = {"seconds": 0.1, "threads": 1, "state": STATE}
STEPS = 48


def by_hand(steps: np.ndarray, starts: tuple[int, ...] = ()) -> tuple[list[Feed], list[Feed]]:
    """Feeds and answers of ONNX Runtime, each step's states those that the step before gave, zero at `starts`."""
    session = Session(Model.from_proto(models.lstm_step()))
    feeds: list[Feed] = []
    answers: list[Feed] = []
    for place, step in enumerate(steps):
        new = place == 0 or place in starts
        zero = np.zeros((1, 1, 16), np.float32)
        before = {"h": zero, "c": zero} if new else {"h": answers[-1]["hn"], "c": answers[-1]["cn"]}
        feeds.append({"x": step, **before})
        answers.append(session.run(feeds[-1]))
    return feeds, answers


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    onnx.save(models.lstm_step(), folder / "model.onnx")
    np.savez(folder / "steps.npz", x=models.random((256, 1, 12), 1))
    np.savez(folder / "eval.npz", x=models.random((STEPS, 1, 12), 2), sequence=np.repeat([0, 1, 2], 16))
    return folder


def model() -> Model:
    return models.in_edgepack(models.lstm_step())


# --- samples --------------------------------------------------------------------------------------------------


def test_samples_without_states_get_those_of_the_float_model(files: Path) -> None:
    session = Session(model())
    found = states.states_of(model(), STATE)
    read = states.read(files / "eval.npz", model(), None, None, "any", states=found, session=session)
    with np.load(files / "eval.npz") as arrays:
        wanted, _ = by_hand(arrays["x"], (16, 32))
    assert read.in_order and not read.stackable and read.count == STEPS
    for place in (0, 1, 15, 16, 17, 32, 47):
        for name, array in wanted[place].items():
            np.testing.assert_allclose(read.read(place)[name], array, rtol=1e-5, atol=1e-7)
    assert read.digest(3) != read.digest(4) and not subset(read, [4, 9]).in_order


def test_recorded_states_are_taken_as_they_are(files: Path, tmp_path: Path) -> None:
    arrays = {
        "x": models.random((9, 1, 12)),
        "h": models.random((9, 1, 1, 16), 7),
        "c": models.random((9, 1, 1, 16), 8),
    }
    np.savez(tmp_path / "recorded.npz", **arrays)  # type: ignore[arg-type]
    found = states.states_of(model(), STATE)
    read = states.read(tmp_path / "recorded.npz", model(), None, None, "any", states=found, session=Session(model()))
    assert not read.in_order
    for name, array in arrays.items():
        np.testing.assert_array_equal(read.read(5)[name], array[5])


def test_the_numbers_of_sequences_fit_the_samples(files: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=models.random((9, 1, 12)), sequence=np.zeros(8, int))
    found = states.states_of(model(), STATE)
    with pytest.raises(SamplesError, match=r"sequence has shape \[8\], and there are 9 samples"):
        states.read(tmp_path / "bad.npz", model(), None, None, "any", states=found, session=Session(model()))


# --- bundles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "precision", "within"),
    [("onnxruntime", "fp32", 1e-4), ("openvino", "w8", 0.1), ("tflite", "fp32", 1e-4), ("tflite", "int8", 0.15)],
)
def test_a_bundle_keeps_its_states_and_answers_a_sequence_as_onnx_runtime_fed_by_hand(
    name: str, precision: str, within: float, files: Path, tmp_path: Path
) -> None:
    pytest.importorskip({"tflite": "ai_edge_litert"}.get(name, name))
    built = edgepack.build(
        files / "model.onnx", tmp_path / "out", target=name, precision=precision, data=files / "steps.npz",
        eval=files / "eval.npz", **FAST,
    )  # fmt: skip
    manifest = bundle.read_manifest(built.bundle)
    assert [entry["name"] for entry in manifest["inputs"]] == ["x"]
    assert [(entry["input"], entry["output"]) for entry in manifest["state"]] == [("h", "hn"), ("c", "cn")]
    assert {"y", "hn", "cn"} == set(built.check["outputs"])
    assert built.latency["ratio"]["median"] > 0 and built.quality is not None
    # The golden samples are the first steps of the samples, and their reference is ONNX Runtime's sequence.
    with np.load(files / "steps.npz") as arrays:
        _, wanted = by_hand(arrays["x"][:8])
    with np.load(built.bundle / "golden" / "inputs.npz") as golden:
        assert set(golden.files) == {f"{step}/x" for step in range(8)}
    for which, tolerance in (("reference", 1e-5), ("expected", within)):
        with np.load(built.bundle / "golden" / f"{which}.npz") as golden:
            for step, answer in enumerate(wanted):
                for output, array in answer.items():
                    np.testing.assert_allclose(golden[f"{step}/{output}"], array, atol=tolerance)
    # A program of one's own: states stay between calls, and reset begins anew.
    found = through_the_harness(built.bundle, tmp_path)
    steps = models.random((20, 1, 12), 9)
    _, wanted = by_hand(steps, (12,))
    for step, answer in enumerate(wanted):
        np.testing.assert_allclose(found[f"{step}"], answer["y"], atol=within)


def through_the_harness(folder: Path, scratch: Path) -> Any:
    """The answers y of a process that imports the bundle's harness, runs 20 steps, and resets before the 13th."""
    steps = models.random((20, 1, 12), 9)
    np.save(scratch / "steps.npy", steps)
    program = """
import sys, numpy
sys.path.insert(0, sys.argv[1])
import harness
model = harness.load(threads=1)
answers = {}
for place, step in enumerate(numpy.load(sys.argv[2])):
    if place == 12:
        model.reset()
    answers[str(place)] = model({"x": step})["y"]
numpy.savez(sys.argv[3], **answers)
"""
    paths = [str(folder), str(scratch / "steps.npy"), str(scratch / "answers.npz")]
    done = subprocess.run([sys.executable, "-B", "-c", program, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(scratch / "answers.npz") as arrays:
        return dict(arrays)


def test_a_state_that_drifts_is_found_by_the_golden_check_and_by_accuracy(files: Path, tmp_path: Path) -> None:
    """What is judged are answers with the bundle's own states: another forget gate alone shows after some steps."""
    built = edgepack.build(
        files / "model.onnx", tmp_path / "out", target="onnxruntime", precision="fp32", data=files / "steps.npz", **FAST
    )
    assert built.quality is not None and built.quality.sqnr_db is not None and built.quality.sqnr_db > 100
    path = built.bundle / "model" / "model.onnx"
    altered = onnx.load(path)
    for tensor in altered.graph.initializer:
        if tensor.name == "b":
            bias = onnx.numpy_helper.to_array(tensor).copy()
            bias[0, 2 * 16 : 3 * 16] += 0.2
            tensor.CopyFrom(onnx.numpy_helper.from_array(bias, "b"))
    onnx.save(altered, path)
    first = {"x": models.random((1, 12)), "h": np.zeros((1, 1, 16), np.float32), "c": np.zeros((1, 1, 16), np.float32)}
    one, other = (Session(Model.from_proto(proto)).run(first) for proto in (models.lstm_step(), altered))
    np.testing.assert_allclose(one["y"], other["y"], atol=1e-6)
    bundle.seal(built.bundle, bundle.read_manifest(built.bundle))
    with pytest.raises(edgepack.EdgepackError, match="off by"):
        edgepack.check(built.bundle)


def test_integers_at_the_border_leave_states_float(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    proto = models.model(
        [
            onnx.helper.make_node("Gemm", ["x", "w", "b"], ["a"], transB=1),
            onnx.helper.make_node("Add", ["a", "s"], ["sum"]),
            onnx.helper.make_node("Tanh", ["sum"], ["sn"]),
            onnx.helper.make_node("Gemm", ["sn", "w2", "b"], ["y"], transB=1),
        ],
        {"x": [1, 8], "s": [1, 8]},
        {"y": [1, 8], "sn": [1, 8]},
        {"w": models.random((8, 8), 1, 0.4), "w2": models.random((8, 8), 2, 0.4), "b": models.random((8,), 3, 0.1)},
    )
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "steps.npz", x=models.random((64, 8), 4))
    built = edgepack.build(
        tmp_path / "model.onnx", tmp_path / "out", target="tflite", precision="int8", io_dtype="int8",
        data=tmp_path / "steps.npz", **{**FAST, "state": {"s": "sn"}},
    )  # fmt: skip
    manifest = bundle.read_manifest(built.bundle)
    types = {entry["name"]: entry["dtype"] for entry in (*manifest["inputs"], *manifest["outputs"])}
    assert types == {"x": "int8", "y": "int8", "sn": "float32"} and manifest["state"][0]["dtype"] == "float32"
    assert built.check["ok"] and built.quality is not None and built.quality.sqnr_db is not None
    assert built.quality.sqnr_db > 20


def test_run_takes_the_steps_of_a_sequence_in_order(files: Path, tmp_path: Path) -> None:
    built = edgepack.build(files / "model.onnx", tmp_path / "out", target="onnxruntime", precision="fp32", **FAST)
    assert bundle.read_manifest(built.bundle)["golden"]["synthetic"]
    steps = models.random((3, 1, 12), 9)
    _, wanted = by_hand(steps)
    for place, step in enumerate(steps):
        np.save(tmp_path / f"{place}.npy", step)
    command = [sys.executable, "-B", str(built.bundle / "harness.py"), "run", "--json"]
    done = subprocess.run([*command, *(str(tmp_path / f"{n}.npy") for n in range(3))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scores = {top["class"]: top["score"] for top in json.loads(done.stdout)[2]["outputs"]["y"]["top"]}
    for number, score in scores.items():
        assert score == pytest.approx(float(wanted[2]["y"][0][number]), abs=1e-5)


# --- what makes no sense ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "words", "hint"),
    [
        ({"hh": "hn"}, "the model has no input 'hh'", "did you mean h?"),
        ({"h": "next"}, "the model has no output 'next'", "its outputs: y, hn, cn"),
        ({"h": "y"}, "y float32 N×5 does not fit h float32 1×N×16", "one type and shape"),
        ({"h": "hn", "c": "hn"}, "one output for two inputs", "an output of its own"),
    ],
)
def test_states_that_are_none_are_refused(pairs: dict[str, str], words: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        states.states_of(model(), pairs)
    assert words in caught.value.message and hint in caught.value.hint


def test_something_has_to_go_in() -> None:
    proto = models.model([onnx.helper.make_node("Tanh", ["s"], ["t"])], {"s": [1, 4]}, {"t": [1, 4]})
    with pytest.raises(UsageError, match="--state names every input"):
        states.states_of(models.in_edgepack(proto), {"s": "t"})
