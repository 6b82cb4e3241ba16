"""The wheel, built and installed: everything a user needs is in it, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check",
         "-w", str(folder), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/", 1)[0] for name in names if ".dist-info" not in name} == {"edgepack"}
    for needed in (
        "devices.yaml",
        "targets/wheels.yaml",
        "targets/device/harness.py",
        "targets/device/preprocess.py",
        "targets/device/edgepack_device/timing.py",
        "targets/onnxruntime/runner.py",
        "targets/onnxruntime/profiler.py",
        "targets/openvino/__init__.py",
        "targets/tensorrt/bundle/edgepack_tensorrt/prepare.py",
        "targets/tensorrt/bundle/jetpack/Dockerfile",
        "demo/fashion_resnet.onnx",
        "demo/eval.npz",
        "page/page.html",
        "page/page.css",
        "page/page.js",
        "demo/LICENSE-fashion-mnist.txt",
    ):
        assert f"edgepack/{needed}" in names
    assert not [name for name in names if name.endswith(".pyc") or "__pycache__" in name]


@pytest.mark.slow
def test_the_installed_wheel_runs_the_demo_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    library = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check",
         "--target", str(library), str(wheel)],
        check=True, capture_output=True,
    )  # fmt: skip
    code = (
        "import sys, edgepack; from edgepack import _root; from edgepack.cli import main;"
        f"assert edgepack.__file__.startswith({str(library)!r}), edgepack.__file__;"
        "sys.argv = ['edgepack', 'demo', '-o', 'out']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(library), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "top1" in done.stdout and (tmp_path / "out" / "manifest.json").is_file()
