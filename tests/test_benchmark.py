"""`bench` and `check` from the build machine's side."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import edgepack
from edgepack import demo
from edgepack.building.runtimes import is_installed
from edgepack.bundles import here
from edgepack.errors import DoubtfulMeasurement, UsageError, WriteFailed, WrongOutput
from edgepack.measuring import benchmark, measurement
from edgepack.metrics.merit import harness
from tests import models
from tests.conftest import Run
from tests.test_harness import reseal

SHORT: dict[str, Any] = {"threads": 1, "seconds": 0.2, "processes": 2, "min_runs": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.run(tmp_path_factory.mktemp("bench") / "out", seconds=0.2).bundle


def runs(figures: dict[str, Any]) -> list[float]:
    return [run for process in figures["processes"] for turn in process["rounds_ms"] for run in turn]


def test_bundle_and_original_take_turns(folder: Path) -> None:
    result = edgepack.bench(folder, threads=1, seconds=0.6, processes=3)
    model, baseline = result["models"]["model"], result["models"]["baseline"]
    assert [len(p["rounds_ms"]) for p in model["processes"]] == [len(p["rounds_ms"]) for p in baseline["processes"]]
    assert result["ratio"]["processes"] == len(model["processes"]) == 3 and result["ratio"]["to"] == "baseline"
    pairs = [
        statistics.median(
            np.log(np.median(b) / np.median(m)) for b, m in zip(before["rounds_ms"], after["rounds_ms"], strict=True)
        )
        for before, after in zip(baseline["processes"], model["processes"], strict=True)
    ]
    assert result["ratio"]["median"] == pytest.approx(np.exp(np.mean(pairs)))
    assert result["ratio"]["low"] <= result["ratio"]["median"] <= result["ratio"]["high"]
    assert result["check"]["ok"]


def test_figures_are_those_of_the_raw_times(folder: Path) -> None:
    figures = edgepack.bench(folder, **SHORT)["models"]["model"]
    times = runs(figures)
    assert figures["count"] == len(times)
    assert figures["p95_ms"] == pytest.approx(np.percentile(times, 95))
    assert figures["deviation_ms"] == pytest.approx(np.std(times))
    assert figures["median_low_ms"] <= figures["median_ms"] <= figures["median_high_ms"]
    took = sum(second for process in figures["processes"] for second in process["rounds_s"])
    assert figures["throughput_per_s"] == pytest.approx(len(times) / took) and took >= sum(times) / 1000
    assert figures["versions"].keys() == {"onnxruntime"}


def test_time_and_runs_are_at_least_what_was_asked(folder: Path) -> None:
    result = edgepack.bench(folder, threads=1, seconds=0.4, processes=2, min_runs=6000)
    for figures in result["models"].values():
        assert figures["count"] >= 6000
    long = edgepack.bench(folder, **{**SHORT, "seconds": 0.5})["models"]["baseline"]
    assert sum(second for process in long["processes"] for second in process["rounds_s"]) >= 0.49


def test_environment_is_looked_at_before_during_and_after(folder: Path) -> None:
    environment = edgepack.bench(folder, **SHORT)["environment"]
    assert environment["before"]["t"] < environment["after"]["t"] and environment["during"]
    assert environment["affinity"] and environment["kernel"] and environment["emulated"] is False


def test_the_archive_is_timed_alone(folder: Path) -> None:
    result = edgepack.bench(folder.with_name("out.tar.gz"), **SHORT)
    assert set(result["models"]) == {"model"} and "ratio" not in result
    assert edgepack.check(folder.with_name("out.tar.gz"))["ok"]


@pytest.mark.skipif(not is_installed("openvino"), reason="the openvino extra is not installed")
def test_another_bundle_of_another_target(folder: Path, tmp_path: Path) -> None:
    other = demo.run(tmp_path / "other", target="openvino", seconds=0.1).bundle
    result = edgepack.bench(folder, against=other, **SHORT)
    assert set(result["models"]) == {"model", "against"} and result["ratio"]["to"] == "against"
    assert result["models"]["against"]["versions"].keys() == {"openvino"}
    assert result["models"]["against"]["bundle"]["target"] == "openvino"
    assert result["against_check"]["ok"] and result["check"]["ok"]


def test_a_sweep_is_a_measurement_for_each_setting(folder: Path, tmp_path: Path, cli: Run) -> None:
    flags = ["--threads", "1,2", "--batch", "1,3", "--seconds", 0.1, "--processes", 2, "--min-runs", 2]
    done = cli("bench", folder, *flags, "--output", tmp_path / "sweep.json")
    assert done.returncode == 0, done.stderr
    assert "batch" in done.stdout and "times as fast" in done.stdout
    result = measurement.read(tmp_path / "sweep.json")
    settings = [(one["settings"]["threads"], one["settings"]["batch"]) for one in measurement.each(result)]
    assert settings == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert not list(tmp_path.glob(".*"))


def test_callers_at_the_same_time(folder: Path) -> None:
    result = edgepack.bench(folder, concurrency=2, **SHORT)
    model = result["models"]["model"]
    took = sum(second for process in model["processes"] for second in process["rounds_s"])
    # Runs overlap: together they took longer than the clock on the wall.
    assert sum(runs(model)) / 1000 > 1.2 * took


def test_other_shapes_and_batches(tmp_path: Path) -> None:
    proto = models.model(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        {"x": ["N", 3, "H", "W"]}, {"y": ["N", 4, "H", "W"]}, {"w": models.random((4, 3, 3, 3))},
    )  # fmt: skip
    onnx.save(proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", x=models.random((4, 3, 16, 16)))
    built = edgepack.build(
        tmp_path / "m.onnx", tmp_path / "out", precision="fp32", data=tmp_path / "c.npz", seconds=0.1
    )
    small, large = (
        edgepack.bench(built.bundle, batch=2, input_shape={"x": shape}, **SHORT)
        for shape in ((2, 3, 8, 8), (2, 3, 128, 128))
    )
    assert large["models"]["model"]["median_ms"] > 3 * small["models"]["model"]["median_ms"]
    assert large["settings"]["input_shapes"] == {"x": [2, 3, 128, 128]}
    for shape, words in (({"z": (1,)}, "no input z"), ({"x": (1, 3)}, "4 dimensions"), ({"x": (1, 5, 8, 8)}, "x")):
        with pytest.raises(UsageError, match=words):
            edgepack.bench(built.bundle, input_shape=shape, **SHORT)


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": 0.0}, {"threads": 0}, {"batch": [1, 0]}, {"processes": 0}, {"concurrency": 0}, {"min_runs": 0},
     {"equivalence": -0.1}],
)  # fmt: skip
def test_senseless_settings_are_refused(folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        edgepack.bench(folder, **wrong)


@pytest.mark.parametrize("flags", [("--threads", "many"), ("--batch", "1;2"), ("--equivalence", "much")])
def test_settings_that_cannot_be_read_are_refused(folder: Path, cli: Run, flags: tuple[str, str]) -> None:
    done = cli("bench", folder, *flags)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "hint: " in done.stderr


def test_a_place_for_the_result_that_is_not_there_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WriteFailed):
        edgepack.bench(folder, output=tmp_path / "no" / "result.json", seconds=60)


def test_the_command_prints_a_table_or_json(folder: Path, cli: Run) -> None:
    flags = ["--seconds", 0.2, "--threads", 1, "--processes", 2]
    table = cli("bench", folder, *flags)
    words = " ".join(table.stdout.split())
    assert table.returncode == 0 and "float original" in words and "95 % interval" in words and "times as fast" in words
    data = cli("bench", folder, *flags, "--json")
    assert json.loads(data.stdout)["kind"] == "measurement"


# --- what makes a measurement invalid ---------------------------------------------------------------------------


def test_wrong_answers_are_not_timed_unless_asked_for(folder: Path, tmp_path: Path) -> None:
    import shutil

    wrong = Path(shutil.copytree(folder, tmp_path / "wrong"))
    with np.load(wrong / "golden" / "expected.npz") as wanted:
        shifted = {name: array + 5.0 for name, array in wanted.items()}
    np.savez(wrong / "golden" / "expected.npz", **shifted)
    reseal(wrong)
    with pytest.raises(WrongOutput):
        edgepack.bench(wrong, **SHORT)
    with pytest.raises(WrongOutput, match="wrong"):
        edgepack.bench(folder, against=wrong, **SHORT)
    kept = edgepack.bench(wrong, accept_doubts=True, **SHORT)
    assert not kept["valid"] and kept["doubts"][0]["name"] == "wrong_output" and kept["models"]["model"]["count"] > 0


def test_a_measurement_that_is_not_valid_leaves_no_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment comes from a board whose firmware says that it is throttled."""
    from tests.fake_board import FakeBoard

    board = FakeBoard(tmp_path / "root")
    board.throttled(0x4)
    real = here.harness

    def there(bundle: Path, *arguments: str, only: tuple[str, ...] | None = None) -> dict[str, Any]:
        return real(bundle, *arguments, "--root", str(board.root), only=only)

    monkeypatch.setattr(benchmark.here, "harness", there)
    with pytest.raises(DoubtfulMeasurement, match="0x4") as caught:
        edgepack.bench(folder, output=tmp_path / "result.json", **SHORT)
    assert "--accept-doubts" in caught.value.hint and not (tmp_path / "result.json").exists()
    edgepack.bench(folder, output=tmp_path / "result.json", accept_doubts=True, **SHORT)
    assert measurement.read(tmp_path / "result.json")["valid"] is False


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "bundle"}', '{"kind": "measurement", "format": 99}'])
def test_files_that_are_no_measurement_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UsageError):
        measurement.read(tmp_path / "m.json")
    with pytest.raises(UsageError):
        measurement.read(tmp_path / "missing.json")


def test_a_bundle_with_an_older_harness_is_timed_by_this_one(folder: Path, tmp_path: Path) -> None:
    import shutil

    old = Path(shutil.copytree(folder, tmp_path / "old"))
    for module in ("bench", "timing", "worker"):
        (old / "edgepack_device" / f"{module}.py").write_text("# of another time\n")
    reseal(old)
    assert edgepack.bench(old, **SHORT)["models"]["model"]["count"] > 0
    assert harness().FORMAT == 1
