"""Bundles on other machines: over real SSH, on emulated boards, under old Pythons."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import edgepack
from edgepack import demo, device
from edgepack.building import pipeline
from edgepack.bundles import pins, remote_bundle
from edgepack.device import System
from edgepack.errors import UnfitHost, UsageError
from edgepack.measuring.profiling import profile
from tests.boards import arm_behind_ssh, emulated
from tests.conftest import Run
from tests.ssh_device import loopback

MB = 1024 * 1024


def demo_for(board: str, folder: Path, **options: Any) -> pipeline.Build:
    """The demo's bundle in int8 for a board."""
    return edgepack.build(
        demo.MODEL, folder / "out", device=board, target="onnxruntime", precision="int8", data=demo.CALIBRATION,
        preprocess=demo.PREPROCESS, seconds=0.2, threads=1, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def for_a_pi(tmp_path_factory: pytest.TempPathFactory) -> pipeline.Build:
    return demo_for("rpi4", tmp_path_factory.mktemp("rpi4"), wheels=True)


@pytest.fixture(scope="module")
def for_this_machine(tmp_path_factory: pytest.TempPathFactory) -> pipeline.Build:
    return demo_for("host", tmp_path_factory.mktemp("host"), wheels=True)


# --- a search that measures there -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_takes_its_latencies_from_the_device(tmp_path: Path) -> None:
    with loopback(tmp_path) as board:
        built = edgepack.build(
            demo.MODEL, tmp_path / "out", data=demo.CALIBRATION, eval=demo.EVALUATION, preprocess=demo.PREPROCESS,
            max_drop=5.0, on=board.url, seconds=0.2, threads=1, wheels=True,
        )  # fmt: skip
        assert built.promise is not None and built.promise["kept"]
        assert built.promise["latency_on"] == board.url
        assert all(trial["ms"] > 0 for trial in built.promise["trials"])
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out", "out.tar.gz"]


def test_an_emulated_board_measures_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="means nothing"):
        edgepack.build(demo.MODEL, tmp_path / "out", max_drop=1.0, on="qemu:cortex-a72")
    with pytest.raises(UsageError, match="max-drop"):
        edgepack.build(demo.MODEL, tmp_path / "out", on="ssh://pi@raspberrypi.local")


# --- preflight ------------------------------------------------------------------------------------------------

REQUIRES = {"arch": "aarch64", "python": "3.11", "glibc": "2.36", "int8_dot_product": False, "memory_mb": 80}
FITS = {
    "machine": "aarch64", "python": "3.11.2", "glibc": "2.36", "memory_kb": 1_000_000,
    "memory_available_kb": 800_000, "disk_free_bytes": 900 * MB, "cpu_flags": ["asimd"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, ""),
        ({"machine": "x86_64"}, "it is x86_64, and the bundle is for rpi4 (aarch64)"),
        ({"python": None}, "no python3"),
        ({"python": "3.9.2"}, "Python 3.9.2"),
        ({"python": "3.13.1"}, "wheels are for 3.11"),
        ({"glibc": "2.31"}, "glibc 2.31"),
        ({"memory_available_kb": 50_000}, "49 MB of memory free"),
        ({"disk_free_bytes": 60 * MB}, "disk free"),
        ({"machine": None, "glibc": None, "memory_available_kb": None, "disk_free_bytes": None}, ""),
    ],
)
def test_preflight_names_what_does_not_fit(facts: dict[str, Any], words: str) -> None:
    found = remote_bundle.unfit({"device": "rpi4", "requires": REQUIRES}, {**FITS, **facts}, 40 * MB)
    assert [words in problem and bool(hint) for problem, hint in found] == ([True] if words else [])


def test_preflight_knows_cpus_that_saturate() -> None:
    needed = {"device": "intel-vnni", "requires": {"arch": "x86_64", "int8_dot_product": True, "python": "3.8"}}
    old = {**FITS, "machine": "x86_64", "cpu_flags": ["avx2"]}
    assert "saturation" in remote_bundle.unfit(needed, old, 0)[0][0]
    assert not remote_bundle.unfit(needed, {**old, "cpu_flags": ["avx2", "avx_vnni"]}, 0)


# --- over SSH -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_over_ssh_and_nothing_left(for_this_machine: pipeline.Build, tmp_path: Path) -> None:
    with loopback(tmp_path) as board:
        archive = for_this_machine.archive.read_bytes()
        result = edgepack.bench(for_this_machine.bundle, on=board.url, threads=1, seconds=0.3, processes=2)
        assert for_this_machine.archive.read_bytes() == archive  # what lies beside the bundle stays
        assert result["host"] == board.url and result["emulated"] is False
        assert result["models"]["model"]["count"] > 10 and result["check"]["ok"]
        assert result["models"]["model"]["p50_ms"] > 0
        again = edgepack.check(for_this_machine.bundle, on=board.url)
        assert again["ok"]
        assert (board.home / ".edgepack").is_dir()
        assert remote_bundle.clean(board.url)
        assert not (board.home / ".edgepack").exists()


@pytest.mark.slow
def test_profile_over_ssh_and_from_the_command_line(for_this_machine: pipeline.Build, tmp_path: Path, cli: Run) -> None:
    """The runtime there is the one of the bundle's wheels, and the layers are those of the original here."""
    with loopback(tmp_path) as board:
        trace = tmp_path / "trace.json"
        result = profile(for_this_machine.bundle, on=board.url, threads=1, seconds=0.5, trace=trace)
        assert result["host"] == board.url and result["emulated"] is False and result["check"]["ok"]
        assert result["coverage"] >= 0.95 and result["runs"] > 0 and result["raw_us"] > 0
        assert {"fp32", "int8"} == result["peak_gops"].keys()
        assert any(row["layers"] for row in result["operators"]) and json.loads(trace.read_text())["traceEvents"]
        done = cli("bench", for_this_machine.archive, "--profile", "--on", board.url, "--threads", 1, "--seconds", 0.3)
        assert done.returncode == 0, done.stderr
        assert board.url in done.stdout and "no layers: the original is not here" in done.stdout
        assert not list(board.home.rglob("onnxruntime_profile*")) and not list(board.home.rglob("profile_*.json"))
        assert remote_bundle.clean(board.url) and not (board.home / ".edgepack").exists()


@pytest.mark.slow
def test_a_board_of_another_kind_is_refused_before_anything_is_copied(
    for_a_pi: pipeline.Build, tmp_path: Path, cli: Run
) -> None:
    with loopback(tmp_path) as board:
        done = cli("check", for_a_pi.bundle, "--on", board.url)
        assert done.returncode == 55 and "rpi4 (aarch64)" in done.stderr and "Traceback" not in done.stderr
        assert not list(board.home.rglob("*.tar.gz"))
    with pytest.raises(UnfitHost):
        emulated("haswell").close()
        edgepack.check(for_a_pi.bundle, on="qemu:haswell")


@pytest.mark.slow
def test_detect_over_ssh_prints_a_profile(tmp_path: Path, cli: Run) -> None:
    with loopback(tmp_path) as board:
        done = cli("devices", "detect", "--on", board.url, "--name", "lab")
        assert done.returncode == 0, done.stderr
    (tmp_path / "boards.yaml").write_text(done.stdout)
    found = device.find("lab", tmp_path / "boards.yaml")
    assert found.arch == device.detect().arch and found.features == device.detect().features


@pytest.mark.slow
def test_to_an_arm_board_without_network(for_a_pi: pipeline.Build, tmp_path: Path) -> None:
    """Build → wheels → upload → install → check → bench → fetch, equal to x86 to the bit."""
    (tmp_path / "board").mkdir()
    with arm_behind_ssh(tmp_path / "board") as (board, _):
        began = time.monotonic()
        result = edgepack.bench(for_a_pi.bundle, on=board.url, threads=1, seconds=0.3, processes=2)
        took = time.monotonic() - began
    print(f"upload, install, check, bench and fetch took {took:.1f} s")
    assert result["environment"]["machine"] == "aarch64"
    logits = result["check"]["outputs"]["logits"]
    assert logits.get("expected_sqnr_db", 200.0) == 200.0  # no bit differs
    assert result["models"]["model"]["count"] > 0


# --- on emulated boards ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_core_without_dot_product_answers_to_the_bit(for_a_pi: pipeline.Build, cli: Run) -> None:
    emulated("cortex-a53").close()
    report = edgepack.check(for_a_pi.bundle, on="qemu:cortex-a53")
    assert report["emulated"] is True
    assert report["outputs"]["logits"].get("expected_sqnr_db", 200.0) == 200.0


@pytest.mark.slow
def test_an_old_intel_answers_to_the_bit_with_seven_bits(tmp_path: Path) -> None:
    emulated("haswell").close()
    built = demo_for("intel-avx2@bookworm", tmp_path, wheels=True)
    report = edgepack.check(built.bundle, on="qemu:haswell")
    assert report["outputs"]["logits"].get("expected_sqnr_db", 200.0) == 200.0


@pytest.mark.slow
def test_emulated_times_are_refused_or_marked(for_a_pi: pipeline.Build, cli: Run) -> None:
    emulated("cortex-a72").close()
    flags = ["--on", "qemu:cortex-a72", "--seconds", 0.2, "--processes", 1, "--min-runs", 2]
    done = cli("bench", for_a_pi.bundle, *flags)
    assert done.returncode == 56 and "emulated" in done.stderr and not done.stdout
    kept = cli("bench", for_a_pi.bundle, *flags, "--accept-doubts")
    assert kept.returncode == 0, kept.stderr
    assert "NOT VALID: the board is emulated" in kept.stdout


@pytest.mark.slow
def test_two_bundles_on_a_device(for_this_machine: pipeline.Build, tmp_path: Path) -> None:
    """Both folders are called `out`; each gets a place of its own there."""
    other = demo_for("host", tmp_path / "other", wheels=True)
    with loopback(tmp_path) as board:
        result = edgepack.bench(
            for_this_machine.bundle, against=other.bundle, on=board.url, threads=[1, 2], seconds=0.3, processes=2
        )
        assert [one["settings"]["threads"] for one in result["measurements"]] == [1, 2]
        for one in result["measurements"]:
            assert (
                set(one["models"]) == {"model", "against"} and one["against_check"]["ok"] and one["host"] == board.url
            )


# --- old Pythons, old runtimes --------------------------------------------------------------------------------


def interpreter(python: str) -> str:
    """A Python of that version, or a skip."""
    candidates = [
        shutil.which(f"python{python}"),
        *map(str, Path.home().glob(f".pyenv/versions/{python}.*/bin/python")),
    ]
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                              capture_output=True, text=True)  # fmt: skip
        if done.stdout.strip() == python:
            return candidate
    pytest.skip(f"there is no Python {python} here")


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.8", "3.10", "3.11", "3.13"])
def test_a_bundle_installs_and_answers_under_the_python_it_is_for(python: str, tmp_path: Path) -> None:
    """No pip, no network: the wheels of the bundle, unpacked by its harness, with the very version it pins."""
    command = [interpreter(python), "-S", "-s", "-E"]
    # This machine's CPU and C library under another Python: what such a board would be.
    here = device.detect()
    board = replace(here, board="old", system=replace(here.system, name="old", python=python), systems=("old",))
    (tmp_path / "boards.yaml").write_text(device.profile(board))
    built = demo_for("old", tmp_path, wheels=True, devices_file=tmp_path / "boards.yaml")
    pinned = dict(line.split("==") for line in (built.bundle / "requirements.txt").read_text().split())
    for step in ("install", "check"):
        done = subprocess.run(
            [*command, str(built.bundle / "harness.py"), step, "--json"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["versions"]["onnxruntime"] == pinned["onnxruntime"]
    assert report["outputs"]["logits"].get("expected_sqnr_db", 200.0) > 40


@pytest.mark.parametrize("board", ["orin-nano@jp5.1", "orin-nano@jp6.2", "rpi4", "rpi4@trixie", "jetson-nano"])
def test_a_model_is_written_as_its_board_reads_it(board: str, tmp_path: Path) -> None:
    built = demo_for(board, tmp_path)
    model = onnx.load(built.bundle / "model" / "model.onnx")
    pinned = dict(line.split("==") for line in (built.bundle / "requirements.txt").read_text().split())
    reads = pins.reads("onnxruntime", pinned["onnxruntime"])
    assert reads is not None and model.ir_version <= reads.ir
    assert max(entry.version for entry in model.opset_import if not entry.domain) <= reads.opset


def test_a_newer_ir_is_lowered_for_an_old_runtime(tmp_path: Path) -> None:
    proto = onnx.load(demo.MODEL)
    proto.ir_version = 13
    onnx.save(proto, tmp_path / "new.onnx")
    built = edgepack.build(
        tmp_path / "new.onnx", tmp_path / "out", target="onnxruntime", device="orin-nano@jp5.1", precision="fp32",
        seconds=0.2,
    )  # fmt: skip
    assert onnx.load(built.bundle / "model" / "model.onnx").ir_version == 10
    assert any("IR lowered from 13 to 10" in note for note in built.notes)


def test_wheels_that_do_not_exist_are_named(tmp_path: Path, cli: Run) -> None:
    done = cli("build", demo.MODEL, "-o", tmp_path / "out", "--device", "rpi4@trixie32", "--precision", "fp32")
    assert done.returncode == 32 and "armv7l" in done.stderr and "hint: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_every_tag_up_to_the_glibc_is_asked_for() -> None:
    from edgepack.bundles.wheels import platforms

    tags = platforms("aarch64", "2.36")
    assert tags[0] == "manylinux_2_36_aarch64" and "manylinux_2_17_aarch64" in tags and "manylinux2014_aarch64" in tags
    assert "manylinux_2_37_aarch64" not in tags
    system = System(name="", title="", python="3.11", glibc="2.36")
    assert pins.newest("onnxruntime", "aarch64", system) is not None and sys.version_info >= (3, 11)
