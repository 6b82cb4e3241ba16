"""What the sections read from results: measurements, wherever they are, and words for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgepack.measuring.measurement import SWEEP, each, setting
from edgepack.results import BUILD, BUNDLE, MEASURED, PROFILE, Result

Measured = Mapping[str, Any]


def measurements(results: Sequence[Result]) -> list[tuple[Result, Measured]]:
    """Each measurement, those of sweeps one by one; of a build only where nothing else was measured."""
    found: list[tuple[Result, Measured]] = [
        (result, one) for result in results if result.kind in MEASURED for one in each(result.data)
    ]
    return found or [(r, r.data["latency"]) for r in results if r.kind == BUILD and r.data.get("latency")]


def single(results: Sequence[Result]) -> list[tuple[Result, Measured]]:
    """The measurements that are no part of a sweep."""
    return [(result, one) for result, one in measurements(results) if result.kind != SWEEP]


def sweeps(results: Sequence[Result]) -> list[tuple[Result, list[Measured]]]:
    return [(result, list(each(result.data))) for result in results if result.kind == SWEEP]


def parts(one: Measured) -> list[str]:
    return [part for part in ("baseline", "against", "model") if part in one["models"]]


def part_name(one: Measured, part: str) -> str:
    """What a part is called where the other stands beside it."""
    if part == "baseline":
        return "float original"
    if "against" not in one["models"]:
        return "this bundle"
    about, other = (one["models"][name]["bundle"] for name in (part, "model" if part == "against" else "against"))
    keys = [key for key in ("name", "version", "target", "precision") if about[key] != other[key]]
    if not keys:
        return "this bundle" if part == "model" else "the other"
    return " ".join(f"version {about[key]}" if key == "version" else str(about[key]) for key in keys)


def runs(part: Measured) -> list[list[float]]:
    """[process][run] in milliseconds."""
    return [[run for turn in process["rounds_ms"] for run in turn] for process in part["processes"]]


def place(one: Measured) -> str:
    """The machine, as one would call it."""
    about, host = one["environment"], one.get("host", "local")
    name = about["board"] or about["cpu"] or about["machine"]
    return f"{name}" if host == "local" else f"{name} ({host})"


def heading(one: Measured) -> str:
    about = one["bundle"]
    return (
        f"{about['name']} {about['version']}: {about['target']}, {about['precision']}, {setting(one)}, on {place(one)}"
    )


def setting_of_profile(profile: Mapping[str, Any]) -> str:
    known, threads = profile["bundle"], profile["threads"]
    words = f"{known['name']} {known['version']}: {known['target']}, {known['precision']}"
    return f"{words}, {threads} thread{'s' if threads > 1 else ''}, on {place(profile)}"


def about(result: Result) -> Mapping[str, Any] | None:
    """`name`, `version`, `target`, `precision`, `device` of a build, bundle, measurement or profile."""
    if result.kind == BUILD:
        return result.data
    if result.kind == BUNDLE:
        manifest: Mapping[str, Any] = result.data["manifest"]
        return manifest
    if result.kind in MEASURED:
        bundle: Mapping[str, Any] = each(result.data)[0]["bundle"]
        return bundle
    if result.kind == PROFILE:
        profiled: Mapping[str, Any] = result.data["bundle"]
        return profiled
    return None


def sizes(result: Result) -> tuple[int, int, int | None] | None:
    """Bytes of the original model, of the built one, and of the archive."""
    if result.kind == BUILD:
        counts = result.data["sizes"]
        return counts["original"], counts["model"], counts["archive"]
    if result.kind == BUNDLE and "measured" in result.data["manifest"]:
        return (
            result.data["manifest"]["measured"]["original_bytes"],
            result.data["model_bytes"],
            result.data["archive_bytes"],
        )
    return None


def promise(result: Result) -> Mapping[str, Any] | None:
    found = result.data.get("promise") if result.kind == BUILD else None
    return result.data["manifest"].get("promise") if result.kind == BUNDLE else found
