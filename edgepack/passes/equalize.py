"""Cross-layer equalization: channels of one tensor are brought to like ranges, so that one scale serves them all.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), balance the weights of
two layers. Here weights have a scale per output channel, so what a layer makes can be scaled for free, and the
activations between, which share one scale, are what is to be balanced; too much of it costs the layer that reads
them, whose weights share one scale over all channels it reads. As in SmoothQuant (Xiao et al., 2022) a family of
scales between the two is tried, with the noise of both computed from observed ranges and powers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgepack.layer import to_matrix
from edgepack.model import Model, constant
from edgepack.passes import PassResult
from edgepack.passes.placement import place
from edgepack.passes.rescale import rescale
from edgepack.passes.scale_groups import LAYERS, Port, ScaleGroups, trace
from edgepack.samples import Samples
from edgepack.statistics.channel_extent import ChannelExtent
from edgepack.statistics.stream import MEMORY, stream
from edgepack.target import Scheme

# Ranges of channels settle quickly.
SAMPLES = 32
# No channel is made more than so many times larger than the widest one was small: what calibration saw little of may
# be wider elsewhere.
_LARGEST_FACTOR = 64.0
# Rounding that minds second moments leaves so much of the noise of nearest rounding (power).
WEIGHT_NOISE = 0.3
_POWERS = (0.25, 0.5, 0.75, 1.0)
# A gain below this is not worth touching the graph for.
_SMALLEST_GAIN = 0.25


def equalize(
    model: Model,
    scheme: Scheme,
    samples: Samples,
    makers: frozenset[str] = LAYERS,
    *,
    memory: int = MEMORY,
) -> PassResult:
    """Scale channels where less rounding noise can be expected; the float answers stay the same.

    Args:
        makers: the operators whose output may be scaled.
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
    few = replace(samples, count=min(samples.count, SAMPLES))
    for _ in stream(model, list(observers.values()), few, memory):
        pass
    logs = np.zeros(groups.free.size)
    before = after = 0.0
    changed = 0
    for problem in problems:
        noise = Noise.of(problem, observers, groups)
        chosen, plain, best = noise.choose()
        before, after = before + plain, after + best
        if best < (1 - _SMALLEST_GAIN) * plain:
            logs[problem.classes] = chosen
            changed += 1
    if not changed:
        return PassResult(model=model, note="")
    rescale(result.ir.graph, groups, np.exp(logs))
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


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a reader's int8 noise depends on: `largest` [G, O, C] and `energy` [G, C] of its weights, over its taps,
    and the `power` [G, C] of its input; `classes` are [G, C] too, as places in the problem's vector (−1: fixed)."""

    largest: np.ndarray
    energy: np.ndarray
    power: np.ndarray
    taps: int
    places: np.ndarray
    signal: float


@dataclass(kw_only=True)
class Noise:
    """The rounding noise that a problem's layers answer with, relative to their signals, by the scales' logarithms."""

    count: int
    low: list[np.ndarray] = field(default_factory=list)
    high: list[np.ndarray] = field(default_factory=list)
    places: list[np.ndarray] = field(default_factory=list)
    readers: list[tuple[Weights, list[int]]] = field(default_factory=list)
    weight_noise: float = WEIGHT_NOISE

    @classmethod
    def of(cls, problem: Problem, observers: Mapping[str, ChannelExtent], groups: ScaleGroups) -> Noise:
        position = np.full(groups.free.size, -1)
        position[problem.classes] = np.arange(problem.classes.size)
        noise = cls(count=problem.classes.size, weight_noise=WEIGHT_NOISE)
        for name in problem.tensors:
            noise.low.append(np.minimum(observers[name].low, 0.0))
            noise.high.append(np.maximum(observers[name].high, 0.0))
            noise.places.append(position[groups.values[name].classes])
        order = {name: index for index, name in enumerate(problem.tensors)}
        for reader, names in zip(problem.readers, problem.sources, strict=True):
            data = reader.node.inputs[0]
            assert data is not None
            power = observers[str(data.name)].power
            noise.readers.append((_weights(reader, power, position), [order[name] for name in names]))
        return noise

    def __call__(self, logs: np.ndarray) -> float:
        scales = np.append(np.exp(logs), 1.0)  # the last stands for place −1
        steps = [
            (float((high / scales[at]).max()) - float((low / scales[at]).min())) / 255
            for low, high, at in zip(self.low, self.high, self.places, strict=True)
        ]
        total = 0.0
        for weights, tensors in self.readers:
            s = scales[weights.places]
            step = sum(steps[index] ** 2 for index in tensors)
            # A channel below the step is lost, and no more than that.
            lost = np.minimum(s**2 * step / 12, weights.power)
            width = (weights.largest * s[:, None, :]).max(axis=2) / 127
            rounding = (width**2).sum(axis=1) / 12 * weights.taps * (weights.power / s**2).sum(axis=1)
            total += ((lost * weights.energy).sum() + self.weight_noise * rounding.sum()) / weights.signal
        return float(total)

    def choose(self) -> tuple[np.ndarray, float, float]:
        """The best scales found (their logarithms), and the noise without and with them."""
        reach, weight = np.zeros(self.count), np.zeros(self.count)
        for low, high, at in zip(self.low, self.high, self.places, strict=True):
            inside = at >= 0
            np.maximum.at(reach, at[inside], np.maximum(-low, high)[inside])
        for weights, _ in self.readers:
            inside = weights.places >= 0
            np.maximum.at(weight, weights.places[inside], weights.largest.max(axis=1)[inside])
        reach, weight = _bounded(reach), _bounded(weight)
        trials = [a * reach - b * weight for a in _POWERS for b in (0.0, 0.25, 0.5, 1 - a) if 0 <= b <= a]
        plain = self(np.zeros(self.count))
        costs = [self(trial) for trial in trials]
        best = int(np.argmin(costs))
        return trials[best], plain, costs[best]


def _bounded(sizes: np.ndarray) -> np.ndarray:
    """Logarithms, with the largest at 0, and dead channels left alone with the largest."""
    top = sizes.max(initial=0.0)
    if top <= 0:
        return np.zeros(sizes.size)
    return np.log(np.where(sizes > 0, np.maximum(sizes / top, 1 / _LARGEST_FACTOR), 1.0))


def _weights(reader: Port, power: np.ndarray, position: np.ndarray) -> Weights:
    weight = constant(reader.node.inputs[1])
    assert weight is not None
    matrix = to_matrix(reader.node, weight).astype(np.float64)
    groups = matrix.shape[0]
    taps = matrix.reshape(*matrix.shape[:2], reader.classes.size // groups, -1)
    energy, powers = (taps**2).sum(axis=(1, 3)), power.reshape(groups, -1)
    signal = float((energy * powers).sum())
    return Weights(
        largest=np.abs(taps).max(axis=3),
        energy=energy,
        power=powers,
        taps=taps.shape[3],
        places=position[reader.classes].reshape(groups, -1),
        signal=signal if signal > 0 else 1.0,
    )
