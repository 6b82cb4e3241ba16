"""Cross-layer equalization: channels of one tensor are brought to like ranges, so that one scale serves them all.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), balance the weights of
two layers. Here weights have a scale per output channel, so what a layer makes can be scaled for free, and the
activations between, which share one scale, are what is to be balanced; too much of it costs the layer that reads
them, whose weights share one scale over all channels it reads. As in SmoothQuant (Xiao et al., 2022) a family of
scales between the two is tried, with the noise of both computed from observed ranges and powers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgepack.data.samples import Samples, enough, spread, subset
from edgepack.model import Model
from edgepack.passes import PassResult
from edgepack.passes.equalization_noise import Noise, Reader, Tensor
from edgepack.passes.placement import place
from edgepack.passes.rescale import rescale
from edgepack.passes.scale_groups import LAYERS, Port, ScaleGroups, trace
from edgepack.passes.simplify import TOLERANCE, largest_error
from edgepack.reference import Session
from edgepack.statistics.channel_extent import ChannelExtent
from edgepack.statistics.stream import MEMORY, Observer, stream
from edgepack.target import Scheme

# Ranges of channels settle quickly.
SAMPLES = 64
# A gain below this is not worth touching the graph for.
_SMALLEST_GAIN = 0.25


def equalize(
    model: Model,
    scheme: Scheme,
    samples: Samples,
    makers: frozenset[str] = LAYERS,
    *,
    also: Sequence[Observer] = (),
    memory: int = MEMORY,
) -> PassResult:
    """Scale channels where less rounding noise can be expected; the float answers stay the same.

    Args:
        makers: the operators whose output may be scaled.
        also: observers of other tensors, which see the samples too where any are looked at.
    """
    result = model.clone()
    common.ShapeInferencePass()(result.ir)
    groups = trace(result, makers)
    placement = place(result, scheme)
    problems = _problems(groups, placement.tensors, {id(node) for node in placement.weighted})
    if not problems:
        return PassResult(model=model, note="")
    observers = {
        name: ChannelExtent(tensor=name, axis=groups.values[name].axis)
        for name in dict.fromkeys(name for problem in problems for name in problem.tensors)
    }
    few = subset(samples, spread(samples.count, enough(samples, SAMPLES)))
    for _ in stream(model, [*observers.values(), *also], few, memory):
        pass
    problems = [problem for problem in problems if all(observers[name].lows for name in problem.tensors)]
    logs = np.zeros(groups.free.size)
    before = after = 0.0
    changed = 0
    for problem in problems:
        chosen, plain, best = _noise(problem, observers, groups).choose()
        before, after = before + plain, after + best
        if best < (1 - _SMALLEST_GAIN) * plain:
            logs[problem.classes] = chosen
            changed += 1
    if not changed:
        return PassResult(model=model, note="")
    rescale(result.ir.graph, groups, np.exp(logs))
    difference = largest_error(Session(model), Session(result), samples.first(1))
    if not difference <= TOLERANCE:
        return PassResult(model=model, note=f"equalization dropped: it changes the answers by {difference:.1e}")
    return PassResult(
        model=result,
        note=f"{changed} groups of channels equalized",
        figures={"groups": float(changed), "noise": after / before if before > 0 else 1.0},
    )


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A set of classes that is scaled together: the quantized tensors and the int8 layers that it concerns.

    `sources[i]` are the quantized tensors whose noise layer i reads.
    """

    classes: np.ndarray
    tensors: tuple[str, ...]
    readers: tuple[Port, ...]
    sources: tuple[tuple[str, ...], ...]


def _problems(groups: ScaleGroups, quantized: Mapping[str, str], weighted: set[int]) -> list[Problem]:
    found = []
    for classes in groups.components():
        inside = np.zeros(groups.free.size, bool)
        inside[classes] = True
        tensors = [name for name in quantized if name in groups.values and inside[groups.values[name].classes].any()]
        readers = [one for one in groups.readers if id(one.node) in weighted and inside[one.classes].any()]
        if not readers or not tensors:
            continue
        sources = tuple(_sources(reader.node, set(tensors), groups) for reader in readers)
        found.append(Problem(classes=classes, tensors=tuple(tensors), readers=tuple(readers), sources=sources))
    return found


def _sources(reader: ir.Node, tensors: set[str], groups: ScaleGroups) -> tuple[str, ...]:
    """The quantized tensors of the group whose noise reaches a layer's input, with the input itself first."""
    made = {str(one.node.outputs[0].name) for one in groups.makers}
    pending, seen = [reader.inputs[0]], dict[str, None]()
    while pending:
        value = pending.pop()
        name = str(value.name) if value is not None else ""
        if value is None or name in seen or name not in groups.values:
            continue
        seen[name] = None
        node = value.producer()
        if node is not None and name not in made:
            pending += node.inputs
    return tuple(name for name in seen if name in tensors)


def _noise(problem: Problem, observers: Mapping[str, ChannelExtent], groups: ScaleGroups) -> Noise:
    position = np.full(groups.free.size, problem.classes.size)
    position[problem.classes] = np.arange(problem.classes.size)
    order = {name: index for index, name in enumerate(problem.tensors)}
    return Noise(
        count=problem.classes.size,
        tensors=tuple(Tensor.of(observers[name], position[groups.values[name].classes]) for name in problem.tensors),
        readers=tuple(
            Reader.of(
                port,
                observers[str(port.node.inputs[0].name)].power,  # type: ignore[union-attr]
                position,
                tuple(order[name] for name in names),
            )
            for port, names in zip(problem.readers, problem.sources, strict=True)
        ),
    )
