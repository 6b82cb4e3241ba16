"""How to come by the same results: the commands, the versions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from edgepack._version import VERSION
from edgepack.measuring.measurement import each
from edgepack.page.facts import measurements
from edgepack.page.html import Cell, command, element, table
from edgepack.results import BUILD, BUNDLE, LAYERS, MEASURED, PROFILE, Result


def of(results: Sequence[Result]) -> list[str]:
    lines = list(dict.fromkeys(line for result in results for line in _commands(result)))
    versions = _versions(results)
    found = [command("\n".join(lines))] if lines else []
    if any(result.kind in (BUILD, BUNDLE) for result in results):
        found.append(element("p", "MODEL and the sample files are the ones the build was given.", "quiet"))
    if versions:
        rows = [[Cell(name), Cell(version)] for name, version in versions.items()]
        found.append(table("Versions", ["", "version"], rows, sortable=False))
    rows = [[Cell(result.path), Cell(result.kind), Cell(str(result.data.get("created", "")))] for result in results]
    found.append(table("Made from", ["file", "kind", "when"], rows))
    return found


def _commands(result: Result) -> list[str]:
    if result.kind == LAYERS:
        return [
            _joined("edgepack", "inspect", result.data["path"], "--layers", "--target", result.data["target"])
            + " --data …"
        ]
    if result.kind == PROFILE:
        on = ["--on", result.data["host"]] if result.data["host"] != "local" else []
        name, threads = result.data["bundle"]["name"], result.data["threads"]
        return [_joined("edgepack", "bench", name, *on, "--profile", "--threads", threads)]
    if result.kind in (BUILD, BUNDLE):
        return [_build(result)]
    if result.kind in MEASURED:
        measured = each(result.data)
        return [_bench(measured)]
    return []


def _build(result: Result) -> str:
    about = result.data if result.kind == BUILD else result.data["manifest"]
    promised = about.get("promise")
    precision = about["precision"] if about["precision"] != "as-is" else "auto"
    flags = ["--precision", precision] if not promised else ["--max-drop", f"{promised['max_drop']:g}"]
    return (
        _joined(
            "edgepack", "build", "MODEL", "-o", str(about.get("bundle") or "out"), "--name", about["name"],
            "--version", about["version"], "--device", about["device"], "--target", about["target"], *flags,
        )
        + " --data … --eval …"
    )  # fmt: skip


def _bench(measured: Sequence[Mapping[str, Any]]) -> str:
    first = measured[0]
    settings = first["settings"]
    flags = ["--on", first["host"]] if first.get("host", "local") != "local" else []
    for key in ("threads", "batch"):
        values = list(dict.fromkeys(one["settings"][key] for one in measured))
        flags += [f"--{key}", ",".join(map(str, values))]
    if settings["concurrency"] > 1:
        flags += ["--concurrency", str(settings["concurrency"])]
    for name, shape in settings["input_shapes"].items():
        flags += ["--input-shape", f"{name}={'x'.join(map(str, shape))}"]
    flags += ["--seconds", f"{settings['seconds']:g}", "--min-runs", str(settings["min_runs"])]
    flags += ["--processes", str(settings["processes"]), "--equivalence", f"{100 * settings['equivalence']:g}%"]
    if "against" in first["models"]:
        flags = ["--against", first["models"]["against"]["bundle"]["name"], *flags]
    if (first["environment"].get("clocks") or {}).get("fixed"):
        flags.append("--fix-clocks")
    return _joined("edgepack", "bench", first["bundle"]["name"], *flags, "--output", "result.json")


def _joined(*words: object) -> str:
    return shlex.join(str(word) for word in words)


def _versions(results: Sequence[Result]) -> dict[str, str]:
    found = {"edgepack, of this report": VERSION}
    for result in results:
        if result.kind == BUNDLE:
            found[f"edgepack, of {result.data['manifest']['name']}"] = str(result.data["manifest"]["edgepack"])
            found.update({name: str(version) for name, version in result.data["manifest"]["runtime"].items()})
    for _, one in measurements(results):
        for part in one["models"].values():
            found.update({name: str(version) for name, version in part["versions"].items()})
        for key in ("python", "numpy"):
            if one["environment"].get(key):
                found[key] = str(one["environment"][key])
    return found
