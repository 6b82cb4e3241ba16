"""Measurements as files: written whole or not at all, read back with their version checked (docs/measurement.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgepack.errors import UsageError, writing

Measurement = dict[str, Any]
MEASUREMENT, SWEEP, FORMAT = "measurement", "sweep", 2


def sweep(measurements: list[Measurement]) -> Measurement:
    """A single measurement as it is, several as one value."""
    if len(measurements) == 1:
        return measurements[0]
    return {"kind": SWEEP, "format": FORMAT, "measurements": measurements}


def each(result: Measurement) -> list[Measurement]:
    """The measurements in a measurement or a sweep."""
    return list(result["measurements"]) if result["kind"] == SWEEP else [result]


def setting(one: Mapping[str, Any]) -> str:
    """How a measurement was taken, in words."""
    settings = one["settings"]
    words = [f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"]
    if settings["batch"] > 1:
        words.append(f"batch {settings['batch']}")
    if settings["concurrency"] > 1:
        words.append(f"{settings['concurrency']} callers")
    words += [f"{name} {'×'.join(map(str, shape))}" for name, shape in settings["input_shapes"].items()]
    return ", ".join(words)


def hosted(result: Measurement, host: str, *, emulated: bool) -> Measurement:
    """A harness's measurement with where it was taken; on a board that edgepack emulates it is not valid."""
    doubts = list(result["doubts"])
    if emulated and not any(doubt["name"] == "emulated" for doubt in doubts):
        doubts.insert(0, EMULATED)
    valid = not any(doubt["severity"] == "invalid" for doubt in doubts)
    return {**result, "host": host, "emulated": emulated, "doubts": doubts, "valid": valid}


EMULATED: Mapping[str, Any] = {
    "name": "emulated",
    "severity": "invalid",
    "words": "the board is emulated: times mean nothing",
    "advice": "measure on the device; `check` works here",
    "figures": {},
}


def write(result: Measurement, path: Path) -> None:
    """
    Raises:
        WriteFailed: the disk is full, or the path cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            partial.write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def read(path: Path) -> Measurement:
    """
    Raises:
        UsageError: the file is missing, no measurement, or of another format.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", "`edgepack bench --output` writes one") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no measurement", "`edgepack bench --output` writes one") from error
    if not isinstance(result, dict) or result.get("kind") not in (MEASUREMENT, SWEEP):
        raise UsageError(f"{path} is no measurement", "`edgepack bench --output` writes one")
    if result.get("format") != FORMAT:
        raise UsageError(
            f"{path} has format {result.get('format')}, and this edgepack reads {FORMAT}", "measure again, or update"
        )
    return result
