"""What a bundle says of itself, and the golden arrays it is checked with."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgepack._version import VERSION
from edgepack.building.ingredients import Ingredients
from edgepack.bundles import bundle, golden
from edgepack.bundles.border import Ports
from edgepack.data.samples import Feed
from edgepack.data.states import without_states
from edgepack.metrics.merit import Quality, harness


def write_golden(given: Ingredients, ports: Ports, folder: Path, expected: list[Feed]) -> None:
    inputs = [ports.public(without_states(feed, ports.states)) for feed in given.golden]
    references = [ports.turned(answer) for answer in given.references]
    for name, feeds in (("inputs", inputs), ("expected", expected), ("reference", references)):
        bundle.write_arrays(folder / f"{name}.npz", golden.by_sample(feeds))
    pictures = given.pictures
    if pictures is not None and pictures.pixels is not None:
        bundle.write_arrays(folder / "pixels.npz", {"pixels": pictures.pixels(0)})


def manifest_of(
    given: Ingredients,
    ports: Ports,
    precision: str,
    file: str,
    terms: list[dict[str, Any]],
    versions: dict[str, str],
    baseline: dict[str, str] | None,
) -> bundle.Manifest:
    plan = given.plan
    pictures = given.pictures
    spec = pictures.spec if pictures is not None else None
    return {
        "format": harness().FORMAT,
        "name": given.name,
        "version": given.version,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "edgepack": VERSION,
        "device": plan.device.name,
        "target": plan.target_name,
        "runtime": versions,
        "precision": precision,
        "threads": plan.threads,
        "requires": {
            "arch": plan.device.arch,
            "python": plan.device.system.python if given.wheels else "3.8",
            "glibc": plan.device.system.glibc if given.wheels else "",
            "int8_dot_product": precision in ("int8", "dynamic")
            and plan.device.arch == "x86_64"
            and plan.scheme.weight_bits == 8
            and not plan.scheme.unsigned_weights,
        },
        "model": {"file": file},
        "baseline": baseline,
        "inputs": ports.entries("inputs"),
        "outputs": ports.entries("outputs"),
        "state": [state.entry() for state in ports.states],
        "metadata": dict(given.original.ir.metadata_props),
        "labels": given.labels,
        "preprocess": {**spec, "layout": ports.inputs[spec["input"]].layout or spec["layout"], "golden": True}
        if spec is not None
        else None,
        "pruning": given.pruning,
        "calibration": None if given.data is None else {"samples": given.data.count},
        "golden": {"synthetic": given.synthetic, "samples": len(given.golden), "outputs": terms},
    }


def measured(folder: Path, quality: Quality | None, original_bytes: int) -> dict[str, Any]:
    """What the build found, for whoever has only the bundle."""
    return {
        "quality": None if quality is None else {k: v for k, v in asdict(quality).items() if k != "source"},
        "model_bytes": bundle.folder_bytes(folder / "model"),
        "original_bytes": original_bytes,
    }
