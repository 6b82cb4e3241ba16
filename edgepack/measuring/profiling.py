"""`bench --profile`: what each operator takes, and which layers of the original it is."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import onnx

from edgepack import _root, target
from edgepack.bundles import beside, bundle, here
from edgepack.cost import macs_by_output, observed_shapes
from edgepack.errors import EdgepackError, UsageError, WriteFailed
from edgepack.measuring import peak
from edgepack.measuring.measurement import write
from edgepack.measuring.origin import COMPUTE, LAYOUT, QUANTIZE, Executed, Origin, flattened, origins
from edgepack.measuring.timeline import events
from edgepack.model import Model
from edgepack.progress import Progress

KIND, FORMAT = "profile", 1
ORIGINAL = "original.onnx"
# `dynamic` multiplies integers too.
INTEGERS = ("int8", "uint8", "dynamic")
Profile = dict[str, Any]


def _quiet(what: str, done: int, total: int) -> None:
    """No progress is shown."""


def profile(
    path: str | Path,
    *,
    on: str = "local",
    threads: int | None = None,
    seconds: float = 5.0,
    accept_doubts: bool = False,
    output: str | Path | None = None,
    trace: str | Path | None = None,
    progress: Progress = _quiet,
) -> Profile:
    """Check a bundle's golden outputs, then profile its model on the first golden input.

    Args:
        path: a bundle's folder, or its .tar.gz, which lacks the original that layers are named by.
        on: local, ssh://user@host[:port], or qemu:CPU, whose times mean nothing.
        threads: threads to run with, as built if not given.
        seconds: how long the model runs, half of it without the profiler.
        accept_doubts: profile an emulated board as well.
        output: a file for the result, as JSON.
        trace: a file for the same as a timeline, which Perfetto and Chrome show.

    Returns:
        A profile (docs/measurement.md).

    Raises:
        DoubtfulMeasurement: the board is emulated.
        BrokenBundle, WrongOutput, RunFailed, HostError, UnfitHost, WriteFailed.
    """
    if not 0 < seconds < math.inf:
        raise UsageError("--seconds should be positive", "5 is the default")
    if threads is not None and threads < 1:
        raise UsageError("--threads should be 1 or more", "leave it out to take all cores")
    for file in (output, trace):
        if file is not None and not Path(file).resolve().parent.is_dir():
            raise WriteFailed(f"cannot write {file}: there is no such folder", "make it first")
    with bundle.opened(Path(path)) as folder, tempfile.TemporaryDirectory() as scratch:
        manifest = bundle.verify(folder)
        progress("preparing", 0, 0)
        kit = Path(scratch) / "kit"
        peaks = write_kit(manifest["target"], kit)
        settings = {"seconds": seconds, "threads": threads, "peaks": peaks}
        flags = ["--build-machine"] if on == "local" else []
        flags += ["--settings", json.dumps(settings)]
        if on == "local":
            progress("checking and profiling", 0, 0)
            command = ["_profile", "--bundle", str(folder.resolve()), *flags]
            raw = {
                **here.harness(kit, *command, only=here.runtime_of(manifest)),
                "host": "local",
                "emulated": False,
            }
        else:
            from edgepack.bundles import remote_bundle

            raw = remote_bundle.profile(folder, manifest, on, kit, flags, progress, emulated_too=accept_doubts)
        result = explained(raw, folder, manifest)
    if output is not None:
        write(result, Path(output))
    if trace is not None:
        write(events(result), Path(trace))
    return result


def write_kit(target_name: str, kit: Path) -> list[dict[str, Any]]:
    """This edgepack's harness with the target's runner and profiler, and models of the peak; what these are."""
    source = _root.TARGETS / "device"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source / bundle.DEVICE_CODE, kit / bundle.DEVICE_CODE, ignore=ignored)
    shutil.copyfile(source / "harness.py", kit / "harness.py")
    (kit / "runtime").mkdir()
    for name in ("runner.py", "profiler.py"):
        path = _root.TARGETS / target_name / name
        if not path.is_file():
            raise UsageError(f"{target_name} has no profiler", "bench times it without --profile")
        shutil.copyfile(path, kit / "runtime" / name)
    prepare = getattr(_layers(target_name), "prepare", None)
    if prepare is not None:
        prepare(kit / "runtime")
    return peak.write(target.load(target_name), kit / "peak")


def explained(raw: Mapping[str, Any], folder: Path, manifest: bundle.Manifest) -> Profile:
    """A harness's profile in terms of the original's layers.

    Args:
        raw: what the harness printed.
        folder: the bundle's, with the original where that is here.
    """
    read = cast(Callable[[Mapping[str, Any], Path], list[Executed]], _layers(manifest["target"]).executed)
    executed = read(raw, folder / manifest["model"]["file"])
    nodes: list[onnx.NodeProto] = []
    macs: dict[str, int] = {}
    for name in (ORIGINAL, beside.GRAPH):
        if (folder / bundle.BASELINE / name).is_file():
            original = onnx.load(folder / bundle.BASELINE / name, load_external_data=False)
            nodes = flattened(original.graph)
            macs = macs_by_output(Model.from_proto(original), _shapes(original, name, folder, manifest))
            break
    peaks = _peaks(raw["peaks"])
    found = origins(executed, nodes) if nodes else [Origin()] * len(executed)
    rows = [_row(operator, origin, nodes, macs, peaks) for operator, origin in zip(executed, found, strict=True)]
    total = sum(row["us"] for row in rows)
    for row in rows:
        row["share"] = row["us"] / total if total else 0.0
    by_role = {role: sum(row["us"] for row in rows if row["role"] == role) for role in (COMPUTE, QUANTIZE, LAYOUT)}
    mapped = sum(row["us"] for row in rows if row["layers"])
    return {
        "kind": KIND,
        "format": FORMAT,
        **{key: raw[key] for key in ("created", "bundle", "threads", "host", "emulated", "versions", "environment")},
        "check": raw["check"],
        "shapes": raw["shapes"],
        "runs": raw["runs"],
        "end_to_end_us": raw["end_to_end_us"],
        "operators_us": total,
        "sum_ratio": total / raw["end_to_end_us"],
        "call_us": raw["call_us"],
        "accounted": (total + raw["call_us"]) / raw["end_to_end_us"],
        "raw_us": raw["raw_us"],
        "measured_us": raw["measured_us"],
        "scaled": raw.get("scaled"),
        "coverage": mapped / total if nodes and total else None,
        "by_role_us": by_role,
        "macs": sum(row["macs"] for row in rows),
        "peaks": raw["peaks"],
        "peak_gops": peaks,
        "notes": raw.get("notes", []),
        "operators": rows,
    }


def _layers(target_name: str) -> ModuleType:
    return _root.load(f"edgepack.targets.{target_name}.layers", _root.TARGETS / target_name / "layers.py")


def _shapes(
    original: onnx.ModelProto, name: str, folder: Path, manifest: bundle.Manifest
) -> dict[str, tuple[int, ...]]:
    """Of the tensors around weighted layers: written down at build time, or seen in a run here."""
    if name == beside.GRAPH:
        known = (*original.graph.input, *original.graph.value_info)
        return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in known}
    with np.load(folder / "golden" / "inputs.npz", allow_pickle=False) as arrays:
        feed = {key[2:]: arrays[key] for key in arrays.files if key.startswith("0/")}
    try:
        return observed_shapes(original, feed)
    except EdgepackError:  # what does not run here alone is profiled without counts
        return {}


def _peaks(measured: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The best of each precision, in GOPS."""
    best: dict[str, float] = {}
    for one in measured:
        if one["gops"] is not None:
            best[one["precision"]] = max(one["gops"], best.get(one["precision"], 0.0))
    return best


def _row(
    operator: Executed,
    origin: Origin,
    nodes: Sequence[onnx.NodeProto],
    macs: Mapping[str, int],
    peaks: Mapping[str, float],
) -> dict[str, Any]:
    count = sum(macs.get(name, 0) for index in origin.counted for name in nodes[index].output)
    gops = 2e-3 * count / operator.us if count and operator.us else None
    top = peaks.get("int8" if operator.precision in INTEGERS else "fp32")
    return {
        "name": operator.name,
        "kind": operator.kind,
        "role": operator.role,
        "layers": [
            {
                "name": nodes[index].name or nodes[index].output[0],
                "output": nodes[index].output[0],
                "operator": nodes[index].op_type,
            }
            for index in origin.nodes
        ],
        "us": operator.us,
        "precision": operator.precision,
        "macs": count,
        "bytes": operator.bytes,
        "gops": gops,
        "of_peak": gops / top if gops and top else None,
    }
