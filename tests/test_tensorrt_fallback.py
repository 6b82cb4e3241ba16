"""Where TensorRT is missing: refused by name, or answered by ONNX Runtime where that was allowed, and marked."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import edgepack
from edgepack import _root
from edgepack.bundles import bundle, remote_bundle
from edgepack.errors import RunFailed, UsageError
from tests import models
from tests.boards import emulated
from tests.conftest import Run
from tests.jetson import Jetson, tensorrt_json
from tests.ssh_device import loopback
from tests.test_tensorrt_board import picture_bundle
from tests.test_tflite_bundle import interpreter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_bundle(tmp_path_factory.mktemp("fallback"), "10.3.0")


def test_without_tensorrt_it_is_an_error(folder: Path, tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").fallback()
    np.save(tmp_path / "one.npy", models.images(1))
    for command in (["prepare"], ["check"], ["bench"], ["run", tmp_path / "one.npy"]):
        done = board.run(folder, *command)
        assert done.returncode == 52 and "TensorRT is not on this machine" in done.stderr
        assert "sudo apt-get install" in done.stderr and "--allow-fallback onnxruntime" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_allowed_fallback_says_that_it_was_not_tensorrt(folder: Path, tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").fallback()
    np.save(tmp_path / "one.npy", models.images(1))
    flag = ("--allow-fallback", "onnxruntime")
    assert board.answer(folder, "prepare", *flag)["prepared"]["model"]["engine"] is None
    checked = board.answer(folder, "check", *flag)
    assert checked["ok"] and list(checked["versions"]) == ["onnxruntime"]
    assert checked["remarks"][0]["name"] == "fallback" and "ONNX Runtime on the CPU" in checked["remarks"][0]["words"]
    ran = board.answer(folder, "run", tmp_path / "one.npy", *flag)
    assert ran[0]["remarks"][0]["name"] == "fallback"  # type: ignore[index]
    for command in (["check"], ["run", tmp_path / "one.npy"]):
        assert "! TensorRT is not on this machine" in board.run(folder, *command, *flag).stdout


def test_a_measurement_by_the_fallback_is_kept_and_marked(folder: Path, tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").fallback()
    few = ("--seconds", 0.2, "--processes", 2, "--min-runs", 2, "--allow-fallback", "onnxruntime")
    result = board.answer(folder, "bench", *few)
    assert result["valid"] is False and result["settings"]["allow_fallback"] == "onnxruntime"
    assert [doubt["name"] for doubt in result["doubts"] if doubt["severity"] == "invalid"] == ["fallback"]
    assert list(result["models"]["model"]["versions"]) == ["onnxruntime"]


def test_tensorrt_is_taken_where_it_is_even_if_a_fallback_is_allowed(folder: Path, tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").fallback().trtexec()
    board.environment["EDGEPACK_ENGINES"] = str(tmp_path / "engines")
    done = board.run(folder, "check", "--allow-fallback", "onnxruntime")
    assert done.returncode == 52 and "no engine has been built" in done.stderr
    board.answer(folder, "prepare", "--allow-fallback", "onnxruntime")
    checked = board.answer(folder, "check", "--allow-fallback", "onnxruntime")
    assert list(checked["versions"]) == ["tensorrt"]


def test_a_fallback_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board")
    done = board.run(folder, "check", "--allow-fallback", "onnxruntime")
    assert done.returncode == 52 and "onnxruntime is not installed" in done.stderr
    done = board.fallback().run(folder, "check", "--allow-fallback", "onnxruntime-cuda")
    assert done.returncode == 52 and "CUDAExecutionProvider" in done.stderr
    done = board.run(folder, "check", "--allow-fallback", "tflite")
    assert done.returncode == 2 and "no fallback tflite" in done.stderr


def test_a_broken_python_api_is_told(folder: Path, tmp_path: Path) -> None:
    """As after an update that left libnvinfer of another version."""
    board = Jetson(tmp_path / "board")
    (board.library / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open', name='tensorrt.x')")
    done = board.run(folder, "check")
    assert done.returncode == 52 and "libnvinfer.so.10" in done.stderr


def test_the_command_line_passes_it_on(folder: Path, cli: Run) -> None:
    done = cli("check", folder)
    assert done.returncode == 52 and "TensorRT is not on this machine" in done.stderr
    done = cli("check", folder, "--allow-fallback", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok:") and "! TensorRT is not on this machine" in done.stdout
    few = ("--seconds", 0.2, "--processes", 2, "--min-runs", 2, "--threads", 1)
    done = cli("bench", folder, "--allow-fallback", "onnxruntime", *few)
    assert done.returncode == 0, done.stderr
    assert "NOT VALID: this bundle: TensorRT is not on this machine" in done.stdout
    done = cli("check", folder, "--allow-fallback", "onnxrt")
    assert done.returncode == 2 and "onnxruntime" in done.stderr
    assert "--allow-fallback" in cli("check", "--help", env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"}).stdout


def test_from_python(folder: Path) -> None:
    with pytest.raises(RunFailed, match="TensorRT is not on this machine"):
        edgepack.check(folder)
    assert edgepack.check(folder, allow_fallback="onnxruntime")["remarks"][0]["name"] == "fallback"
    result = edgepack.bench(folder, allow_fallback="onnxruntime", seconds=0.2, processes=2, min_runs=2, threads=1)
    assert result["valid"] is False


def test_other_targets_have_no_fallback(tmp_path: Path, cli: Run) -> None:
    from edgepack import demo

    built = demo.run(tmp_path / "out", seconds=0.2)
    with pytest.raises(UsageError, match="onnxruntime has no fallback"):
        edgepack.check(built.bundle, allow_fallback="onnxruntime")
    done = Jetson(tmp_path / "board").run(built.bundle, "check", "--build-machine", "--allow-fallback", "onnxruntime")
    assert done.returncode == 2 and "has no fallback" in done.stderr


def test_engines_stay_out_of_the_archive_and_the_checksums(folder: Path, tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").trtexec()
    board.answer(folder, "prepare")
    with tarfile.open(bundle.pack(folder, tmp_path / "out.tar.gz")) as tar:
        names = [name.split("/", 1)[1] for name in tar.getnames()]
    assert not [name for name in names if name.startswith("engines")]
    assert {"jetpack/5.1.txt", "jetpack/6.0.txt", "jetpack/6.2.txt", "jetpack/7.x.txt", "jetpack/Dockerfile"} < set(
        names
    )
    assert "edgepack_tensorrt/prepare.py" in names and "model/tensorrt.json" in names


# --- elsewhere ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_on_an_emulated_arm_board(tmp_path: Path) -> None:
    """A bundle for a Jetson on a board without TensorRT, with ONNX Runtime among its wheels."""
    emulated("cortex-a76").close()
    folder = with_wheels(tmp_path, "aarch64", "3.11", ("numpy==2.2.6", "onnxruntime==1.23.2"))
    with pytest.raises(RunFailed, match="TensorRT is not on this machine"):
        edgepack.check(folder, on="qemu:cortex-a76")
    report = edgepack.check(folder, on="qemu:cortex-a76", allow_fallback="onnxruntime")
    assert report["ok"] and report["emulated"] and report["versions"] == {"onnxruntime": "1.23.2"}
    assert report["remarks"][0]["name"] == "fallback" and report["outputs"]["y"]["expected_sqnr_db"] > 100


@pytest.mark.slow
def test_engines_outlive_the_uploads_of_a_device(tmp_path: Path) -> None:
    """`check --on` prepares there by itself, and does not build again what was built."""
    jetson = Jetson(tmp_path / "board").trtexec()
    folder = picture_bundle(tmp_path, "10.3.0")
    manifest = bundle.read_manifest(folder)
    manifest["requires"] = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    bundle.seal(folder, manifest)
    (tmp_path / "ssh").mkdir()
    forced = tmp_path / "ssh" / "forced.sh"
    seen = " ".join(f"{name}={jetson.environ()[name]}" for name in ("PYTHONPATH", "EDGEPACK_ROOT"))
    path = f"PATH={Path(sys.executable).parent}:/usr/bin:/bin"
    forced.write_text(f'#!/bin/sh\nexec env {seen} {path} /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    forced.chmod(0o755)
    with loopback(tmp_path / "ssh", f"ForceCommand {forced}\n") as device:
        assert edgepack.check(folder, on=device.url)["versions"] == {"tensorrt": "10.3.0"}
        kept = list((device.home / ".edgepack" / "engines").glob("*.engine"))
        written = kept[0].stat().st_mtime_ns
        assert len(kept) == 1 and edgepack.check(folder, on=device.url)["ok"]
        assert kept[0].stat().st_mtime_ns == written
        assert remote_bundle.clean(device.url) and not kept[0].exists()


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.8", "3.10", "3.12"])
def test_under_the_pythons_of_jetpack(python: str, tmp_path: Path) -> None:
    """prepare, check, bench and run with trtexec under the very Python, with the wheels of the bundle and no others."""
    version = {"3.8": "8.5.2", "3.10": "10.3.0", "3.12": "11.4.1"}[python]
    numpy = {"3.8": "1.24.4", "3.10": "1.26.4", "3.12": "2.2.6"}[python]
    board = Jetson(tmp_path / "board", version).trtexec()
    folder = with_wheels(tmp_path, "x86_64", python, (f"numpy=={numpy}",), version)
    np.save(tmp_path / "one.npy", models.images(1))
    environment = {key: value for key, value in board.environ().items() if key != "PYTHONPATH"}
    few = ["--seconds", "0.2", "--processes", "1", "--min-runs", "1"]
    for command in (["install"], ["prepare"], ["check"], ["bench", *few], ["run", str(tmp_path / "one.npy")]):
        done = subprocess.run(
            [interpreter(python), "-S", "-s", "-B", str(folder / "harness.py"), *command, "--json"],
            env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if command == ["check"]:
            assert json.loads(done.stdout)["versions"] == {"tensorrt": version}


def with_wheels(folder: Path, arch: str, python: str, requirements: tuple[str, ...], version: str = "10.3.0") -> Path:
    """The bundle of pictures with these wheels; skips where the package index is out of reach."""
    made = picture_bundle(folder, version)
    nodot = python.replace(".", "")
    tags = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest",
         str(made / "wheels"), "--python-version", python, "--implementation", "cp", "--abi", f"cp{nodot}",
         *(part for tag in tags for part in ("--platform", f"{tag}_{arch}")), *requirements],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip(f"no wheels here: {done.stderr.strip().splitlines()[-1]}")
    manifest = bundle.read_manifest(made)
    manifest["requires"] = {"arch": arch, "python": python, "glibc": "2.28"}
    bundle.seal(made, manifest)
    return made


def test_the_settings_are_those_that_the_docs_show() -> None:
    """docs/tensorrt-board.md and what the bundle's reader takes are one."""
    text = (_root.ROOT / "docs" / "tensorrt-board.md").read_text(encoding="utf-8")
    block = text.split("```json")[1].split("```")[0]
    assert json.loads(block).keys() == tensorrt_json("10.3.0").keys()
