"""Preparation: everything int8 needs to know, from one pass over the calibration samples.

Ranges of the tensors that carry scales, and for each weighted layer integers whose output is closest to the float
layer's, with the shift that they cause in its mean output.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Event

import numpy as np
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from edgepack.data.samples import Samples
from edgepack.device import available_cores
from edgepack.errors import SamplesError
from edgepack.model import Model, constant
from edgepack.passes import Step, told
from edgepack.passes.correct_bias import ChannelMean, mean_outputs
from edgepack.passes.equalize import equalize
from edgepack.passes.equalize_swish import equalize_swish, reaches
from edgepack.passes.pad_channels import pad_channels
from edgepack.passes.placement import bias_in, place, tail
from edgepack.passes.quantize import SMALLEST_SCALE, Rounded, activation_grid, bias_floor, refuse_empty
from edgepack.passes.round_weights import round_matrix
from edgepack.passes.scale_groups import LAYERS, NORMS
from edgepack.quantization.layer import channel_axis, from_matrix, to_matrix
from edgepack.statistics.choose_range import choose_ranges
from edgepack.statistics.extent import Extent
from edgepack.statistics.moments import Moments
from edgepack.statistics.stream import MEMORY, stream
from edgepack.target import Scheme

# The share of zeros among a layer's weights from which on they are meant.
_SPARSE = 0.4


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Which steps of preparation are taken; docs/quantization.md says what each is worth.

    Attributes:
        equalize: like ranges for the channels of a tensor (passes/equalize.py).
        smooth: the same between normalizations and layers, as in Transformers.
        swish: the same through HardSwish (passes/equalize_swish.py).
        ranges: how each tensor's range is chosen (statistics/choose_range.py).
        rounding: weights rounded so that outputs change least; else to nearest.
        bias: biases corrected (passes/correct_bias.py).
    """

    equalize: bool = True
    smooth: bool = True
    swish: bool = True
    ranges: str = "minmax"
    rounding: bool = True
    bias: bool = True


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """`extents` and `ranges` by tensor, `layers` by the name of a weighted node's output, all of `model`.

    `model` is the float model that was observed, and is to be quantized; `steps` are what was done to it. `means` are
    the mean outputs by which biases are corrected.
    `unseen` are the layers that no sample reached, which are to stay float.
    """

    model: Model
    extents: dict[str, Extent]
    ranges: dict[str, tuple[float, float]]
    layers: dict[str, Rounded] = field(default_factory=dict)
    means: dict[str, np.ndarray] = field(default_factory=dict)
    samples: int
    steps: tuple[Step, ...] = ()
    unseen: frozenset[str] = frozenset()

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(step.note for step in self.steps)


def prepare(
    model: Model,
    scheme: Scheme,
    samples: Samples,
    *,
    held: Samples | None = None,
    steps: Steps = Steps(),
    memory: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Observe the float model over the samples and round its weights.

    Args:
        held: samples that only ranges see, nothing else.
        steps: those that are taken; correcting biases layer upon layer is passes/correct_bias.py's own.
        memory: bytes that observing may take beyond the float model.

    Raises:
        UnsupportedOperator: nothing in the model can be quantized; it says why.
        SamplesError: a tensor becomes NaN or infinite, or is empty on every sample.
    """
    model, taken = _evened(model, scheme, samples, steps, memory)
    placement = place(model, scheme)
    refuse_empty(placement)
    extents = [Extent(tensor=name, samples=samples.count) for name in placement.tensors]
    sharing: defaultdict[tuple[object, ...], list[ir.Node]] = defaultdict(list)
    for node in placement.weighted:
        if _is_matrix(node):
            sharing[_use(node)].append(node)
    moments = [Moments(node=nodes[0], samples=samples.count) for nodes in sharing.values()] if steps.rounding else []
    layers: dict[str, Rounded] = {}
    seen: dict[str, Extent] = {}
    means = mean_outputs(model, scheme) if steps.bias else []
    observers: list[Extent | Moments | ChannelMean] = [*extents, *moments]
    for finished in stream(model, observers, samples, memory, progress, briefly=means, lasting=extents, more=held):
        seen.update({observer.tensor: observer for observer in finished if isinstance(observer, Extent)})
        todo = [observer for observer in finished if isinstance(observer, Moments) and observer.followed]
        todo.sort(key=lambda observer: -sum(block.size for block in observer.second))  # or the last one works alone
        with threadpool_limits(1, "blas"), workers() as (pool, stop):
            jobs = [pool.submit(_round, observer, seen, scheme, stop) for observer in todo]
            for observer, job in zip(todo, jobs, strict=True):
                for node in sharing[_use(observer.node)]:
                    layers[str(node.outputs[0].name)] = job.result()
        for observer in todo:
            observer.second.clear()
    if not steps.bias:
        layers = {name: replace(rounded, shift=None) for name, rounded in layers.items()}
    unseen = _unseen(model, scheme, {name for name, extent in seen.items() if extent.low > extent.high}, samples)
    placement = place(model, scheme, unseen)
    return Prepared(
        model=model,
        extents=seen,
        ranges=choose_ranges(seen, placement.tensors, steps.ranges, placement.limits),
        layers=layers,
        means={observer.tensor: observer.mean for observer in means},
        samples=samples.count,
        steps=taken,
        unseen=unseen,
    )


@contextmanager
def workers() -> Iterator[tuple[ThreadPoolExecutor, Event]]:
    """Threads that stop where the one that waits for them is interrupted: a large layer takes minutes."""
    stop = Event()
    with ThreadPoolExecutor(min(available_cores(), 4)) as pool:
        try:
            yield pool, stop
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _evened(
    model: Model, scheme: Scheme, samples: Samples, steps: Steps, memory: int
) -> tuple[Model, tuple[Step, ...]]:
    """The model with its channels padded and evened out, which changes no float answer; and what was done."""
    results = [pad_channels(model, scheme.channel_multiple)]
    names = ["pad_channels"]
    makers = (LAYERS if steps.equalize else frozenset()) | (NORMS if steps.smooth else frozenset())
    # What HardSwish reads cannot be scaled through it, so equalization leaves it as it is.
    seen = reaches(results[-1].model, scheme) if steps.swish else []
    if makers:
        results.append(equalize(results[-1].model, scheme, samples, makers, also=seen, memory=memory))
        names.append("equalize")
    if steps.swish:
        results.append(equalize_swish(results[-1].model, scheme, samples, memory, seen))
        names.append("equalize_swish")
    before = [model, *(result.model for result in results)]
    return results[-1].model, told(
        result.step(name, was) for name, result, was in zip(names, results, before, strict=False)
    )


def _unseen(model: Model, scheme: Scheme, empty: set[str], samples: Samples) -> frozenset[str]:
    """The layers that read or write what was empty on every sample, and so has no range."""
    if not empty:
        return frozenset()
    weighted = place(model, scheme).weighted
    unseen = frozenset(
        str(node.outputs[0].name)
        for node in weighted
        if {node.inputs[0].name, tail(node, scheme).name} & empty  # type: ignore[union-attr]
    )
    left = empty & place(model, scheme, unseen).tensors.keys()
    if left or len(unseen) == len(weighted):
        raise SamplesError(
            f"tensor {min(left or empty)!r} is empty on every sample of {samples.source}",
            "add samples that reach that part of the model, or build it with --precision fp32",
        )
    return unseen


def _use(node: ir.Node) -> tuple[object, ...]:
    """A weight, and how the node multiplies with it: nodes alike in both share its integers."""
    weight, group = node.inputs[1], node.attributes.get_int("group", 1)
    return weight.name, node.op_type, group, channel_axis(node, constant(weight))  # type: ignore[union-attr, arg-type]


def _is_matrix(node: ir.Node) -> bool:
    weight = constant(node.inputs[1])
    return weight is not None and (weight.ndim == 2 or node.op_type in ("Conv", "ConvTranspose"))


def _round(moments: Moments, extents: dict[str, Extent], scheme: Scheme, stop: Event) -> Rounded:
    node = moments.node
    weight = constant(node.inputs[1])
    assert weight is not None
    matrix = to_matrix(node, weight)
    extent = extents[moments.tensor]
    # A range that is chosen later may be down to a fifth of what was seen.
    step = 0.2 * float(activation_grid(extent.low, extent.high, scheme).scale)
    floor = np.full(matrix.shape[:2], max(SMALLEST_SCALE / step, scheme.least_scale))
    bias = bias_in(node, scheme)
    if bias is not None and scheme.bias_bits == 32:
        floor = np.maximum(floor, bias_floor(bias, step).reshape(matrix.shape[:2]))
    # Where a bias can make up for the mean, only the deviation from it counts.
    correctable = node.op_type != "MatMul"
    blocks = [moments.covariance(index, centered=correctable) for index in range(len(moments.blocks))]
    tied = channel_axis(node, weight) is None
    zeros = matrix == 0
    # Zeros in a pattern, or pruned away, are worth something only as zeros.
    kept = ~zeros if zeros.mean() >= _SPARSE else None
    integers, scale = round_matrix(matrix, blocks, scheme.weight_bits, floor, tied=tied, kept=kept, stop=stop)
    shift = None
    if correctable:
        got, wanted = (np.einsum("gok,gk->go", array, moments.mean) for array in (integers, matrix))
        shift = (got * scale - wanted).reshape(-1)
    return Rounded(
        integers=np.ascontiguousarray(from_matrix(node, integers, weight.shape)),
        scale=scale.reshape(-1)[:1].reshape(()) if tied else scale.reshape(-1),
        shift=shift,
    )
