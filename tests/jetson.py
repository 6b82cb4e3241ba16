"""A Jetson without its GPU: files below a folder, stand-ins for TensorRT (tests/fake_tensorrt), and bundles for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml

from edgepack.bundles import bundle, here
from edgepack.metrics.merit import harness
from tests.fake_tensorrt import plan

FAKES = Path(__file__).parent / "fake_tensorrt"
# Versions that are stood in for, and whose published names each has.
NAMES = {"8.5.2": "8.5.2", "10.3.0": "10.3.0", "11.4.1": "11.1.0"}
# What `tensorrt.__version__` says on JetPack where that has a fourth number.
FOUR = {"8.5.2": "8.5.2.2"}
L4T = {"8.5.2": "35.4.1", "10.3.0": "36.4.3", "11.4.1": "39.1.0"}
JETPACK = {"8.5.2": "5.1", "10.3.0": "6.2", "11.4.1": "7.2"}


def declared(version: str) -> dict[str, list[str]]:
    table = yaml.safe_load((Path(__file__).parent / "tensorrt_names.yaml").read_text(encoding="utf-8"))
    return {kind: words.split() for kind, words in table[NAMES[version]].items()}


class Jetson:
    """A board whose harness sees numpy, and what is put on it."""

    def __init__(self, folder: Path, version: str = "10.3.0") -> None:
        self.folder, self.version = folder, version
        self.root, self.library, self.bin = (folder / name for name in ("root", "library", "bin"))
        for place in (self.root, self.library, self.bin):
            place.mkdir(parents=True)
        self.environment: dict[str, str] = {}
        here.link_only(("numpy",), self.library)
        self.l4t(L4T[version])
        self.memory(6000, 0)

    def l4t(self, release: str) -> None:
        major, _, revision = release.partition(".")
        self.write(
            "etc/nv_tegra_release",
            f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64, DATE: Thu Jan  1\n",
        )

    def memory(self, free_mb: int, swap_mb: int) -> None:
        self.write(
            "proc/meminfo", f"MemTotal: 8000000 kB\nMemAvailable: {free_mb * 1024} kB\nSwapFree: {swap_mb * 1024} kB\n"
        )

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def trtexec(self, fault: str = "none", version: str | None = None) -> Jetson:
        """Put a trtexec where JetPack keeps it."""
        version = version or self.version
        flags = self.folder / f"flags-{version}"
        flags.write_text("\n".join(declared(version)["trtexec"]))
        script = f'#!/bin/sh\nexec {sys.executable} -E {FAKES / "trtexec.py"} {version} {fault} {flags} "$@"\n'
        self.write("usr/src/tensorrt/bin/trtexec", script).chmod(0o755)
        return self

    def python_api(self, fault: str = "", version: str | None = None) -> Jetson:
        """Put TensorRT's Python API there, and a CUDA without a GPU."""
        names = {kind: words for kind, words in declared(version or self.version).items() if kind != "trtexec"}
        called = version or self.version
        constants = {
            "__version__": FOUR.get(called, called), "NAMES": names, "BEHIND": sysconfig.get_paths()["purelib"],
            "FOLDER": str(FAKES), "CACHE": plan.CACHE,
        }  # fmt: skip
        head = "".join(f"{name} = {value!r}\n" for name, value in constants.items())
        package = self.library / "tensorrt"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(head + (FAKES / "module.py").read_text())
        self.environment["FAKE_TENSORRT_FAULT"] = fault
        return self.cuda()

    def cuda(self) -> Jetson:
        """libcudart and libcuda, compiled from a stub."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler here")
        libraries = self.folder / "libraries"
        libraries.mkdir(exist_ok=True)
        for name in ("libcudart.so", "libcuda.so.1"):
            command = [compiler, "-shared", "-fPIC", "-w", "-o", str(libraries / name), str(FAKES / "cuda_stub.c")]
            subprocess.run(command, check=True)
        self.environment["LD_LIBRARY_PATH"] = str(libraries)
        return self

    def fallback(self) -> Jetson:
        """ONNX Runtime, for --allow-fallback."""
        here.link_only(("onnxruntime",), self.library)
        return self

    def environ(self) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.folder), "PYTHONPATH": str(self.library),
            "EDGEPACK_ROOT": str(self.root), **self.environment,
        }  # fmt: skip

    def command(self, folder: Path, *arguments: object) -> list[str]:
        return [sys.executable, "-S", "-s", "-B", str(folder / "harness.py"), *map(str, arguments)]

    def run(self, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(folder, *arguments), env=self.environ(), capture_output=True, text=True, timeout=120
        )

    def answer(self, folder: Path, *arguments: object) -> dict[str, Any]:
        """What the harness prints as JSON, of a command that goes well."""
        done = self.run(folder, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result


def tensorrt_json(version: str, **changes: Any) -> dict[str, Any]:
    """What lies beside the model of a bundle for a version of TensorRT."""
    return {
        "format": 1,
        "precision": "fp32",
        "sparse": False,
        "built_for": {
            "jetpack": JETPACK[version], "l4t": L4T[version].rpartition(".")[0],
            "tensorrt": version.rpartition(".")[0], "cuda": "12.6", "compute": "8.7",
        },
        "profile": {},
        "fp32_layers": [],
        "workspace_bytes": 1 << 30,
        **changes,
    }  # fmt: skip


def bundle_for(
    folder: Path, proto: onnx.ModelProto, feeds: list[dict[str, np.ndarray]], settings: Mapping[str, Any]
) -> Path:
    """A bundle as `edgepack build` lays it out, its golden answers ONNX Runtime's."""
    (folder / "model").mkdir(parents=True)
    onnx.save(proto, folder / "model" / "model.onnx")
    (folder / "model" / "tensorrt.json").write_text(json.dumps(settings))
    bundle.write_payload(folder, "tensorrt", ["numpy==1.26.4"])
    session = None
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:  # an operator that nobody knows
        answers = [{output.name: np.zeros(1, np.float32) for output in proto.graph.output} for _ in feeds]
    else:
        names = [output.name for output in session.get_outputs()]
        answers = [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]
    for which, samples in (("inputs", feeds), ("expected", answers), ("reference", answers)):
        arrays = {f"{index}/{name}": array for index, one in enumerate(samples) for name, array in one.items()}
        bundle.write_arrays(folder / "golden" / f"{which}.npz", arrays)
    tolerance = {"kind": "decibels", "at_least_db": 20}
    bundle.seal(
        folder,
        {
            "format": 1, "name": "model", "version": "1", "created": "2026-01-01T00:00:00Z", "edgepack": "0",
            "device": "orin-nano", "requires": {}, "target": "tensorrt", "runtime": "tensorrt", "precision": "fp32",
            "threads": 1, "model": {"file": "model/model.onnx"}, "baseline": None,
            "inputs": [_entry(one) for one in proto.graph.input],
            "outputs": [_entry(one) for one in proto.graph.output],
            "golden": {
                "synthetic": True, "samples": len(feeds),
                "outputs": [{"name": one.name, "tolerance": tolerance, "reference_sqnr_db": 100.0}
                            for one in proto.graph.output],
            },
        },
    )  # fmt: skip
    return folder


def _entry(value: onnx.ValueInfoProto) -> dict[str, Any]:
    shape = [dim.dim_value or (dim.dim_param or None) for dim in value.type.tensor_type.shape.dim]
    return {"name": value.name, "dtype": plan.dtype_of(value), "shape": shape, "layout": None, "quantization": None}


def reseal(folder: Path) -> None:
    """Take what was changed in a bundle for its own."""
    bundle.seal(folder, bundle.read_manifest(folder))


def engines(folder: Path) -> list[str]:
    """What lies in a bundle's folder of engines, the lock apart."""
    place = folder / "engines"
    return sorted(path.name for path in place.iterdir() if path.name != "lock") if place.is_dir() else []


def sqnr(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(harness().sqnr_db(wanted, got))
