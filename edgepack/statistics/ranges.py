"""The range of every tensor that will be quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgepack.errors import SamplesError
from edgepack.model import Model
from edgepack.reference import Session
from edgepack.samples import Samples

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What `samples` calibration samples showed: tensor name -> (min, max)."""

    ranges: dict[str, tuple[float, float]]
    samples: int


def collect(model: Model, tensors: Sequence[str], samples: Samples, progress: Progress | None = None) -> Statistics:
    """Observe the named tensors while the float model runs over the samples.

    The extremes are taken inside the graph, so that no tensor has to be kept: memory is that of the float model.

    Raises:
        SamplesError: a tensor becomes NaN or infinite.
    """
    session = Session(_with_extremes(model, tensors))
    low = np.full(len(tensors), np.inf)
    high = np.full(len(tensors), -np.inf)
    outputs = [f"{name}/{end}" for end in ("min", "max") for name in tensors]
    batch = samples.batch()
    done = 0
    for feed in samples.batches(batch):
        answer = session.run(feed, outputs)
        values = np.array([float(answer[name]) for name in outputs])
        low = np.minimum(low, values[: len(tensors)])
        high = np.maximum(high, values[len(tensors) :])
        broken = ~(np.isfinite(low) & np.isfinite(high))
        if broken.any():
            raise SamplesError(
                f"tensor {tensors[int(np.argmax(broken))]!r} is NaN or infinite on sample {done} of {samples.source}",
                "look at that sample and its preprocessing; the model may overflow on it",
            )
        done = min(done + batch, samples.count)
        if progress:
            progress(done, samples.count)
    ranges = {name: (float(low[i]), float(high[i])) for i, name in enumerate(tensors)}
    return Statistics(ranges=ranges, samples=samples.count)


def _with_extremes(model: Model, tensors: Sequence[str]) -> Model:
    """The model with the extremes of the named tensors as its only outputs."""
    observed = model.clone()
    graph = observed.ir.graph
    values = ir.convenience.create_value_mapping(graph)
    graph.outputs.clear()
    for end, operator in (("min", "ReduceMin"), ("max", "ReduceMax")):
        for name in tensors:
            node = ir.node(operator, [values[name]], attributes={"keepdims": 0})
            node.outputs[0].name = f"{name}/{end}"
            node.outputs[0].type = values[name].type
            if values[name].type is not None:
                node.outputs[0].shape = ir.Shape([])
            graph.append(node)
            graph.outputs.append(node.outputs[0])
    return observed
