"""`bench --profile` over every target, on networks whose layers are known."""

from __future__ import annotations

import importlib
import io
import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgepack import _root, cost, demo, inputs, target
from edgepack.building import pipeline
from edgepack.building.runtimes import is_installed
from edgepack.bundles import bundle
from edgepack.errors import UsageError, WriteFailed
from edgepack.measuring import profiling
from edgepack.measuring.origin import COMPUTE, LAYOUT, QUANTIZE, origins
from edgepack.measuring.timeline import events
from edgepack.render import profile as render_profile
from tests import models
from tests.conftest import Run
from tests.test_targets import RUN_HERE


@pytest.fixture(scope="module", params=[name for name in RUN_HERE if is_installed(name)])
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


def shown(result: dict[str, Any], width: int) -> str:
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_profile.profile(result))
    return console.export_text()


def test_the_table_shows_the_longest_first(result: dict[str, Any]) -> None:
    text = shown(result, 200)
    longest = max(result["operators"], key=lambda row: row["us"])
    assert text.index(f"{longest['us']:,.1f}") < text.index("Q/DQ") and "of peak" in text
    assert "belongs to layers of the original" in text and "MMACs" in text


def test_the_table_fits_eighty_columns(result: dict[str, Any]) -> None:
    """A row a line, and no figure cut."""
    lines = shown(result, 80).splitlines()
    top = next(place for place, line in enumerate(lines) if "of peak" in line)
    assert "MMACs" not in lines[top]
    rows = lines[top + 2 : lines.index("", top) if "" in lines[top:] else None]
    rows = [line for line in rows if " % " in f"{line} "][: min(30, len(result["operators"]))]
    ordered = sorted(result["operators"], key=lambda row: -row["us"])[:30]
    for line, row in zip(rows, ordered, strict=True):
        assert len(line) <= 80 and line.split()[0] == f"{row['us']:,.1f}" and f" {row['precision']} " in f"{line} "
        assert not row["of_peak"] or line.rstrip().endswith(f"{100 * row['of_peak']:.1f} %")


def test_the_sum_is_laid_open(result: dict[str, Any]) -> None:
    whole, text = result["end_to_end_us"], " ".join(shown(result, 500).split())
    assert 0 < result["call_us"] < whole and result["raw_us"] > 0
    assert result["accounted"] == pytest.approx((result["operators_us"] + result["call_us"]) / whole)
    assert f"({100 * result['raw_us'] / whole:.1f} % of a run)" in text and "the call around them" in text
    assert ("scaled by" in text) == (result["scaled"] is not None)
    if result["scaled"] is not None:
        assert result["operators_us"] == pytest.approx(result["scaled"] * result["measured_us"])


def test_layers_carry_their_outputs_too(folder: Path, result: dict[str, Any]) -> None:
    """By which a report finds the error of each beside its time, whatever nodes are called."""
    outputs = {name for node in onnx.load(demo.MODEL).graph.node for name in node.output}
    found = {layer["output"] for row in result["operators"] for layer in row["layers"]}
    assert found and found <= outputs


@pytest.mark.parametrize("name", [name for name in RUN_HERE if is_installed(name)])
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


def test_products_of_integers_made_as_they_run_are_called_dynamic(tmp_path: Path) -> None:
    onnx.save(models.transformer(width=64), tmp_path / "model.onnx")
    built = pipeline.build(
        tmp_path / "model.onnx", tmp_path / "out", device="host", target="onnxruntime", precision="dynamic",
        seconds=0.1, threads=1,
    )  # fmt: skip
    result = profiling.profile(built.bundle, threads=1, seconds=0.3)
    products = [row for row in result["operators"] if "Integer" in row["kind"] or "DynamicQuantize" in row["kind"]]
    assert products and all(row["precision"] == "dynamic" for row in products)
    assert any(row["macs"] and row["of_peak"] for row in products)
    assert not any(row["precision"] == "dynamic" for row in result["operators"] if row not in products)


def layers_of(name: str) -> ModuleType:
    target.load(name)
    _root.load(f"edgepack.targets.{name}.layers", _root.TARGETS / name / "layers.py")
    return importlib.import_module(f"edgepack.targets.{name}.layers")


def test_what_xnnpack_adds_goes_with_the_product_behind_it() -> None:
    """As in an LSTM: a reshape that the file does not have before each product."""
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Gemm", ["a", "w"], ["y"])]
    file = [
        {"kind": kind, "inputs": reads, "outputs": makes, "precision": "fp32", "bytes": 8}
        for kind, reads, makes in (("RELU", ["x"], ["a"]), ("FULLY_CONNECTED", ["a", "w"], ["y"]))
    ]
    ran = [("Clamp (NC, F32)", 1.0), ("Static Reshape (NC)", 0.5), ("Fully Connected (NC, F32) GEMM", 3.0)]
    raw = {"graph": file, "operators": [{"name": n, "kind": n.split(" (")[0], "node": None, "us": us} for n, us in ran]}
    rows = layers_of("tflite").executed(raw, Path("unused"))
    assert [row.us for row in rows] == [1.0, 0.5, 3.0] and [row.bytes for row in rows] == [8, 0, 8]
    found = origins(rows, nodes)
    assert [origin.nodes for origin in found] == [(0,), (1,), (1,)]
    assert [origin.counted for origin in found] == [(0,), (), (1,)]


def test_a_convolution_over_one_dimension_has_its_multiplications_where_it_runs() -> None:
    """The file reshapes to a row of a picture, convolves, and reshapes back: the middle one is the layer."""
    names = ["y_quantized/picture", "y_quantized/row", "y_quantized"]
    kinds = ["RESHAPE", "CONV_2D", "RESHAPE"]
    file = [
        {"kind": kind, "inputs": [reads], "outputs": [makes], "precision": "int8", "bytes": 8}
        for kind, reads, makes in zip(kinds, ["x_quantized", *names[:2]], names, strict=True)
    ]
    ran = ["Static Reshape (NC)", "Convolution (NHWC, QC8) IGEMM", "Static Reshape (NC)"]
    raw = {"graph": file, "operators": [{"name": n, "kind": n.split(" (")[0], "node": None, "us": 1.0} for n in ran]}
    found = origins(layers_of("tflite").executed(raw, Path("unused")), [helper.make_node("Conv", ["x", "w"], ["y"])])
    assert [origin.nodes for origin in found] == [(0,), (0,), (0,)]
    assert [origin.counted for origin in found] == [(), (0,), ()]


def test_partitions_are_opened_operator_by_operator() -> None:
    layers = layers_of("tflite")
    kinds = ["QUANTIZE", "TRANSPOSE", "PAD", "CONV_2D", "DEQUANTIZE", "HARD_SWISH", "QUANTIZE", "DEPTHWISE_CONV_2D",
             "CONV_2D", "MEAN", "RESHAPE", "FULLY_CONNECTED"]  # fmt: skip
    ran = ["Convert (NC)", "Transpose (ND, X8) Transpose", "Convolution (NHWC, QC8) IGEMM", "Invalid Unary Op",
           "Convolution (NHWC, QC8) DWConv", "Fully Connected (NC, QS8, QC8W) GEMM", "Mean (ND) Reduce",
           "Fully Connected (NC, QS8, QC8W) GEMM"]  # fmt: skip
    parts = layers.aligned([{"name": name} for name in ran], [{"kind": kind} for kind in kinds])
    assert parts == [[0], [1], [2, 3], [4, 5, 6], [7], [8], [9], [10, 11]]
