"""What theory leaves open is settled on calibration samples that no weight was rounded by.

Whether narrower ranges help, and whether biases should be corrected layer upon layer or at once, differs from net to
net; in a deep one with sharp answers each choice is worth decibels either way. So five forms are made and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

from edgepack.data.samples import Feed, Samples, spread, subset
from edgepack.metrics.merit import typically_apart
from edgepack.passes.correct_bias import correct_biases, ends_of
from edgepack.passes.logits import logits
from edgepack.passes.placement import place
from edgepack.passes.quantize import Rounded, quantize
from edgepack.quantization.preparation import Prepared
from edgepack.reference import answers_to
from edgepack.statistics.choose_range import choose_ranges
from edgepack.statistics.stream import few
from edgepack.target import Scheme

# Samples held back for this, where there are that many to spare.
HELD = 16
# dB by which another form has to be better than one that comes before it.
_CLEARLY = 0.5
RANGES = ("minmax", "mse", "percentile")
# Of these so many are corrected layer upon layer, which takes most of the time: the better ones at once.
_TRIED = 2


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A preparation with its ranges and its bias correction chosen; `sqnr_db` by form, typical of held-back samples.

    `corrected` are the rounded layers with their biases as they were compared, every layer int8.
    """

    name: str
    ready: Prepared
    scheme: Scheme
    samples: Samples
    sequential: bool
    wanted: Sequence[Feed] | None
    corrected: Mapping[str, Rounded]
    sqnr_db: dict[str, float]

    def layers(
        self, keep_float: frozenset[str] = frozenset(), progress: Callable[[int, int], None] | None = None
    ) -> Mapping[str, Rounded]:
        """The rounded layers with their biases corrected, some layers left float."""
        ready, keep_float = self.ready, keep_float | self.ready.unseen
        if not self.sequential or keep_float == ready.unseen:
            return self.corrected
        return correct_biases(
            logits(ready.model),
            self.scheme,
            ready.ranges,
            ready.layers,
            self.samples,
            keep_float,
            means=ready.means or None,
            wanted=self.wanted,
            progress=progress,
        ).layers


def hold_back(samples: Samples) -> tuple[Samples, Samples]:
    """Samples to prepare with, and some to settle by: others if there are enough, spread over the set; else the same.

    Ranges are to see both (preparation.prepare's `held`): what is clipped because it was held back is no fair trial.
    """
    if samples.count < 2 * HELD:
        samples = _mixed(samples)
        return samples, samples
    held = spread(samples.count, HELD)
    return _mixed(subset(samples, [i for i in range(samples.count) if i not in held])), subset(samples, held)


def _mixed(samples: Samples) -> Samples:
    """The samples with those first that means are taken over, far apart: sets are often sorted by class."""
    first = spread(samples.count, few(samples).count)
    return subset(samples, [*first, *sorted(set(range(samples.count)) - set(first))])


def settle(
    ready: Prepared,
    scheme: Scheme,
    samples: Samples,
    held: Samples,
    progress: Callable[[int, int], None] | None = None,
) -> Settled:
    """Try each choice of ranges with biases corrected at once, and the better of them layer upon layer, all int8.

    Args:
        samples: those that biases are corrected by.
        held: those that forms are compared on; the same, if there are no others.
    """
    alike = held is samples
    held = few(held) if alike else held
    answering = logits(ready.model)
    seen = few(samples)
    feeds = list(held.batches(held.batch()))
    references = answers_to(feeds, answering)
    placement = place(ready.model, scheme, ready.unseen)
    answered = None if alike else feeds
    means = ready.means or None
    wanted = references if alike else None
    if wanted is None and ends_of(answering, ready.layers, ready.unseen):
        wanted = answers_to(list(seen.batches(seen.batch())), answering)
    forms: dict[str, Settled] = {}
    figures: dict[str, float] = {}

    @cache
    def chosen_by(ranges: str) -> dict[str, tuple[float, float]]:
        return choose_ranges(ready.extents, placement.tensors, ranges, placement.limits)

    def attempt(form: tuple[str, bool]) -> tuple[Settled, float]:
        ranges, sequential = form
        chosen = chosen_by(ranges)
        if sequential:
            made = correct_biases(
                answering,
                scheme,
                chosen,
                ready.layers,
                samples,
                ready.unseen,
                answered=answered,
                means=means,
                wanted=wanted,
            )
            layers, answers = made.layers, made.answers
        else:
            layers = ready.layers
            rounded = quantize(answering, scheme, chosen, layers, ready.unseen).model
            answers = answers_to(feeds, rounded, fuse_integers=scheme.fuses_here)
        settled = Settled(
            name=_name(ranges, sequential),
            ready=replace(ready, ranges=chosen),
            scheme=scheme,
            samples=samples,
            sequential=sequential,
            wanted=wanted,
            corrected=layers,
            sqnr_db=figures,
        )
        return settled, typically_apart(answers, references)

    def attempts(tried: Sequence[str], sequential: bool) -> None:
        # Two side by side: what one does in Python leaves a core to the other.
        with ThreadPoolExecutor(2) as pool:
            for form, figure in pool.map(attempt, [(ranges, sequential) for ranges in tried]):
                forms[form.name], figures[form.name] = form, figure
                if progress:
                    progress(len(forms), len(RANGES) + _TRIED)

    attempts(RANGES, False)
    best_first = sorted(RANGES, key=lambda ranges: -figures[_name(ranges, False)])
    attempts(sorted(best_first[:_TRIED], key=RANGES.index), True)
    first = next(name for name in forms if forms[name].sequential)
    best = max(figures, key=lambda name: figures[name])
    return forms[best if figures[best] > figures[first] + _CLEARLY else first]


def _name(ranges: str, sequential: bool) -> str:
    return f"ranges by {ranges}, biases corrected {'layer upon layer' if sequential else 'at once'}"
