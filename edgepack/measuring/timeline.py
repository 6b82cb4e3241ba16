"""A profile as a timeline in the Trace Event Format, which ui.perfetto.dev and chrome://tracing show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def events(profile: Mapping[str, Any]) -> dict[str, Any]:
    """One run of typical length: operators one after the other in the order they ran, in microseconds."""
    about = profile["bundle"]
    title = f"{about['name']}: {about['target']}, {about['precision']}"
    found: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 1, "args": {"name": title}},
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "operators"}},
    ]
    now = 0.0
    for operator in profile["operators"]:
        arguments = {key: operator[key] for key in ("name", "precision", "macs", "bytes", "gops", "of_peak")}
        arguments["layers"] = ", ".join(layer["name"] for layer in operator["layers"])
        found.append(
            {
                "ph": "X",
                "name": operator["kind"],
                "cat": operator["role"],
                "ts": now,
                "dur": operator["us"],
                "pid": 1,
                "tid": 1,
                "args": {key: value for key, value in arguments.items() if value is not None},
            }
        )
        now += operator["us"]
    return {"traceEvents": found, "displayTimeUnit": "ms"}
