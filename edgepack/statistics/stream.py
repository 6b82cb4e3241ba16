"""Run the float model over samples once and show its tensors to observers, within a memory cap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from threadpoolctl import threadpool_limits

from edgepack.device import available_cores
from edgepack.errors import SamplesError
from edgepack.model import Model
from edgepack.reference import Session
from edgepack.samples import Samples

Progress = Callable[[int, int], None]
# What observing may take beyond the float model itself, in bytes.
MEMORY = 1_000_000_000


class Observer(Protocol):
    """Sees one tensor, batch by batch."""

    @property
    def tensor(self) -> str: ...

    @property
    def nbytes(self) -> int:
        """What it keeps."""

    def update(self, array: np.ndarray) -> None:
        """
        Raises:
            FloatingPointError: the array is NaN or infinite somewhere.
        """


AnyObserver = TypeVar("AnyObserver", bound=Observer)


def stream(
    model: Model,
    observers: Sequence[AnyObserver],
    samples: Samples,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Iterator[list[AnyObserver]]:
    """Show every tensor that is observed to its observers, sample by sample, in as few runs as `memory` allows.

    Empty arrays are not shown.

    Yields:
        Observers that have seen all samples, slice by slice; what they keep may be dropped then.

    Raises:
        SamplesError: a tensor becomes NaN or infinite; it names the tensor and the sample.
    """
    names = list(dict.fromkeys(observer.tensor for observer in observers))
    batch = samples.batch()
    sizes = _sizes(model, names, next(iter(samples.batches(batch))))
    slices = _slices(observers, names, sizes, memory)
    heaviest = max((sum(sizes[name] for name in part) for part in slices), default=0)
    if heaviest > memory // 2 and batch > 1:
        batch = max(1, int(batch * (memory // 2) / heaviest))
    done, total = 0, samples.count * len(slices)
    for part in slices:
        wanted = [observer for observer in observers if observer.tensor in part]
        given = {tensor.name for tensor in model.inputs}
        computed = [name for name in part if name not in given]
        session = Session(_showing(model, computed)) if computed else None
        seen = 0
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_cores()) as pool:
            for feed in samples.batches(batch):
                shown = {**feed, **(session.run(feed, computed) if session is not None else {})}
                looking = [observer for observer in wanted if shown[observer.tensor].size]
                for observer, sound in zip(looking, pool.map(partial(_show, shown), looking), strict=True):
                    if not sound:
                        raise SamplesError(
                            f"tensor {observer.tensor!r} is NaN or infinite on sample {seen} of {samples.source}",
                            "look at that sample and its preprocessing; the model may overflow on it",
                        )
                del shown  # before the next run, or there would be two at once
                count = min(batch, samples.count - seen)
                seen, done = seen + count, done + count
                if progress:
                    progress(done, total)
        yield wanted


def _show(shown: Mapping[str, np.ndarray], observer: Observer) -> bool:
    """Whether the observer found nothing but finite numbers."""
    try:
        observer.update(shown[observer.tensor])
    except FloatingPointError:
        return False
    return True


def _slices(observers: Sequence[Observer], names: Sequence[str], sizes: dict[str, int], memory: int) -> list[set[str]]:
    """Tensors in graph order, cut where a slice would keep or show more than the cap."""
    kept = dict.fromkeys(names, 0)
    for observer in observers:
        kept[observer.tensor] += observer.nbytes
    slices: list[set[str]] = []
    weight = memory + 1
    for name in names:
        # A batch can be cut down; what is kept cannot.
        cost = kept[name] + min(sizes[name], memory // 4)
        if weight + cost > memory:
            slices.append(set())
            weight = 0
        slices[-1].add(name)
        weight += cost
    return slices


def _sizes(model: Model, names: Sequence[str], feed: dict[str, np.ndarray]) -> dict[str, int]:
    """Bytes of each tensor for that feed, counted inside the graph so that none has to be fetched."""
    sizes = {name: array.nbytes for name, array in feed.items() if name in names}
    counted = [name for name in names if name not in sizes]
    if not counted:
        return sizes
    observed = model.clone()
    graph = observed.ir.graph
    values = ir.convenience.create_value_mapping(graph)
    graph.outputs.clear()
    for name in counted:
        node = ir.node("Size", [values[name]])
        output = node.outputs[0]
        output.name, output.dtype, output.shape = f"{name}/size", ir.DataType.INT64, ir.Shape([])
        graph.append(node)
        graph.outputs.append(output)
    answer = Session(observed).run(feed)
    return sizes | {name: 4 * int(answer[f"{name}/size"]) for name in counted}


def _showing(model: Model, names: Sequence[str]) -> Model:
    """The part of the model that leads to the named tensors, with them as its outputs."""
    shown = model.clone()
    graph = shown.ir.graph
    values = ir.convenience.create_value_mapping(graph)
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names)
    common.RemoveUnusedNodesPass()(shown.ir)
    return shown
