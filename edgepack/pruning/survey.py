"""What each group costs: its channels in the order in which they go, and what the model's output loses with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from edgepack.data.samples import Feed, Samples, subset
from edgepack.data.samples import spread as places
from edgepack.device import CHANNELS
from edgepack.model import Model, constant
from edgepack.pruning.consumers import Watch, consumers
from edgepack.pruning.distance import distance
from edgepack.pruning.groups import Dependencies, Group
from edgepack.pruning.importance import NAMES, Level, by_norm, levels
from edgepack.pruning.rules import name
from edgepack.pruning.sizes import Sizes, sizes
from edgepack.pruning.spread import Curve, allowed, levels_of
from edgepack.pruning.surgery import cut
from edgepack.pruning.taylor import by_gradient, taylor
from edgepack.pruning.weights import bias_of, set_layer
from edgepack.quantization.layer import to_matrix
from edgepack.reference import Session
from edgepack.statistics.stream import stream

# Samples that statistics, and what is measured, come from at most.
MOST = 1024
_MEASURED = 64
# Seconds that measuring all groups should take.
_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Of one model: everything that pruning to any budget needs.

    `orders` hold each group's units in the order in which they go, as far as the smallest count allowed; `held` are
    samples that statistics have not seen; `everything` is both.
    """

    model: Model
    found: Dependencies
    size: Sizes
    watches: Mapping[str, Watch] = field(repr=False)
    curves: tuple[Curve, ...]
    orders: tuple[np.ndarray, ...]
    samples: Samples
    held: Samples
    everything: Samples

    def reading(self, group: Group) -> list[Watch]:
        return [self.watches[one] for one in group.consumers if one in self.watches]

    @property
    def approximated(self) -> frozenset[str]:
        """Layers whose levels are not the least-squares ones."""
        return frozenset(one for one, watch in self.watches.items() if watch.consumer.approximate)

    @property
    def widths(self) -> np.ndarray:
        return np.array([group.width for group in self.found.groups])

    def level(self, number: int, count: int) -> Level:
        """A group with so many channels left."""
        group, order = self.found.groups[number], self.orders[number]
        return levels(group, self.reading(group), [count], order)[0]


def halves(samples: Samples) -> tuple[Samples, Samples]:
    """Samples for statistics, and others, a fifth, that are held aside to measure on."""
    chosen = places(samples.count, MOST)
    if len(chosen) < 5:  # too few to spare any
        return subset(samples, chosen), subset(samples, chosen)
    held = [place for number, place in enumerate(chosen) if number % 5 == 2]
    return subset(samples, sorted(set(chosen) - set(held))), subset(samples, held)


def survey(
    model: Model,
    found: Dependencies,
    samples: Samples,
    importance: str = "second-order",
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    channels: tuple[int, int] = CHANNELS,
) -> Survey:
    """Look at each group by itself.

    Args:
        model: the one the dependencies were found in.
        importance: one of importance.NAMES.
        channels: what layers keep a multiple of, narrow and wide ones.
    """
    assert importance in NAMES
    seen, held = halves(samples)
    known = consumers(model, found)
    watches = {one: Watch(consumer=reader, samples=seen.count) for one, reader in known.items()}
    for _ in stream(model, list(watches.values()), seen):
        pass
    watches = {one: watch for one, watch in watches.items() if watch.followed and watch.moments.rows > 1}
    step_counts = [allowed(group.width, group.places, channels) for group in found.groups]
    measured = _Measured.of(model, held, sum(len(levels_of(steps)) for steps in step_counts))
    order_of = _order(model, found, seen, importance)
    curves, orders = [], []
    with threadpool_limits(1, "blas"):
        for number, (group, steps) in enumerate(zip(found.groups, step_counts, strict=True)):
            progress(number, len(found.groups))
            reading = [watches[one] for one in group.consumers if one in watches]
            tried = levels(group, reading, levels_of(steps), order_of(group, bool(reading)))
            errors = [measured.error(small(model, found, [level])) for level in tried]
            curves.append(Curve(counts=(group.width, *levels_of(steps)), errors=(0.0, *errors), steps=steps))
            orders.append(tried[-1].gone if tried else group.units[:0])
    return Survey(
        model=model, found=found, size=sizes(model, found), watches=watches, curves=tuple(curves),
        orders=tuple(orders), samples=seen, held=held,
        everything=subset(samples, places(samples.count, MOST)),
    )  # fmt: skip


def _order(
    model: Model, found: Dependencies, samples: Samples, importance: str
) -> Callable[[Group, bool], np.ndarray | None]:
    """In which order a group's units go, by the group and whether anything is known of its readers; None: as
    importance.levels finds it."""
    if importance == "taylor":
        gradients = taylor(model, found, samples)
        return lambda group, read: by_gradient(gradients, group)
    if importance == "second-order":
        return lambda group, read: None if read else by_norm(model, found, group, 2)
    return lambda group, read: by_norm(model, found, group, 1 if importance == "l1" else 2)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """The model, to be run with some layers changed, and what it answers as it is."""

    model: Model
    feeds: Sequence[Feed]
    answers: Sequence[Feed]

    @classmethod
    def of(cls, model: Model, samples: Samples, times: int) -> _Measured:
        session = Session(model)
        feeds = list(samples.batches(samples.batch()))[: -(-_MEASURED // samples.batch())]
        session.run(feeds[0])
        start = time.perf_counter()
        answers = [session.run(feed) for feed in feeds]
        share = _SECONDS / max(times * (time.perf_counter() - start), 1e-9)
        count = max(1, min(len(feeds), int(len(feeds) * share)))
        return cls(model=model, feeds=feeds[:count], answers=answers[:count])

    def error(self, changed: Model) -> float:
        session = Session(changed)
        return distance(self.answers, [session.run(feed) for feed in self.feeds])


def small(
    model: Model, found: Dependencies, chosen: Sequence[Level], *, refitted: bool = True, but: Collection[str] = ()
) -> Model:
    """The model without the channels that go, and with the layers behind them as the levels have them.

    Args:
        but: layers (by output) that keep their weights.
    """
    keep = np.ones(found.units, bool)
    for level in chosen:
        keep[level.gone] = False
    if not refitted:
        return cut(model, found, keep)
    changed = model.clone()
    for node in changed.ir.graph:
        output = name(node.outputs[0])
        moves = [level for level in chosen if output in level.weights and output not in but]
        if moves:
            weight = constant(node.inputs[1])
            assert weight is not None
            whole = to_matrix(node, weight)
            matrix = whole + sum(level.weights[output] - whole for level in moves)
            shift = np.asarray(sum(level.shifts[output] for level in moves)).reshape(-1)
            set_layer(changed.ir.graph, node, matrix, bias_of(node, len(shift)) + shift)
    return cut(changed, found, keep)
