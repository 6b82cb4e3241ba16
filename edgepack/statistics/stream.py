"""Run the float model over samples once and show its tensors to observers, within a memory cap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from threadpoolctl import threadpool_limits

from edgepack.data.samples import Feed, Samples, enough, numbers
from edgepack.device import available_cores
from edgepack.errors import SamplesError
from edgepack.model import Model
from edgepack.reference import Session

Progress = Callable[[int, int], None]
# What observing may take beyond the float model itself, in bytes.
MEMORY = 1_000_000_000
# Samples after which a mean has settled: so many images, and of small samples those that hold so many numbers.
_IMAGES, _MOST = 16, 64
_NUMBERS = 32_768


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
    *,
    briefly: Sequence[AnyObserver] = (),
    lasting: Sequence[AnyObserver] = (),
    more: Samples | None = None,
) -> Iterator[list[AnyObserver]]:
    """Show every tensor that is observed to its observers, sample by sample, in as few runs as `memory` allows.

    Empty arrays are not shown.

    Args:
        briefly: observers that see `few(samples)` only.
        lasting: those of `observers` that see `more` as well, after the samples.

    Yields:
        Observers that have seen all samples, slice by slice; what they keep may be dropped then.

    Raises:
        SamplesError: a tensor becomes NaN or infinite; it names the tensor and the sample.
    """
    everyone = [*observers, *briefly]
    names = list(dict.fromkeys(observer.tensor for observer in everyone))
    batch = samples.batch()
    sizes = {name: size * batch for name, size in _sizes(model, names, samples.read(0)).items()}
    slices = _slices(everyone, names, sizes, memory)
    heaviest = max((sum(sizes[name] for name in part) for part in slices), default=0)
    if heaviest > memory // 2 and batch > 1:
        batch = max(1, int(batch * (memory // 2) / heaviest))
    brief = few(samples).count
    done, total = 0, (samples.count + (more.count if more is not None else 0)) * len(slices)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_cores()) as pool:
        for part in slices:
            wanted, passing = ([one for one in kind if one.tensor in part] for kind in (observers, briefly))
            shown = _Shown.of(model, [*wanted, *passing])
            stages = [(samples, 0, brief, [*wanted, *passing]), (samples, brief, samples.count, wanted)]
            if more is not None:
                stages.append((more, 0, more.count, [one for one in lasting if one.tensor in part]))
            for given, start, stop, looking in stages:
                for seen, feed in _feeds(given, batch, start, stop):
                    if looking:
                        blind = _look(shown.at(feed, looking), looking, pool)
                        if blind is not None:
                            raise _not_finite(shown, blind, given, range(seen, min(seen + batch, stop)))
                    done += min(batch, min(stop, given.count) - seen)
                    if progress:
                        progress(done, total)
            yield [*wanted, *passing]


def few(samples: Samples) -> Samples:
    """The first of the samples, as many as a mean needs."""
    most = min(max(_NUMBERS // numbers(samples), _IMAGES), _MOST)
    return replace(samples, count=enough(samples, most))


def _feeds(samples: Samples, batch: int, start: int, stop: int) -> Iterator[tuple[int, Feed]]:
    """Batches of the samples from `start` to before `stop`, each with the number of its first."""
    for index, feed in enumerate(samples.batches(batch, start, stop)):
        yield start + index * batch, feed


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """The part of a model that leads to some tensors; None if they are all inputs."""

    session: Session | None
    computed: frozenset[str]

    @classmethod
    def of(cls, model: Model, observers: Sequence[Observer]) -> _Shown:
        given = {tensor.name for tensor in model.inputs}
        computed = [name for name in dict.fromkeys(one.tensor for one in observers) if name not in given]
        session = Session(_showing(model, computed)) if computed else None
        return cls(session=session, computed=frozenset(computed))

    def at(self, feed: Feed, observers: Sequence[Observer]) -> Feed:
        """What these observers watch, for that feed."""
        names = sorted({one.tensor for one in observers} & self.computed)
        return {**feed, **(self.session.run(feed, names) if self.session is not None and names else {})}


def _look(shown: Feed, observers: Sequence[AnyObserver], pool: ThreadPoolExecutor) -> AnyObserver | None:
    """The first observer that saw something other than finite numbers."""
    looking = [observer for observer in observers if shown[observer.tensor].size]
    looked = zip(looking, pool.map(partial(_show, shown), looking), strict=True)
    return next((observer for observer, sound in [*looked] if not sound), None)


def _not_finite(shown: _Shown, observer: Observer, given: Samples, joined: range) -> SamplesError:
    """Which of the samples that were joined in a feed the tensor is not finite on."""

    def sound(index: int) -> bool:
        return bool(np.isfinite(shown.at(given.read(index), [observer])[observer.tensor]).all())

    guilty = next((index for index in joined if not sound(index)), joined[0])
    return SamplesError(
        f"tensor {observer.tensor!r} is NaN or infinite on sample {given.place(guilty)} of {given.source}",
        "look at that sample and its preprocessing; the model may overflow on it",
    )


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
