"""Even out the channels around a HardSwish, whose one scale otherwise serves the widest of them.

Cross-layer equalization (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019)
needs an activation that scales with its input, which HardSwish does not. Here the gate is told how its input was
scaled: with x' = x / d by channel,

    HardSwish(x) / d = x' · HardSigmoid(d · x')

so the convolution before gives x' and those behind take their weights times d, exactly. In integers this takes as many
operators as a HardSwish (passes/saturate.py). Where a runtime fuses products by channel into the convolution before
(OpenVINO), only what it rounds needs to be even, and HardSwish(x) · (1 / d) stands in the place of HardSwish.

d follows the channel's largest value h, down to a share f of the largest of all, since the part below zero, which is
wide in narrow channels, needs room as well; f is the one that makes the rounding errors behind the following weights
least. d lies on a grid of 255 steps, so that int8 holds it exactly.

On the PP-OCR detector, where one layer's widest channel reaches 95 while half of them stay below 8, this is worth
2.4 dB in ONNX Runtime and 3.4 dB in OpenVINO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgepack.data.samples import Samples, enough, spread, subset
from edgepack.model import Model, constant
from edgepack.passes import PassResult
from edgepack.passes.affine import WEIGHTED, fold_before, fold_behind, foldable, only_reader, read, takes
from edgepack.passes.edits import initializer
from edgepack.passes.equalize import SAMPLES
from edgepack.passes.saturate import SWISH_OFFSET, SWISH_SLOPE
from edgepack.statistics.stream import MEMORY, stream
from edgepack.target import Scheme

_SHARES = 2.0 ** -np.arange(0, 6, 0.5)
# Above this share of the rounding error of before, the slower form does not pay: a product by channel takes longer than
# the sum that it replaces (a detector: all sites 20 % more time and 1.3 dB, the worst one 7 % and 2.4 dB).
_WORTHWHILE = 0.1
# A product that the runtime fuses costs nothing, but weights are rounded a little worse where their columns differ.
_WORTHWHILE_FUSED = 0.35
_LOWEST = -0.375  # of HardSwish
_POOLING = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})


@dataclass(kw_only=True)
class Reach:
    """An observer: the largest value of each channel (axis 1)."""

    tensor: str
    high: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def nbytes(self) -> int:
        return 4096

    def update(self, array: np.ndarray) -> None:
        high = array.max(axis=tuple(axis for axis in range(array.ndim) if axis != 1))
        if not np.isfinite(high).all():
            raise FloatingPointError
        self.high = np.maximum(self.high, high) if self.high.size else high


@dataclass(frozen=True, kw_only=True)
class Site:
    """A HardSwish between layers that can be scaled: the convolution before, those behind, and sums on the way."""

    node: ir.Node
    maker: ir.Node
    readers: tuple[ir.Node, ...]
    sums: tuple[ir.Node, ...]


def reaches(model: Model, scheme: Scheme) -> list[Reach]:
    """Observers of what `equalize_swish` has to know."""
    if not (scheme.fuses_chains or "HardSwish" in scheme.saturating) or "HardSwish" not in model.operators:
        return []
    inferred = model.clone()
    common.ShapeInferencePass()(inferred.ir)
    return [Reach(tensor=str(site.node.inputs[0].name)) for site in _sites(inferred)]  # type: ignore[union-attr]


def equalize_swish(
    model: Model, scheme: Scheme, samples: Samples, memory: int = MEMORY, known: Sequence[Reach] = ()
) -> PassResult:
    """Scale the channels around each HardSwish where that makes rounding errors much smaller.

    For schemes that compute HardSwish in integers, and for those that fuse a product behind it.

    Args:
        known: observers that have seen samples already.

    Raises:
        SamplesError: a tensor becomes NaN or infinite.
    """
    high = {reach.tensor: reach.high for reach in known if reach.high.size}
    unknown = [reach for reach in reaches(model, scheme) if reach.tensor not in high]
    if not high and not unknown:
        return PassResult(model=model, note="")
    if unknown:
        for finished in stream(
            model, unknown, subset(samples, spread(samples.count, enough(samples, SAMPLES))), memory
        ):
            high |= {reach.tensor: reach.high for reach in finished}
    result = model.clone()
    common.ShapeInferencePass()(result.ir)
    evened = 0
    for node in [site.node for site in _sites(result)]:
        site = _site(node)  # anew, since one before may have changed its sums
        assert site is not None
        scale = _scale(site, high[str(node.inputs[0].name)], scheme)  # type: ignore[union-attr]
        if scale is not None:
            _write(result.ir.graph, site, scale, scheme)
            evened += 1
    if not evened:
        return PassResult(model=model, note="")
    return PassResult(
        model=result, note=f"channels evened out around {evened} HardSwish", figures={"evened": float(evened)}
    )


def _sites(model: Model) -> list[Site]:
    return [site for site in map(_site, model.ir.graph) if site is not None]


def _site(node: ir.Node) -> Site | None:
    """What lies around a HardSwish; None where its channels cannot be scaled."""
    data = node.inputs[0] if node.inputs else None
    if node.op_type != "HardSwish" or node.domain != "" or data is None or not only_reader(data):
        return None
    maker = data.producer()
    if maker is None or maker.op_type != "Conv" or not foldable(maker):
        return None
    readers: dict[int, ir.Node] = {}
    sums: dict[int, ir.Node] = {}
    scaled = {id(node.outputs[0])}
    others: set[int] = set()
    pending = [node.outputs[0]]
    while pending:
        value = pending.pop()
        if value.is_graph_output() or not value.uses():
            return None
        for reader, index in value.uses():
            if reader.op_type in ("Conv", "ConvTranspose") and index == 0 and foldable(reader):
                readers[id(reader)] = reader
                continue
            if not _carries(reader, value, sums, others):
                return None
            if id(reader.outputs[0]) not in scaled:
                scaled.add(id(reader.outputs[0]))
                pending.append(reader.outputs[0])
    if scaled & others or not readers:
        return None
    return Site(node=node, maker=maker, readers=tuple(readers.values()), sums=tuple(sums.values()))


def _carries(node: ir.Node, value: ir.Value, sums: dict[int, ir.Node], others: set[int]) -> bool:
    """Whether a node whose input is scaled by channel gives an output scaled alike, or can be made to."""
    if node.domain != "" or len(node.outputs) != 1:
        return False
    if node.op_type in _POOLING:
        return True
    affine = read(node)
    if node.op_type == "Add" and affine is not None and affine.data is value and not affine.scales:
        sums[id(node)] = node
        return True
    if node.op_type != "Mul" or affine is not None:
        return False
    factors = [factor for factor in node.inputs if factor is not None and factor is not value]
    others.update(id(factor) for factor in factors)
    return len(factors) == 1 and constant(factors[0]) is None


def _scale(site: Site, high: np.ndarray, scheme: Scheme) -> np.ndarray | None:
    """What to divide each channel by, in (0, 1]; None where that is not worth it."""
    largest = float(high.max())
    if largest <= 0.0 or not all(takes(reader, high.size) for reader in site.readers):
        return None
    energy = sum(_energy(reader, high.size) for reader in site.readers)
    shifts = [float(np.abs(affine.shift).max()) for affine in map(read, site.sums) if affine is not None]
    # What is rounded: the input, the output and every sum, or the last of them alone.
    ends = [(-SWISH_OFFSET / SWISH_SLOPE, high), (_LOWEST, high), *((_LOWEST - s, high + s) for s in shifts)]
    ends = ends[-1:] if scheme.fuses_chains else ends
    errors = []
    for share in _SHARES:
        scale = _stepped(high / largest, share)
        widths = [max((above / scale).max(), 0.0) - (below / scale).min() for below, above in ends]
        errors.append(sum(width**2 for width in widths) * float(np.sum(energy * scale**2)))
    best = int(np.argmin(errors))
    worthwhile = _WORTHWHILE_FUSED if scheme.fuses_chains else _WORTHWHILE
    return _stepped(high / largest, _SHARES[best]) if errors[best] < worthwhile * errors[0] else None


def _stepped(scale: np.ndarray, least: float) -> np.ndarray:
    return np.asarray(np.ceil(np.clip(scale, least, 1.0) * 255 - 1e-6) / 255)


def _energy(reader: ir.Node, channels: int) -> np.ndarray:
    """The squares of the weights that each input channel meets, summed."""
    weight = constant(reader.inputs[1])
    assert weight is not None and reader.op_type in WEIGHTED
    squares = weight.astype(np.float64) ** 2
    if reader.op_type == "ConvTranspose":
        return np.asarray(squares.reshape(channels, -1).sum(axis=1))
    groups = reader.attributes.get_int("group", 1)
    grouped = squares.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return np.asarray(grouped.sum(axis=(1, 3)).reshape(-1))


def _write(graph: ir.Graph, site: Site, scale: np.ndarray, scheme: Scheme) -> None:
    """Scale the layers around, and put the gate in the place of the HardSwish, or a product behind it."""
    data = site.node.inputs[0]
    assert data is not None and data.shape is not None
    for reader in site.readers:
        fold_before(graph, reader, scale, np.zeros(1))
    rank = len(data.shape)
    for added in site.sums:
        affine = read(added)
        assert affine is not None
        index = 1 if added.inputs[0] is affine.data else 0
        number = _by_channel(graph, f"{added.outputs[0].name}_even", affine.shift / scale, rank)
        added.replace_input_with(index, number)
    if scheme.fuses_chains:
        _write_product(graph, site.node, scale, rank)
    else:
        fold_behind(graph, site.maker, 1 / scale, np.zeros(1))
        _write_gate(graph, site.node, scale, rank)


def _write_product(graph: ir.Graph, node: ir.Node, scale: np.ndarray, rank: int) -> None:
    output = node.outputs[0]
    readers = list(output.uses())
    factor = _by_channel(graph, f"{output.name}_even", 1 / scale, rank)
    scaled = ir.node("Mul", [output, factor], name=f"{output.name}_scaled")
    _insert(graph, node, [scaled])
    for reader, index in readers:
        reader.replace_input_with(index, scaled.outputs[0])


def _write_gate(graph: ir.Graph, node: ir.Node, scale: np.ndarray, rank: int) -> None:
    data, output = node.inputs[0], node.outputs[0]
    stem = str(output.name)
    slanted = ir.node("Mul", [data, _by_channel(graph, f"{stem}_even", scale, rank)], name=f"{stem}_slant")
    line = {"alpha": SWISH_SLOPE, "beta": SWISH_OFFSET}
    gate = ir.node("HardSigmoid", [slanted.outputs[0]], attributes=line, name=f"{stem}_gate")
    gated = ir.node("Mul", [data, gate.outputs[0]], name=f"{stem}_gated")
    _insert(graph, node, [slanted, gate, gated])
    output.replace_all_uses_with(gated.outputs[0])
    graph.remove(node, safe=True)


def _insert(graph: ir.Graph, after: ir.Node, nodes: list[ir.Node]) -> None:
    """Put nodes behind one whose output's type and shape theirs have."""
    for new in nodes:
        new.outputs[0].name = f"{new.name}_output"
        new.outputs[0].type, new.outputs[0].shape = after.outputs[0].type, after.outputs[0].shape
    graph.insert_after(after, nodes)


def _by_channel(graph: ir.Graph, name: str, array: np.ndarray, rank: int) -> ir.Value:
    """A constant of one number a channel, for tensors of that rank."""
    return initializer(graph, name, array.reshape(-1, *(1,) * (rank - 2)).astype(np.float32))
