"""benchmarks/quantize.py and convert.py on a tiny model, with what CI has: ONNX Runtime's own quantizer, edgepack."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import helper

from tests import models

ROOT = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of benchmarks/comparison."""
    monkeypatch.syspath_prepend(str(ROOT))

    def load(name: str) -> ModuleType:
        return importlib.import_module(f"comparison.{name}")

    return load


def compare(*arguments: object, script: str = "quantize.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_table_and_json_of_a_small_model(convnet_files: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    asked = [
        *("--model", f"tiny={convnet_files}", "--cache", tmp_path / "cache", "--json", report),
        *("--methods", "float,ort,ort-per-channel,edgepack-int8", "--targets", "onnxruntime"),
        *("--samples", 40, "--seconds", 0.2, "--threads", 1),
    ]
    first = compare(*asked)
    assert first.returncode == 0, first.stderr
    for words in ("tiny", "ort-per-channel", "edgepack beside the peers", "64 samples calibrate"):
        assert words in first.stdout
    (result,) = json.loads(report.read_text())["models"]
    rows = {row["method"]: row for row in result["rows"]}
    assert [*rows] == ["float", "ort", "ort-per-channel", "edgepack-int8"]
    assert result["split"] == {"calibration": 64, "search": 32, "report": 32}
    assert rows["float"]["sqnr_db"] is None and rows["float"]["value"] == 100  # the labels are its own answers
    for name, row in rows.items():
        assert "error" not in row and "skipped" not in row, row
        assert 0 < row["latency"]["1"]["p50_ms"] < 100
        assert row["change"]["low"] <= row["change"]["points"] <= row["change"]["high"]
        if name != "float":
            assert row["sqnr_db"] > 10 and row["agreement"] > 80
            assert row["seconds"] > 0 and row["peak_mb"] > 20
    (verdict,) = result["verdicts"]
    assert [entry["peer"] for entry in verdict["beside"]] == ["ort", "ort-per-channel"]
    assert {entry["verdict"] for entry in verdict["beside"]} <= {"better", "equal", "worse"}
    assert verdict["speed"]["1"]["times"]["median"] > 0 and verdict["float"]["1"]["times"]["median"] > 0
    assert verdict["promise"] is None

    again = compare(*asked)
    assert "timing" in first.stderr and not again.stderr.strip()  # all of it was in the cache
    assert again.stdout == first.stdout
    anew = compare(*asked, "--again", "ort", "--methods", "float,ort")
    assert "ort for onnxruntime" in anew.stderr and "edgepack" not in anew.stderr


def test_files_of_a_small_model_beside_the_graphs_they_are_of(convnet_files: Path, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    report = tmp_path / "report.json"
    asked = [
        *("--model", f"tiny={convnet_files}", "--cache", tmp_path / "cache", "--json", report),
        *("--converters", "edgepack-float,edgepack-float-rpi5,edgepack-int8,quantizer-onnx2tf"),
        *("--samples", 40, "--seconds", 0.2),
    ]
    first = compare(*asked, script="convert.py")
    assert first.returncode == 0, first.stderr
    for words in ("edgepack-float-rpi5: the file of edgepack-float", "float within 1e-4", "int8 within 0.3 points"):
        assert words in first.stdout
    (result,) = json.loads(report.read_text())["models"]
    rows = {row["method"]: row for row in result["rows"]}
    assert result["split"] == {"calibration": 64, "search": 0, "report": 40}
    assert rows["quantizer-onnx2tf"]["skipped"] == "there is no file of onnx2tf"
    assert rows["edgepack-float"]["largest_error"] < 1e-5 < rows["edgepack-int8"]["largest_error"]
    assert rows["onnxruntime-qdq"]["beside_db"] is None and rows["onnxruntime-qdq"]["qdq_agreement"] == 100
    assert rows["edgepack-int8"]["beside_db"] is None or rows["edgepack-int8"]["beside_db"] > 25
    for name in ("onnxruntime-float", "onnxruntime-qdq", "openvino-qdq", "edgepack-float", "edgepack-int8"):
        assert 0 < rows[name]["latency"]["1"]["p50_ms"] < 100
    found = result["demands"]
    assert found["float_error"]["kept"] and found["float_speed"] is None and found["quantizers"] == []
    assert found["qdq"]["openvino"]["verdict"] in ("kept", "equal", "further")
    again = compare(*asked, script="convert.py")
    assert not again.stderr.strip() and again.stdout == first.stdout


def test_graphs_for_tensorrt_of_a_small_model(convnet_files: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    asked = [
        *("--model", f"tiny={convnet_files}", "--cache", tmp_path / "cache", "--json", report),
        *("--quantizers", "float,edgepack-asymmetric,ort-symmetric", "--samples", 40),
    ]
    first = compare(*asked, script="jetson.py")
    assert first.returncode == 0, first.stderr
    (result,) = json.loads(report.read_text())["models"]
    rows = {row["method"]: row for row in result["rows"]}
    assert [*rows] == ["float", "edgepack-asymmetric", "ort-symmetric"]
    assert rows["float"]["layout"] == {"activation_pairs": 0, "int8_layers": 0, "layers": 4, "nodes": 10}
    assert set(rows["float"]["findings"]["severities"]) <= {"advice"} and rows["float"]["sqnr_db"] > 100
    assert rows["edgepack-asymmetric"]["findings"]["rules"]["unsigned"] > 0
    assert "beside_asymmetric" not in rows["edgepack-asymmetric"]
    # Pairs on both inputs of its Add and at the output, and nothing that TensorRT refuses.
    assert rows["ort-symmetric"]["findings"]["severities"].keys() == {"slow", "advice"}
    assert {"residual", "idle"} <= rows["ort-symmetric"]["findings"]["rules"].keys()
    assert rows["ort-symmetric"]["layout"]["int8_layers"] == 4
    assert rows["ort-symmetric"]["layout"]["activation_pairs"] > rows["edgepack-asymmetric"]["layout"]["int8_layers"]
    assert rows["ort-symmetric"]["sqnr_db"] > 10 and rows["ort-symmetric"]["beside_asymmetric"]["low"] <= 0
    again = compare(*asked, "--markdown", script="jetson.py")
    assert not again.stderr.strip()  # all of it was in the cache
    assert "| ort-symmetric | " in again.stdout and "4 of 4" in again.stdout


def test_a_converter_whose_answers_are_wrong_is_not_the_fastest(part) -> None:
    def row(name: str, milliseconds: float, error: float) -> dict:
        rounds = {1: [[[milliseconds] * 3] * 4] * 3}
        return {"method": name, "largest_error": error, "rounds": rounds, "latency": {1: {"p50_ms": milliseconds}}}

    rows = [
        row("edgepack-float", 1.1, 1e-6),
        row("onnx2tf", 0.2, 0.8),
        row("tflite-converter", 1.0, 1e-6),
        row("litert-torch", 2.0, 0.0),
    ]
    found = part("demands").judge(part("metrics").find("top1", {}), {row["method"]: row for row in rows})
    assert found["float_speed"]["peer"] == "tflite-converter" and found["float_speed"]["verdict"] == "slower"
    assert found["float_speed"]["times"]["median"] == pytest.approx(1.1)


def test_a_file_with_channels_last_is_fed_so(part, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from edgepack import target
    from edgepack.model import Model

    n = helper.make_node
    weights = {"w": models.random((4, 3, 1, 1))}
    plain = models.model([n("Conv", ["x", "w"], ["y"])], {"x": [1, 3, 5, 6]}, {"y": [1, 4, 5, 6]}, weights)
    turned = models.model(
        [
            n("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
            n("Conv", ["t", "w"], ["c"]),
            n("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1]),
        ],
        {"x": [1, 5, 6, 3]},
        {"y": [1, 5, 6, 4]},
        weights,
    )
    feed, answers = {"x": models.random((1, 3, 5, 6))}, []
    for layout, proto in (("tflite", plain), ("tflite-nhwc", turned)):
        folder = tmp_path / layout
        folder.mkdir()
        file = folder / target.load("tflite").lower(Model.from_proto(proto), folder)
        answers.append(part("runtimes").load(layout, str(file), 1, ["y"])(feed)[0])
    assert np.array_equal(*answers)


def test_an_environment_without_its_interpreter_is_a_row(part, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environments = part("environments")
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "odd.txt").write_text("")
    monkeypatch.setattr(environments, "HERE", tmp_path)
    with pytest.raises(RuntimeError, match=r"python9\.9"):
        environments.python("odd", tmp_path / "envs", "python9.9")


def test_a_float_model_that_does_not_run_ends_in_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    proto = models.model([helper.make_node("NoSuchOp", ["x"], ["y"], domain="odd")], {"x": [1, 4]}, {"y": [1, 4]})
    proto.opset_import.append(helper.make_opsetid("odd", 1))
    onnx.save(proto, folder / "model.onnx")
    np.savez(folder / "calib.npz", x=models.random([8, 4]))
    np.savez(folder / "eval.npz", x=models.random([10, 4], seed=1), y=np.zeros(10, np.int64))
    failed = compare("--model", f"odd={folder}", "--cache", tmp_path / "cache", "--methods", "float", "--seconds", 0)
    assert failed.returncode == 1
    assert "NoSuchOp" in failed.stderr and "Traceback" not in failed.stderr


def test_a_method_that_fails_is_a_row_and_tried_again(part, tmp_path: Path) -> None:
    tries = []

    def fail(folder: Path) -> dict[str, str]:
        tries.append(folder)
        raise part("children").ChildFailed("exit code 1: no memory")

    cached = part("run").cached
    assert [cached(tmp_path / "made", "key", fail)["error"] for _ in range(2)] == ["exit code 1: no memory"] * 2
    assert len(tries) == 2
    assert cached(tmp_path / "made", "key", lambda folder: {"file": "x"})["file"] == "x"
    assert cached(tmp_path / "made", "key", fail)["file"] == "x"
    assert "error" in cached(tmp_path / "made", "another key", fail)


def test_samples_that_calibrate_and_judge_are_refused(convnet_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "leak"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((convnet_files / "model.onnx").read_bytes())
    with np.load(convnet_files / "eval.npz") as archive:
        np.savez(folder / "eval.npz", x=archive["x"], y=archive["y"])
        np.savez(folder / "calib.npz", x=archive["x"][:8])
    refused = compare("--model", f"leak={folder}", "--cache", tmp_path / "cache", "--methods", "float")
    assert refused.returncode != 0
    assert "8 samples both calibrate and judge" in refused.stderr


def test_open_inputs_are_fixed_though_names_repeat(part) -> None:
    # Some exporters call every open length "?", also where they differ.
    proto = models.model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 3, "?", "?"]}, {"y": ["N", 3, "?", "?"]})
    fixed = part("tasks").fix_inputs(proto, {"x": (1, 3, 4, 6)})
    shape = [[dim.dim_value for dim in t.type.tensor_type.shape.dim] for t in (*fixed.graph.input, *fixed.graph.output)]
    assert shape == [[1, 3, 4, 6], [1, 3, 4, 6]]
    onnx.checker.check_model(fixed, full_check=True)


def test_mcnemar_is_the_binomial_tail(part) -> None:
    mcnemar = part("verdicts").mcnemar
    assert mcnemar(0, 0) == 1 and mcnemar(5, 5) == 1
    assert mcnemar(5, 0) == mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(9, 1) == pytest.approx(2 * 11 / 1024)


@pytest.mark.parametrize(("flips", "expected"), [(0, "equal"), (3, "equal"), (40, "worse")])
def test_verdict_of_hits(part, flips: int, expected: str) -> None:
    metric = part("metrics").find("top1", {})
    peer = (np.arange(1000) % 10 != 0).astype(np.float64)[:, None]
    ours = peer.copy()
    ours[np.flatnonzero(peer[:, 0])[:flips]] = 0
    result = part("verdicts").difference(metric, ours, peer)
    assert result["points"] == pytest.approx(-flips / 10)
    assert part("verdicts").word(result["points"], result["p"]) == expected


def test_the_best_of_several_is_held_to_more(part) -> None:
    """Holm's steps: 3 × 0.01, then 2 × 0.04 = 0.08, never below the one before."""
    assert part("verdicts").adjusted([0.04, 0.01, 0.06]) == pytest.approx([0.08, 0.03, 0.08])
    assert part("verdicts").adjusted([0.9, 0.8]) == [1.0, 1.0] and part("verdicts").adjusted([]) == []


def test_the_fastest_peer_that_is_as_accurate(part, tmp_path: Path) -> None:
    def row(name: str, milliseconds: float, wrong: int) -> dict:
        hits = np.ones((500, 1))
        hits[:wrong] = 0
        np.savez(tmp_path / f"{name}.npz", records=hits, power=np.ones((500, 2)))
        rounds = {1: [[[milliseconds] * 3] * 4] * 3}
        return {
            "method": name,
            "target": "onnxruntime",
            "records": str(tmp_path / f"{name}.npz"),
            "rounds": rounds,
            "latency": {1: {"p50_ms": milliseconds}},
            "change": {"points": -wrong / 5},
            "build": {"warnings": ["slower than the float original on this machine"], "promise": {"state": "missed"}},
        }

    rows = [
        row("float", 2.0, 0),
        row("edgepack-max-drop", 1.2, 4),
        row("ort", 0.5, 100),  # fastest, but much worse
        row("nncf", 1.0, 5),
        row("onnxsim", 3.0, 0),
    ]
    (found,) = part("beside").judge(part("metrics").find("top1", {}), rows, "onnxruntime")
    assert [entry["verdict"] for entry in found["beside"]] == ["better", "equal", "equal"]
    assert found["speed"][1]["peer"] == "nncf" and found["speed"][1]["flag"] == "slower"
    assert found["speed"][1]["times"]["median"] == pytest.approx(1.2)
    assert found["float"][1]["flag"] == "" and found["float"][1]["said"]
    assert found["promise"] == {"allowed": 0.5, "lost": 0.8, "kept": False, "said": "missed"}


def test_fewer_errors_are_better(part) -> None:
    metric = part("metrics").find("cer", {"character": "a\nb"})
    few, many = np.tile([[1.0, 20.0]], (200, 1)), np.tile([[3.0, 20.0]], (200, 1))
    result = part("verdicts").difference(metric, few, many)
    assert result["points"] == pytest.approx(10) and part("verdicts").word(result["points"], result["p"]) == "better"


def test_characters_are_read_and_counted(part) -> None:
    metric = part("metrics").find("cer", {"character": "a\nb\nc"})
    scores = np.zeros((1, 7, 5), np.float32)
    for step, k in enumerate([1, 1, 0, 1, 2, 4, 3]):  # a a blank a b space c
        scores[0, step, k] = 1
    assert metric.answer([scores]) == "aab c"
    assert metric.record([scores], "aab c").tolist() == [0, 5]
    assert metric.record([scores], "abb").tolist() == [3, 3]


def test_boxes_are_found_and_scored(part) -> None:
    boxes = part("boxes")
    page = np.zeros((1, 1, 60, 100), np.float32)
    page[0, 0, 10:20, 10:60] = 0.9  # a line of text
    page[0, 0, 40:50, 20:90] = 0.8  # another one
    page[0, 0, 30:32, 5:7] = 0.9  # too small
    both = np.array([[4, 4, 66, 26], [14, 34, 96, 56], [np.nan] * 4])
    row = boxes.record(page, both)
    ones = np.ones(1)
    assert boxes.average_precision(row[None], ones) == pytest.approx(100)
    assert boxes.h_mean(row[None], ones) == pytest.approx(100)
    elsewhere = np.array([[4, 4, 66, 26], [0, 57, 9, 60], [50, 0, 99, 9]])
    row = boxes.record(page, elsewhere)
    assert boxes.h_mean(row[None], ones) == pytest.approx(200 * 1 / (2 + 3))
    assert boxes.average_precision(row[None], ones) == pytest.approx(100 / 3)


def test_average_precision_counts_samples_as_often_as_drawn(part) -> None:
    boxes = part("boxes")
    rng = np.random.default_rng(0)
    rows = np.zeros((5, 2 * boxes.MOST + 1))
    rows[:, : boxes.MOST] = -1
    for row in rows:
        row[:4] = rng.random(4)
        row[boxes.MOST : boxes.MOST + 4] = rng.integers(0, 2, 4)
        row[-1] = 4
    counts = np.array([2, 0, 1, 3, 0])
    repeated = np.repeat(rows, counts, axis=0)
    expected = boxes.average_precision(repeated, np.ones(len(repeated)))
    assert boxes.average_precision(rows, counts) == pytest.approx(expected)


def test_r2_of_records(part) -> None:
    metric = part("metrics").find("r2", {})
    truth = np.arange(10.0)
    ones = np.ones(10)
    assert metric.value(np.stack([truth, truth], 1), ones) == pytest.approx(100)
    assert metric.value(np.stack([truth, np.full(10, truth.mean())], 1), ones) == pytest.approx(0)


def test_a_methods_key_follows_its_script_and_options(part, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = part("methods")
    keys = {name: method.key() for name, method in methods.METHODS.items()}
    assert len(set(keys.values())) == len(keys)
    monkeypatch.setattr(methods, "edgepack_sources", lambda: b"another edgepack")
    changed = [name for name, method in methods.METHODS.items() if method.key() != keys[name]]
    assert changed == ["edgepack", "edgepack-int8", "edgepack-max-drop"]


def test_a_metric_of_the_benchmark_as_edgepacks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "peers"))
    own = importlib.import_module("own_metrics")
    labels = [1.0, 2.0, 4.0]
    outputs = [{"price": np.array([[label]], np.float32)} for label in labels]
    assert own.r2(outputs, labels) == pytest.approx(100)
    assert own.r2([outputs[0], outputs[0], outputs[2]], [1.0, 1.0, 4.0]) == pytest.approx(100)
    assert not own.r2.lower_is_better


@pytest.mark.slow
def test_litert_s_own_benchmark_times_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert.tools.benchmark_litert_model")
    report = tmp_path / "measure.json"
    done = compare(
        "--parts", "litert", "--processes", 1, "--seconds", 0.2, "--json", report, script="measure.py"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["litert"]
    assert len(found["pairs_ms"]) == 5 and all(ours > 0 and theirs > 0 for ours, theirs in found["pairs_ms"])
    # Three percent on a quiet machine (benchmarks/README.md); here the same file, not another one.
    assert abs(found["difference_percent"]) < 50


def test_pruning_is_judged_on_parts_in_turn(convnet_files: Path, tmp_path: Path) -> None:
    """Each of 128 samples is asked by the models fitted to the parts it is not in."""
    (tmp_path / "task").mkdir()
    onnx.save(onnx.load(convnet_files / "model.onnx"), tmp_path / "task" / "model.onnx")
    with np.load(convnet_files / "calib.npz") as seen, np.load(convnet_files / "eval.npz") as held:
        np.savez(tmp_path / "task" / "calib.npz", x=seen["x"], y=np.arange(len(seen["x"])) % 10)
        np.savez(tmp_path / "task" / "eval.npz", x=held["x"], y=held["y"])
    done = compare(
        "--model", f"net={tmp_path / 'task'}", "--shares", "0.8", "--importances", "second-order,l2", "--folds", 2,
        "--no-int8", "--json", tmp_path / "rows.json", script="prune.py",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["edgepack", "edgepack bare", "edgepack l2", "edgepack l2 bare"]
    for row in rows:
        assert row["folds"] == 2 and row["macs"] <= 0.8 and 0 <= row["agreement"] <= 100
        assert row["error"] >= 0 and "changes" not in row


def test_a_sample_changes_by_its_mean_over_the_parts(part, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    pooled = importlib.import_module("pruning_task").pooled
    row = {"model": "net", "method": "edgepack", "share": 0.5, "accuracy": 50.0, "agreement": 90.0, "seconds": 1.0}
    folds = [[{**row, "changes": np.array([-1.0, 0.0])}], [{**row, "changes": np.array([0.0, 1.0])}]]
    (found,) = pooled(folds, [np.array([0, 1]), np.array([0, 2])])
    assert list(found["changes"]) == [-0.5, 0.0, 1.0] and found["folds"] == 2
    assert found["difference"] == pytest.approx(100 * 0.5 / 3)
    assert found["error"] == pytest.approx(100 * np.std([-0.5, 0, 1]) / 3**0.5)
