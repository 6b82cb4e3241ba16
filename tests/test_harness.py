"""The harness as a device runs it: alone, from another folder, with only numpy and the runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepack import demo, target
from edgepack.building.result import Build
from edgepack.building.runtimes import is_installed
from edgepack.bundles import here
from edgepack.metrics.merit import harness
from tests.test_targets import RUN_HERE

Harness = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module", params=RUN_HERE)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    if not is_installed(request.param):
        pytest.skip(f"the {request.param} extra is not installed")
    return demo.run(tmp_path_factory.mktemp("demo") / "bundle", target=request.param, seconds=0.3)


@pytest.fixture
def unpacked(built: Build, tmp_path: Path) -> Path:
    """The archive, unpacked elsewhere: what a device gets."""
    with tarfile.open(built.archive) as tar:
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return tmp_path / built.bundle.name


@pytest.fixture
def device(built: Build, tmp_path: Path) -> Harness:
    """Run a bundle's harness where only numpy, Pillow and the runtime can be imported."""
    library = tmp_path / "library"
    library.mkdir()
    here.link_only(("numpy", "pillow", *target.load(built.target).REQUIREMENTS), library)

    def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(library)}
        command = [sys.executable, "-S", "-s", "-B", str(folder / "harness.py"), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)

    return run


def test_check_passes_from_another_folder(unpacked: Path, device: Harness) -> None:
    done = device(unpacked, "check", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] and report["samples"] == 8
    assert report["outputs"]["logits"]["reference_sqnr_db"] > 25


def test_the_process_sees_nothing_but_the_pins(unpacked: Path, device: Harness) -> None:
    (unpacked / "harness.py").write_text("import typer\n")
    done = device(unpacked, "check")
    assert done.returncode == 1 and "No module named 'typer'" in done.stderr


def test_bench_times_the_bundle_alone_where_the_original_is_not(unpacked: Path, device: Harness) -> None:
    done = device(unpacked, "bench", "--seconds", 0.3, "--processes", 3, "--threads", 1, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["models"]) == {"model"} and "ratio" not in result
    figures = result["models"]["model"]
    runs = [run for process in figures["processes"] for turn in process["rounds_ms"] for run in turn]
    assert figures["count"] == len(runs)
    assert figures["p50_ms"] == pytest.approx(np.percentile(runs, 50))
    assert figures["p90_ms"] <= figures["p95_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert figures["load_ms"] > 0 and figures["peak_memory_mb"] > 10
    assert result["threads"] == 1 and result["check"]["ok"]


def test_bench_in_words(unpacked: Path, device: Harness) -> None:
    done = device(unpacked, "bench", "--seconds", 0.2, "--processes", 2)
    assert done.returncode == 0 and "median" in done.stdout and "this bundle" in done.stdout


def test_run_on_an_image_names_the_class(unpacked: Path, device: Harness, tmp_path: Path) -> None:
    with np.load(demo.EVALUATION) as arrays:
        images, labels = arrays["image"][:8], arrays["y"][:8]
    paths = []
    for index, pixels in enumerate(images):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    done = device(unpacked, "run", *paths, "--json")
    assert done.returncode == 0, done.stderr
    best = [entry["outputs"]["logits"]["top"][0] for entry in json.loads(done.stdout)]
    names = demo.LABELS.read_text().splitlines()
    assert sum(top["class"] == label for top, label in zip(best, labels, strict=True)) >= 7
    assert all(top["label"] == names[top["class"]] for top in best)


def test_run_gives_the_outputs_of_the_golden_inputs(unpacked: Path, device: Harness, tmp_path: Path) -> None:
    with np.load(unpacked / "golden" / "inputs.npz") as inputs, np.load(unpacked / "golden" / "expected.npz") as wanted:
        np.save(tmp_path / "one.npy", inputs["2/image"])
        expected = wanted["2/logits"]
    done = device(unpacked, "run", tmp_path / "one.npy", "--out", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_allclose(outputs["0/logits"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("content", [b"no image", b""])
def test_run_names_a_file_it_cannot_read(unpacked: Path, device: Harness, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    done = device(unpacked, "run", tmp_path / "bad.png")
    assert done.returncode == 22 and "bad.png" in done.stderr and "Traceback" not in done.stderr


def test_wrong_weights_are_found_by_the_golden_outputs(unpacked: Path, device: Harness) -> None:
    """A model that is whole by its checksums but answers otherwise."""
    with np.load(unpacked / "golden" / "expected.npz") as wanted:
        shifted = {name: array + 5.0 for name, array in wanted.items()}
    np.savez(unpacked / "golden" / "expected.npz", **shifted)
    reseal(unpacked)
    done = device(unpacked, "check")
    assert done.returncode == 51 and "logits" in done.stderr
    assert device(unpacked, "bench").returncode == 51


def test_preprocessing_that_differs_is_found(unpacked: Path, device: Harness) -> None:
    text = (unpacked / "preprocess.py").read_text()
    (unpacked / "preprocess.py").write_text(text.replace("- mean) / std", "- mean * 1.2) / std"))
    reseal(unpacked)
    done = device(unpacked, "check")
    assert done.returncode == 51 and "preprocessing" in done.stderr


def test_the_checksums_are_those_of_sha256sum(unpacked: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=unpacked, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_without_its_runtime_the_harness_says_what_to_install(unpacked: Path, tmp_path: Path) -> None:
    library = tmp_path / "bare"
    library.mkdir()
    here.link_only(("numpy", "pillow"), library)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(library)}
    command = [sys.executable, "-S", "-s", "-B", str(unpacked / "harness.py"), "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 52 and "requirements.txt" in done.stderr and "Traceback" not in done.stderr


def test_the_ratio_of_a_model_to_itself_is_one() -> None:
    random = np.random.default_rng(0)
    rounds = [[list(random.lognormal(0, 0.2, 30)) for _ in range(10)] for _ in range(3)]
    same = harness().ratio(rounds, rounds)
    assert same["median"] == same["low"] == same["high"] == 1.0 and same["verdict"] == "same"


def reseal(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    names = [line.split("  ", 1)[1] for line in lines]
    (folder / "SHA256SUMS").write_text("".join(f"{harness().sha256(str(folder / n))}  {n}\n" for n in names))
