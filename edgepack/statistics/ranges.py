"""Ranges of tensors, and means of their channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """What `samples` calibration samples showed.

    `ranges` maps a tensor to its (min, max), `means` to the mean of each of its channels.
    """

    ranges: dict[str, tuple[float, float]]
    means: dict[str, np.ndarray]
    samples: int


def collect(
    model: Model,
    tensors: Sequence[str],
    samples: Samples,
    progress: Progress | None = None,
    *,
    channels: Mapping[str, Channels] | None = None,
) -> Statistics:
    """Observe tensors while the float model runs over the samples.

    Everything is reduced inside the graph, so that no tensor has to be kept: memory is that of the float model.

    Args:
        tensors: those whose ranges are wanted.
        channels: those whose channel means are wanted, with their channels.

    Raises:
        SamplesError: a tensor becomes NaN or infinite.
    """
    wanted = channels or {}
    session = Session(_reduced(model, tensors, wanted))
    low, high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    sums = {name: np.zeros(1) for name in wanted}
    extremes = [f"{name}/{end}" for end in ("min", "max") for name in tensors]
    batch = samples.batch()
    done = rows = 0
    for feed in samples.batches(batch):
        answer = session.run(feed, [*extremes, *(f"{name}/mean" for name in wanted)])
        values = np.array([float(answer[name]) for name in extremes])
        low = np.minimum(low, values[: len(tensors)])
        high = np.maximum(high, values[len(tensors) :])
        count = min(batch, samples.count - done)
        # Each sample counts alike, however large it is.
        sums = {name: total + count * answer[f"{name}/mean"].astype(np.float64) for name, total in sums.items()}
        finite = dict(zip(tensors, np.isfinite(low) & np.isfinite(high), strict=True))
        # A minimum may pass over NaN; a mean does not.
        finite |= {name: finite.get(name, True) and bool(np.isfinite(sums[name]).all()) for name in wanted}
        for name in (name for name, sound in finite.items() if not sound):
            raise SamplesError(
                f"tensor {name!r} is NaN or infinite on sample {done} of {samples.source}",
                "look at that sample and its preprocessing; the model may overflow on it",
            )
        done, rows = done + count, rows + count
        if progress:
            progress(done, samples.count)
    return Statistics(
        ranges={name: (float(low[i]), float(high[i])) for i, name in enumerate(tensors)},
        means={name: total / rows for name, total in sums.items()},
        samples=samples.count,
    )


@dataclass(frozen=True, kw_only=True)
class Channels:
    """How a tensor's channels lie: the axis that counts them, of so many axes."""

    axis: int
    rank: int


def _reduced(model: Model, tensors: Sequence[str], channels: Mapping[str, Channels]) -> Model:
    """The model with the extremes and channel means of the named tensors as its only outputs."""
    observed = model.clone()
    graph = observed.ir.graph
    values = ir.convenience.create_value_mapping(graph)
    graph.outputs.clear()
    for end, operator in (("min", "ReduceMin"), ("max", "ReduceMax")):
        for name in tensors:
            _observe(
                graph, ir.node(operator, [values[name]], attributes={"keepdims": 0}), f"{name}/{end}", values[name], 0
            )
    for name, layout in channels.items():
        others = [axis for axis in range(layout.rank) if axis != layout.axis % layout.rank]
        if model.opset < 18:
            node = ir.node("ReduceMean", [values[name]], attributes={"keepdims": 0, "axes": others})
        else:
            axes = ir.val(f"{name}/axes", const_value=ir.tensor(np.array(others, np.int64), name=f"{name}/axes"))
            graph.register_initializer(axes)
            node = ir.node("ReduceMean", [values[name], axes], attributes={"keepdims": 0})
        _observe(graph, node, f"{name}/mean", values[name], 1)
    return observed


def _observe(graph: ir.Graph, node: ir.Node, name: str, of: ir.Value, rank: int) -> None:
    output = node.outputs[0]
    output.name, output.type = name, of.type
    if of.type is not None:
        output.shape = ir.Shape([None] * rank)
    graph.append(node)
    graph.outputs.append(output)
