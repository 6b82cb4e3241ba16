"""`--max-drop` in whole builds: models whose int8 loss is known before, and what must come of each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgepack import errors
from edgepack.building.pipeline import build
from edgepack.building.result import Build
from edgepack.data.reading import read
from edgepack.data.samples import Samples
from edgepack.promise.search import Trial
from edgepack.promise.trials import Journal, code_of, fingerprint, refuse_foreign, resumable
from edgepack.render import promise_lines
from tests import models
from tests.conftest import Run

Make = Callable[..., Build]
OFFSET = 1000.0
TRIAL = Trial(precision="int8", keep_float=("c1",), drop=1.0, margin=0.1, agreement=99.0, sqnr_db=20.0, keeps=False)


def sensor(offset: float = OFFSET) -> onnx.ModelProto:
    """The convnet for pictures that vary by a few units around an offset.

    Its first layer takes the offset out, so its filters sum to zero. 8 bits between 0 and 1008 leave next to nothing
    of the pictures, while all other layers are as good in int8 as those of any net.
    """
    proto = models.convnet(32)
    proto.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("pads", [0, 0, 0, 0]))
    replace(proto, "w1", lambda w: w - w.mean(axis=(1, 2, 3), keepdims=True))
    mean = answers(proto, pictures(200, 3, offset)).mean(axis=0)
    replace(proto, "b4", lambda b: b - mean)  # so that many classes occur
    return proto


def one_layer() -> onnx.ModelProto:
    """A sum of small differences between large numbers, all there is: int8 loses and nothing can be raised."""
    weight = models.random((3 * 16 * 16, 10), 4)
    return models.model(
        [
            helper.make_node("Flatten", ["x"], ["f"], name="flatten"),
            helper.make_node("Gemm", ["f", "w"], ["y"], name="head"),
        ],
        {"x": ["N", 3, 16, 16]},
        {"y": ["N", 10]},
        {"w": weight - weight.mean(axis=0)},
    )


def pictures(count: int, seed: int, offset: float = OFFSET) -> np.ndarray:
    contrast = np.linspace(0.3, 2, count, dtype=np.float32)[:, None, None, None]
    return np.asarray(models.images(count, seed=seed) * contrast + np.float32(offset))


def replace(proto: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            array = change(numpy_helper.to_array(tensor)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, name))


def answers(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def write(folder: Path, proto: onnx.ModelProto, x: np.ndarray, calibration: np.ndarray) -> None:
    """model.onnx, calib.npz and eval.npz, labelled by the model itself but for a tenth, which is wrong."""
    onnx.save(proto, folder / "model.onnx")
    np.savez(folder / "calib.npz", x=calibration)
    random = np.random.default_rng(0)
    labels = answers(proto, x).argmax(axis=1)
    wrong = random.random(len(x)) < 0.1
    np.savez(folder / "eval.npz", x=x, y=np.where(wrong, random.integers(0, 10, len(x)), labels))
    np.savez(folder / "unlabelled.npz", x=x)


@pytest.fixture(scope="module")
def offset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offset")
    write(folder, sensor(), pictures(800, 2), pictures(64, 1))
    return folder


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hopeless")
    write(folder, one_layer(), pictures(400, 2), pictures(64, 1))
    return folder


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def run(folder: Path, evaluation: str = "eval.npz", **flags: Any) -> Build:
        data, judged = folder / "calib.npz", folder / evaluation
        return build(folder / "model.onnx", tmp_path / "out", data=data, eval=judged, seconds=0.1, **flags)

    return run


def manifest(built: Build) -> dict[str, Any]:
    return dict(json.loads((built.bundle / "manifest.json").read_text(encoding="utf-8")))


def only_bundle(folder: Path) -> bool:
    """Whether nothing but the bundle and its archive is left: no journal, no scratch."""
    return sorted(path.name for path in folder.iterdir()) == ["out", "out.tar.gz"]


# --- what is chosen ---------------------------------------------------------------------------------------


def test_int8_is_all_that_is_tried_where_it_keeps_the_budget(make: Make, convnet_files: Path, tmp_path: Path) -> None:
    built = make(convnet_files, precision="int8", max_drop=30)
    assert built.precision == "int8" and built.promise is not None
    assert built.promise["kept"] and built.promise["float_layers"] == [] and len(built.promise["trials"]) == 1
    assert built.promise["search_samples"] + built.promise["report_samples"] == 64
    assert built.quality is not None and built.quality.count == built.promise["report_samples"]
    assert built.promise["drop"] == built.quality.drop
    assert manifest(built)["promise"]["state"] == "kept"
    assert only_bundle(tmp_path)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_layer_that_int8_ruins_is_raised_to_float(make: Make, offset: Path, target: str) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    built = make(offset, target=target, precision="int8", max_drop=4)
    promise = built.promise
    assert promise is not None and promise["kept"], promise
    assert promise["trials"][0]["keep_float"] == () and promise["trials"][0]["drop"] > 8
    assert [(layer["layer"], layer["operator"]) for layer in promise["float_layers"]] == [("c1", "Conv")]
    assert promise["float_layers"][0]["sqnr_alone_db"] < 10
    assert "1 layer in float" in built.reason
    written = manifest(built)
    assert written["promise"]["state"] == "kept" and written["precision"] == "int8"
    assert written["promise"]["float_layers"] == promise["float_layers"]
    if target == "onnxruntime":
        proto = onnx.load(built.bundle / "model" / "model.onnx")
        made = {output: node.op_type for node in proto.graph.node for output in node.output}
        weights = {node.output[0]: made.get(node.input[1]) for node in proto.graph.node if node.op_type == "Conv"}
        assert weights["c1"] is None
        assert sorted(weights.values(), key=str) == ["DequantizeLinear", "DequantizeLinear", None]


def test_float_is_the_answer_where_int8_loses_and_was_not_asked_for(make: Make, hopeless: Path, tmp_path: Path) -> None:
    built = make(hopeless, max_drop=0)
    assert built.precision == "fp32" and built.promise is not None and built.promise["kept"]
    assert "no int8 form" in built.reason or "no faster" in built.reason
    assert manifest(built)["promise"]["state"] == "kept" and manifest(built)["precision"] == "fp32"
    assert only_bundle(tmp_path)


def test_a_missed_promise_is_written_and_leaves_with_3(cli: Run, hopeless: Path, tmp_path: Path) -> None:
    flags = ["--data", hopeless / "calib.npz", "--eval", hopeless / "eval.npz", "--precision", "int8"]
    command = ["build", hopeless / "model.onnx", *flags, "--max-drop", 0, "--seconds", 0.1, "--json"]
    done = cli(*command, "-o", tmp_path / "out")
    assert done.returncode == errors.PROMISE_MISSED, done.stderr
    promise = json.loads(done.stdout)["promise"]
    assert not promise["kept"] and promise["drop"] > 0 and promise["float_layers"] == []
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["promise"]["state"] == "missed"
    assert only_bundle(tmp_path)
    assert cli("check", tmp_path / "out").returncode == 0
    words = str(promise_lines(promise)[0])
    assert words.startswith("promise missed: ") and "points of top1 lost, 0 allowed" in words


def test_the_float_layer_and_its_cost_are_printed(cli: Run, offset: Path, tmp_path: Path) -> None:
    (tmp_path / "flags.yaml").write_text(
        f"data: {offset / 'calib.npz'}\neval: {offset / 'eval.npz'}\nprecision: int8\nmax_drop: 4\nseconds: 0.1\n"
    )
    done = cli("build", offset / "model.onnx", "--config", tmp_path / "flags.yaml", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "promise kept" in done.stdout and "float: c1 (Conv): " in done.stdout and "1 layer float" in done.stdout


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_other_precisions_are_held_against_the_budget_without_a_search(
    make: Make, convnet_files: Path, precision: str
) -> None:
    built = make(convnet_files, precision=precision, max_drop=20)
    assert built.precision == precision and built.promise is not None
    assert built.promise["kept"] and built.promise["trials"] == []
    assert manifest(built)["promise"]["report_samples"] >= 32


def test_a_model_that_is_quantized_already_is_held_against_itself(make: Make, offset: Path, tmp_path: Path) -> None:
    quantized = make(offset, precision="int8")
    built = build(
        quantized.bundle / "model" / "model.onnx", tmp_path / "again", eval=offset / "eval.npz", max_drop=0, seconds=0.1
    )
    assert built.precision == "as-is" and built.promise is not None
    assert built.promise["kept"] and built.promise["drop"] == 0


# --- what it is judged by ---------------------------------------------------------------------------------


def test_without_an_evaluation_set_nothing_is_promised(cli: Run, offset: Path, tmp_path: Path) -> None:
    flags = ["--data", offset / "calib.npz", "--max-drop", 1, "-o", tmp_path / "out"]
    done = cli("build", offset / "model.onnx", *flags)
    assert done.returncode == errors.DataNeeded.exit_code == 24
    assert "--max-drop is judged on samples of their own" in done.stderr and "add --eval" in done.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_hardly_any_samples(make: Make, offset: Path, tmp_path: Path, count: int) -> None:
    np.savez(tmp_path / "few.npz", x=pictures(count, 9), y=np.zeros(count, np.int64))
    few = str(tmp_path / "few.npz")
    if count == 1:
        with pytest.raises(errors.NoSamples, match="cannot be split"):
            make(offset, few, max_drop=1)
        return
    built = make(offset, few, precision="int8", max_drop=50)
    assert built.promise is not None and built.promise["search_samples"] == built.promise["report_samples"] == 1
    assert any("no interval" in warning for warning in built.promise["warnings"])


def test_without_labels_the_original_answers_are_the_measure(make: Make, offset: Path) -> None:
    built = make(offset, "unlabelled.npz", precision="int8", max_drop=8)
    promise = built.promise
    assert promise is not None and promise["metric"] == "agreement" and promise["kept"]
    assert [layer["layer"] for layer in promise["float_layers"]] == ["c1"]
    assert promise["drop"] == pytest.approx(100 - built.quality.agreement)  # type: ignore[union-attr, operator]


def test_answers_that_nothing_can_judge_are_refused_before_any_work(make: Make, tmp_path: Path) -> None:
    heat = models.model(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="heat")],
        {"x": ["N", 3, 16, 16]},
        {"y": ["N", 1, 16, 16]},
        {"w": models.random((1, 3, 1, 1))},
    )
    onnx.save(heat, tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=models.images(40, seed=1))
    np.savez(tmp_path / "eval.npz", x=models.images(40, seed=2))
    done: list[str] = []
    with pytest.raises(errors.MetricError, match="nothing to hold against"):
        make(tmp_path, max_drop=1, progress=lambda what, *_: done.append(what))
    assert done[-1] == "cleaning up"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"max_drop": -1.0}, "no number of points"),
        ({"max_drop": float("nan")}, "no number of points"),
        ({"time_budget": 10.0}, "add --max-drop"),
        ({"max_drop": 1.0, "time_budget": 0.0}, "time-budget"),
    ],
)
def test_flags_that_mean_nothing_are_refused(make: Make, offset: Path, flags: dict[str, float], words: str) -> None:
    with pytest.raises(errors.UsageError, match=words):
        make(offset, **flags)


# --- time, interrupts and the journal ---------------------------------------------------------------------


def test_when_the_time_is_up_the_best_of_what_was_tried_is_built(make: Make, offset: Path, tmp_path: Path) -> None:
    # Nor is a journal taken up that is of another search.
    Journal(tmp_path / "out.search.json", {"budget": 5}).add(TRIAL)
    built = make(offset, precision="int8", max_drop=4, time_budget=0.001)
    promise = built.promise
    assert promise is not None and not promise["finished"] and not promise["kept"]
    assert len(promise["trials"]) == 1 and "the time ran out" in built.reason
    assert manifest(built)["promise"]["state"] == "missed"
    assert only_bundle(tmp_path)


def test_an_interrupted_search_goes_on_where_it_stopped(cli: Run, offset: Path, tmp_path: Path) -> None:
    # More samples to judge than one can be quick about.
    write(tmp_path, sensor(), pictures(3000, 2), pictures(64, 1))
    work = tmp_path / "work"
    work.mkdir()
    flags = ["--data", tmp_path / "calib.npz", "--eval", tmp_path / "eval.npz", "--precision", "int8"]
    command = ["build", tmp_path / "model.onnx", *flags, "--seconds", 0.1, "-o", "out", "--max-drop"]
    journal = work / "out.search.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "edgepack", *map(str, command), "4"],
        cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        while not journal.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == errors.Interrupted.exit_code and out == ""
    assert err.splitlines() == ["error: interrupted", "hint: the same command goes on from out.search.json"]
    assert [path.name for path in work.iterdir()] == ["out.search.json"]

    kept = json.loads(journal.read_text())
    assert kept["trials"][0]["keep_float"] == []
    kept["trials"][0]["sqnr_db"] = 12.25  # a mark that shows whether it is tried again
    journal.write_text(json.dumps(kept))

    done = cli(*command, 4, "--json", cwd=work)
    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout)["promise"]["trials"]
    assert trials[0]["sqnr_db"] == 12.25 and trials[-1]["keeps"]
    assert sorted(path.name for path in work.iterdir()) == ["out", "out.tar.gz"]


def test_a_journal_keeps_trials_for_its_own_key_only(tmp_path: Path) -> None:
    path = tmp_path / "out.search.json"
    Journal(path, {"budget": 0.5, "inputs": ("x",)}).add(TRIAL)
    assert Journal(path, {"budget": 0.5, "inputs": ("x",)}).trials == [TRIAL]
    assert Journal(path, {"budget": 0.6, "inputs": ("x",)}).trials == []
    assert [file.name for file in tmp_path.iterdir()] == ["out.search.json"]


DAMAGE: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut off": lambda text: text[:-20],
    "no table": lambda text: "[1, 2]",
    "another key in a trial": lambda text: text.replace('"margin"', '"marging"'),
    "no trials": lambda text: text.replace('"trials"', '"trails"'),
    "a number that is none": lambda text: text.replace('"drop": 1.0', '"drop": "much"'),
    "layers that are none": lambda text: text.replace('["c1"]', "null").replace('"c1"', "7"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_journal_is_as_good_as_none(tmp_path: Path, damage: Callable[[str], str]) -> None:
    path = tmp_path / "out.search.json"
    Journal(path, {"budget": 0.5}).add(TRIAL)
    whole = path.read_text()
    path.write_text(damage(whole))
    assert path.read_text() != whole
    assert Journal(path, {"budget": 0.5}).trials == []


@pytest.mark.parametrize("text", ['{"mine": 1}', "notes", '["kind", "edgepack search"]'])
def test_a_file_of_the_user_s_by_that_name_is_not_touched(make: Make, offset: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "out.search.json"
    path.write_text(text)
    with pytest.raises(errors.UsageError, match="not edgepack's"):
        make(offset, precision="int8", max_drop=4, time_budget=0.001)
    assert path.read_text() == text and not (tmp_path / "out").exists()


def test_a_journal_cut_off_is_edgepack_s_still(tmp_path: Path) -> None:
    path = tmp_path / "out.search.json"
    refuse_foreign(path)
    Journal(path, {"budget": 0.5}).add(TRIAL)
    path.write_text(path.read_text()[:-20])
    refuse_foreign(path)
    path.write_text("")
    refuse_foreign(path)


def test_only_an_interrupt_with_something_to_go_on_from_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path / "none"):
        raise KeyboardInterrupt
    (tmp_path / "some").write_text("{}")
    with pytest.raises(errors.Interrupted, match="goes on from"), resumable(tmp_path / "some"):
        raise KeyboardInterrupt


def test_labels_are_part_of_what_a_trial_depends_on(tmp_path: Path) -> None:
    model = models.in_edgepack(models.mlp())

    def labelled(y: np.ndarray) -> Samples:
        np.savez(tmp_path / "eval.npz", x=models.random((4, 8)), y=y)
        return read(tmp_path / "eval.npz", model)

    one, same, other = labelled(np.arange(4)), labelled(np.arange(4)), labelled(np.arange(4)[::-1])
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)


def test_so_is_the_code_of_ones_own_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "scored_here.py").write_text("def score(outputs, labels): return 1.0\n")
    __import__("scored_here")
    before = code_of("scored_here:score")
    (tmp_path / "scored_here.py").write_text("def score(outputs, labels): return 2.0\n")
    assert before is not None and code_of("scored_here:score") != before
    assert code_of("top1") is None and code_of(None) is None


def test_a_trial_survives_json() -> None:
    entry = json.loads(json.dumps(asdict(TRIAL)))
    assert Trial(**{**entry, "keep_float": tuple(entry["keep_float"])}) == TRIAL
