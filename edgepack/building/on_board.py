"""Builds for a runtime that only devices have: what its bundle tells it, and how it is judged here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from onnx import version_converter

from edgepack.building.plan import Plan
from edgepack.data.ranges import Ranges
from edgepack.data.samples import Feed
from edgepack.model import Model
from edgepack.passes import PassResult
from edgepack.passes.half_arithmetic import TYPED_SCALES
from edgepack.passes.half_emulation import emulated
from edgepack.quantization.half_range import Wide, halved
from edgepack.target import BUILT_FOR, RunnerModule

CHECKED_ELSEWHERE = (
    "checked and judged in ONNX Runtime with the roundings of its types: {target} is not on this machine, so that "
    "latency is not measured"
)


def told(model: Model, plan: Plan, *, sparse: bool, ranges: Ranges, wide: Wide | None) -> Model:
    """The model with what its target has to know of the device and of the graph in its metadata (BUILT_FOR).

    `fp32_layers` are the nodes that should compute in float32 where the runtime chooses types itself.
    """
    jetpack, gpu = plan.device.system.jetpack, plan.device.gpu
    system = {} if jetpack is None else asdict(jetpack)
    system["jetpack"] = system.pop("version", "")
    told_ = model.clone()
    for node in told_.ir.graph:
        node.name = node.name or f"{node.outputs[0].name}"
    names = [str(node.name) for node in told_.ir.graph if wide is not None and node.outputs[0].name in wide.names]
    facts = {
        "system": system,
        "compute": gpu.compute if gpu is not None else "",
        "memory_mb": plan.device.memory_mb,
        "sparse": sparse,
        "ranges": {name: shapes.to_json() for name, shapes in ranges.items()},
        "fp32_layers": names,
    }
    told_.ir.metadata_props[BUILT_FOR] = json.dumps(facts)
    return told_


def mixed(model: Model, wide: Wide, original: Model, feeds: Sequence[Feed]) -> PassResult:
    """A Q/DQ model with fp16 between its integer operators; as it is where onnx cannot raise its opset for that."""
    if model.opset < TYPED_SCALES:
        try:
            raised = version_converter.convert_version(model.proto(), TYPED_SCALES)
        except Exception as error:  # RuntimeError and others, from C++
            line = str(error).strip().splitlines()[-1][:120]
            return PassResult(model=model, note=f"fp32, as opset {TYPED_SCALES} cannot hold it: {line}")
        model = Model.from_proto(raised, source=model.source)
    return halved(model, wide, original, feeds)


def rounded_run(plan: Plan, model: Model, runtime: RunnerModule, threads: int) -> Callable[[Feed], Feed] | None:
    """A model as the device rounds it, in the runtime that stands in here; None where that does so by itself."""
    if not plan.stand_in or not model.computes_half:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        file = emulated(model).save(Path(scratch) / "rounded.onnx")[0]
        return runtime.load(str(Path(scratch) / file), threads)
