"""`edgepack build`, through the Python call that the command makes, so that its stages can be timed apart."""

from __future__ import annotations

import inspect
import json
import shutil
import time
from pathlib import Path
from typing import Any

import onnx
import samples

import edgepack
from edgepack import target

# What a build does beyond quantizing: no peer writes a bundle, checks it, or times it, and each gets a model that is
# cleaned up already, in time that is not counted.
BEYOND = ("cleaning up", "packaging", "verifying", "comparing with the original", "timing", "fetching wheels")


class Stages:
    """A progress callback that adds up how long each stage took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last, self.since = "starting", time.perf_counter()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        self.seconds[self.last] = self.seconds.get(self.last, 0.0) + now - self.since
        self.last, self.since = what, now


def _keep_graph(name: str, path: Path) -> None:
    """Have the target write down the ONNX graph it lowers, which its file is compared with."""
    module: Any = target.load(name)
    lower = module.lower

    def kept(model: Any, folder: Path) -> str:
        onnx.save(model.proto(), path)
        return str(lower(model, folder))

    module.lower = kept


def main() -> None:
    asked = samples.request()
    takes = inspect.signature(edgepack.build).parameters
    options = {**asked["options"]}
    if "max_drop" in options:
        if "max_drop" not in takes:
            samples.skip(asked, "this edgepack has no --max-drop")
            return
        options |= {"eval": asked["search"], **asked["edgepack"]}
    unknown = [name for name in options if name not in takes]
    if unknown:
        samples.skip(asked, f"this edgepack has no --{unknown[0].replace('_', '-')}")
        return
    bundle, graph = Path(asked["output"]) / "bundle", Path(asked["output"]) / "lowered.onnx"
    shutil.rmtree(bundle, ignore_errors=True)
    stages = Stages()
    _keep_graph(asked["target"], graph)
    start = time.perf_counter()
    built = edgepack.build(
        asked["original"],
        bundle,
        target=asked["target"],
        data=asked["raw_calibration"],
        seconds=asked["seconds"],
        force=True,
        progress=stages,
        **options,
    ).to_json()
    total = time.perf_counter() - start
    stages("done", 0, 0)
    beyond = sum(spent for stage, spent in stages.seconds.items() if stage.startswith(BEYOND))
    file = next(path for path in (bundle / "model").iterdir() if path.suffix in (".onnx", ".xml", ".tflite"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    figures = {key: built[key] for key in ("precision", "reason", "warnings", "promise", "search") if key in built}
    if manifest.get("promise"):
        figures["promise"] = manifest["promise"]
    samples.answer(
        asked,
        start + beyond,
        file,
        runner=str(bundle / "runner.py"),
        graph=str(graph),
        notes=built["notes"],
        build_seconds=total,
        stages=stages.seconds,
        build=figures,
    )


if __name__ == "__main__":
    main()
