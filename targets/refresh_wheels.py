"""Write wheels.yaml anew: which wheels there are for which Python, architecture and glibc, and what they read.

    python targets/refresh_wheels.py [--packages onnxruntime numpy] [--measure]

Wheels are found by asking pip to resolve, for every Python, architecture and glibc of devices.yaml, the newest wheel.
With --measure, each onnxruntime version that a Python on this machine can install is installed into a scratch
environment and tried on models of rising IR and opset; versions that cannot be tried keep their figures.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from edgepack.bundles.wheels import LEGACY, platforms

HERE = Path(__file__).parent
TABLE = HERE / "wheels.yaml"
PACKAGES = ("numpy", "numpy<2", "pillow", "onnxruntime", "openvino", "tflite-runtime", "ai-edge-litert")
NEWEST_GLIBC, OLDEST_GLIBC = 41, 17
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")


def newest(package: str, python: str, arch: str, glibc: int) -> tuple[str, int] | None:
    """The newest wheel's version and the oldest glibc 2.x it runs on; `package` may bound the version."""
    nodot = python.replace(".", "")
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps",
        "--disable-pip-version-check", "--only-binary=:all:", "--python-version", python, "--implementation", "cp",
        *(part for abi in (f"cp{nodot}", "abi3", "none") for part in ("--abi", abi)),
        *(part for platform in platforms(arch, f"2.{glibc}") for part in ("--platform", platform)),
        "--target", tempfile.gettempdir(), "--report", "-", package,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return None
    install = json.loads(done.stdout)["install"][0]
    return install["metadata"]["version"], glibc_of(install["download_info"]["url"].rpartition("/")[2], arch)


def glibc_of(wheel: str, arch: str) -> int:
    """The smallest glibc 2.x among a wheel's platform tags."""
    modern = [int(minor) for minor in re.findall(rf"manylinux_2_(\d+)_{arch}", wheel)]
    legacy = [minor for name, minor in LEGACY.items() if f"{name}_{arch}" in wheel]
    return min([*modern, *legacy], default=0)


def rows_of(package: str, arch: str) -> list[dict[str, Any]]:
    """Each Python's newest wheel, and the newest ones for older glibcs where that one is too new for them."""
    found: dict[tuple[str, int], list[str]] = {}
    for python in PYTHONS:
        glibc = NEWEST_GLIBC
        while glibc >= OLDEST_GLIBC and (wheel := newest(package, python, arch, glibc)) is not None:
            found.setdefault(wheel, []).append(python)
            glibc = wheel[1] - 1
    order = sorted(found, key=lambda wheel: ([int(part) for part in re.findall(r"\d+", wheel[0])], wheel[1]))
    return [
        {"version": version, "python": found[version, glibc], "glibc": f"2.{glibc}"}
        for version, glibc in reversed(order)
    ]


def measure_reads(version: str, python: str) -> dict[str, int] | None:
    """The newest IR and opset that a version of onnxruntime loads, tried under the given Python."""
    interpreter = shutil.which(f"python{python}")
    if interpreter is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([interpreter, "-m", "venv", scratch], check=True, capture_output=True)
        pip = [f"{scratch}/bin/python", "-m", "pip", "install", "--quiet", f"onnxruntime=={version}"]
        if subprocess.run(pip, capture_output=True).returncode != 0:
            return None
        write_probes(Path(scratch))
        done = subprocess.run(
            [f"{scratch}/bin/python", "-c", _PROBE, scratch], capture_output=True, text=True, check=True
        )
    return dict(zip(("ir", "opset"), map(int, done.stdout.split()[-2:]), strict=True))


_PROBE = """
import glob, os, re, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime
onnxruntime.set_default_logger_severity(4)
def newest(kind):
    best = 0
    for path in glob.glob(os.path.join(sys.argv[1], kind + "*.onnx")):
        try:
            onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            best = max(best, int(re.findall(r"(\\d+).onnx", path)[0]))
        except Exception:
            pass
    return best
print(newest("ir"), newest("opset"))
"""


def write_probes(folder: Path) -> None:
    """A Relu in every IR version and every opset."""
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    for kind, numbers in (("ir", range(8, 20)), ("opset", range(13, 36))):
        for number in numbers:
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", number if kind == "opset" else 13)])
            model.ir_version = number if kind == "ir" else 8
            (folder / f"{kind}{number}.onnx").write_bytes(model.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--packages", nargs="+", default=PACKAGES, choices=PACKAGES)
    parser.add_argument("--measure", action="store_true", help="try each onnxruntime on this machine's Pythons")
    arguments = parser.parse_args()
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8")) if TABLE.is_file() else {"wheels": {}, "reads": {}}
    for package in arguments.packages:
        table["wheels"][package] = {arch: rows_of(package, arch) for arch in ("x86_64", "aarch64", "armv7l")}
        print(package, "done", file=sys.stderr)
    if arguments.measure:
        reads = table["reads"].setdefault("onnxruntime", {})
        for row in table["wheels"]["onnxruntime"]["x86_64"]:
            for python in row["python"]:
                measured = measure_reads(row["version"], python)
                if measured is not None:
                    reads[row["version"]] = measured
                    break
    head = f"# Written by refresh_wheels.py on {datetime.date.today()}; do not edit by hand.\n"
    TABLE.write_text(
        head + yaml.safe_dump(table, sort_keys=False, default_flow_style=None, width=110), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
