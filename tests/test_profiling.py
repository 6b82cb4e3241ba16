"""`bench --profile` over every target, on networks whose layers are known."""

from __future__ import annotations

import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgepack import _root, cost, demo, inputs, target
from edgepack.building import pipeline
from edgepack.bundles import bundle
from edgepack.errors import UsageError, WriteFailed
from edgepack.measuring import profiling
from edgepack.measuring.origin import COMPUTE, LAYOUT, QUANTIZE
from edgepack.measuring.timeline import events
from edgepack.render import profile as render_profile
from tests import models
from tests.conftest import Run
from tests.test_targets import usable


@pytest.fixture(scope="module", params=[name for name in target.names() if usable(name)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network in int8."""
    place = tmp_path_factory.mktemp(request.param) / "out"
    return demo.run(place, target=request.param, seconds=0.1).bundle


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    return profiling.profile(folder, threads=1, seconds=2)


def test_every_operator_has_a_time_and_its_layers(result: dict[str, Any]) -> None:
    rows = result["operators"]
    assert result["kind"] == "profile" and result["format"] == 1 and result["runs"] > 0 and result["check"]["ok"]
    assert result["operators_us"] == pytest.approx(sum(row["us"] for row in rows))
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert result["coverage"] >= 0.95
    # The machine may be busy; benchmarks/profile.py has the figure on a quiet one.
    assert 0.5 < result["sum_ratio"] < 1.6
    assert result["by_role_us"].keys() == {COMPUTE, QUANTIZE, LAYOUT}


def test_all_multiplications_of_the_original_are_counted_once(folder: Path, result: dict[str, Any]) -> None:
    assert result["macs"] == cost.cost_of(inputs.load(demo.MODEL)).macs
    for row in result["operators"]:
        if row["macs"]:
            assert {"Conv", "Gemm", "MatMul"} & {layer["operator"] for layer in row["layers"]}
            assert row["gops"] == pytest.approx(2e-3 * row["macs"] / row["us"])
            assert row["precision"] in ("int8", "uint8") and row["bytes"] > 0


def test_a_peak_is_measured_in_both_precisions(result: dict[str, Any]) -> None:
    assert result["peak_gops"].keys() == {"fp32", "int8"}
    assert all(gops > 1 for gops in result["peak_gops"].values())
    shares = [row["of_peak"] for row in result["operators"] if row["of_peak"]]
    assert shares and max(shares) < 2


def test_what_enters_as_floats_is_quantized_in_a_row_of_its_own(folder: Path, result: dict[str, Any]) -> None:
    roles = {row["role"] for row in result["operators"]}
    assert COMPUTE in roles and (QUANTIZE in roles or LAYOUT in roles)


def test_the_timeline_is_one_run_in_order(result: dict[str, Any]) -> None:
    found = events(result)
    assert found["displayTimeUnit"] == "ms"
    spans = [event for event in found["traceEvents"] if event["ph"] == "X"]
    assert len(spans) == len(result["operators"])
    for before, after in itertools.pairwise(spans):
        assert after["ts"] == pytest.approx(before["ts"] + before["dur"])
    for event in found["traceEvents"]:
        assert {"ph", "name", "pid", "tid"} <= event.keys() and event["ph"] in "XM"
    assert spans[-1]["ts"] + spans[-1]["dur"] == pytest.approx(result["operators_us"])


def test_the_table_shows_the_longest_first(result: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=200, record=True)
    console.print(render_profile.profile(result))
    text = console.export_text()
    longest = max(result["operators"], key=lambda row: row["us"])
    assert text.index(f"{longest['us']:.1f} µs") < text.index("Q/DQ") and "of peak" in text
    assert "belongs to layers of the original" in text


@pytest.mark.parametrize("name", [name for name in target.names() if usable(name)])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_blocks_with_gates_and_residuals(name: str, precision: str, tmp_path: Path) -> None:
    """HardSwish, squeeze-excite and a residual: what runtimes fuse and our passes rewrite."""
    proto = models.mobile_block(size=32)
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=models.random((32, 3, 32, 32), 5, 1.0))
    built = pipeline.build(
        tmp_path / "model.onnx", tmp_path / "out", device="host", target=name, precision=precision,
        data=tmp_path / "calib.npz", seconds=0.1, threads=1,
    )  # fmt: skip
    result = profiling.profile(built.bundle, threads=1, seconds=0.5)
    assert result["coverage"] >= 0.95
    # All 8 layers with weights; the runtimes multiply for the pooled ones too.
    weighted = {layer["name"] for row in result["operators"] for layer in row["layers"]}
    assert {"stem", "expand", "depthwise", "reduce", "excite", "project", "last", "head"} <= weighted
    assert result["macs"] == cost.cost_of(inputs.load(tmp_path / "model.onnx")).macs


def test_an_archive_has_no_original_and_says_so(folder: Path) -> None:
    result = profiling.profile(folder.with_name("out.tar.gz"), threads=1, seconds=0.2)
    assert result["coverage"] is None and all(row["layers"] == [] for row in result["operators"])


def test_results_are_written_and_nothing_else(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    profiling.profile(folder, threads=1, seconds=0.2, output="result.json", trace="trace.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "trace.json"]
    assert json.loads((tmp_path / "result.json").read_text())["kind"] == "profile"
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    bundle.verify(folder)


def test_what_makes_no_sense_is_refused(folder: Path, tmp_path: Path) -> None:
    for wrong in ({"seconds": 0}, {"threads": 0}):
        with pytest.raises(UsageError):
            profiling.profile(folder, **wrong)
    with pytest.raises(WriteFailed):
        profiling.profile(folder, trace=tmp_path / "missing" / "trace.json")


def test_command_line(cli: Run, folder: Path, tmp_path: Path) -> None:
    done = cli("bench", folder, "--profile", "--seconds", "0.3", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "profile"
    for wrong in (["--profile", "--batch", "8"], ["--profile", "--threads", "1,2"], ["--trace", tmp_path / "t.json"]):
        done = cli("bench", folder, *wrong)
        assert done.returncode == 2 and done.stdout == "" and "hint:" in done.stderr.lower()


def test_partitions_are_opened_operator_by_operator() -> None:
    target.load("tflite")
    _root.load("edgepack.targets.tflite.layers", _root.TARGETS / "tflite" / "layers.py")
    layers = importlib.import_module("edgepack.targets.tflite.layers")
    kinds = ["QUANTIZE", "TRANSPOSE", "PAD", "CONV_2D", "DEQUANTIZE", "HARD_SWISH", "QUANTIZE", "DEPTHWISE_CONV_2D",
             "CONV_2D", "MEAN", "RESHAPE", "FULLY_CONNECTED"]  # fmt: skip
    ran = ["Convert (NC)", "Transpose (ND, X8) Transpose", "Convolution (NHWC, QC8) IGEMM", "Invalid Unary Op",
           "Convolution (NHWC, QC8) DWConv", "Fully Connected (NC, QS8, QC8W) GEMM", "Mean (ND) Reduce",
           "Fully Connected (NC, QS8, QC8W) GEMM"]  # fmt: skip
    parts = layers.aligned([{"name": name} for name in ran], [{"kind": kind} for kind in kinds])
    assert parts == [[0], [1], [2, 3], [4, 5, 6], [7], [8], [9], [10, 11]]
