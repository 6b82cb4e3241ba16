"""edgepack packages trained models for edge devices: quantized, verified, measured.

    import edgepack
    built = edgepack.build("model.onnx", "out", device="rpi5", data="calibration/")
    print(edgepack.bench(built.bundle)["ratio"])

Importing edgepack loads nothing heavy; the functions bring what they need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepack.building.pipeline import build
    from edgepack.building.result import Build
    from edgepack.errors import EdgepackError
    from edgepack.inspection import inspect
    from edgepack.measuring.benchmark import bench, check
    from edgepack.page import report
    from edgepack.results.comparison import compare

__all__ = ["Build", "EdgepackError", "bench", "build", "check", "compare", "inspect", "report"]

_HOMES = {
    "Build": "edgepack.building.result",
    "EdgepackError": "edgepack.errors",
    "bench": "edgepack.measuring.benchmark",
    "build": "edgepack.building.pipeline",
    "check": "edgepack.measuring.benchmark",
    "compare": "edgepack.results.comparison",
    "inspect": "edgepack.inspection",
    "report": "edgepack.page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgepack' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
