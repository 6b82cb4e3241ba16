"""How many channels each group keeps: as few as the budget asks for, where they cost least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgepack.device import CHANNELS

# Places from which a layer is a wide one.
_WIDE_FROM = 256
# No group is left with less than this share of its channels.
_LEAST = 1 / 8
_LEVELS = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 1 / 8)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What the model's output loses when one group keeps so many channels, all others being whole.

    `counts` fall from the group's width, `errors` rise from 0. `steps` are the counts that may be kept, falling.
    """

    counts: tuple[int, ...]
    errors: tuple[float, ...]
    steps: tuple[int, ...]

    def at(self, counts: Sequence[int]) -> np.ndarray:
        """Errors between the measured counts: amplitudes are interpolated."""
        amplitudes = np.sqrt(np.maximum.accumulate(self.errors))
        return np.asarray(np.square(np.interp(counts, self.counts[::-1], amplitudes[::-1])))


def allowed(width: int, places: int, channels: tuple[int, int] = CHANNELS) -> tuple[int, ...]:
    """The counts that a group may keep, its width first.

    Args:
        width: channels of the group.
        places: how many places of a layer's output go with each.
        channels: what a layer's places stay a multiple of, if it is narrow and if it is wide.
    """
    quantum = channels[width * places >= _WIDE_FROM]
    step = quantum // int(np.gcd(quantum, places))
    least = max(1, int(np.ceil(width * _LEAST)))
    return (width, *(count for count in range((width - 1) // step * step, 0, -step) if count >= least))


def levels_of(steps: Sequence[int]) -> tuple[int, ...]:
    """The counts at which a group is measured: those next to even shares of its width, falling."""
    wanted = {min(steps[1:], key=lambda count: abs(count - share * steps[0])) for share in _LEVELS} if steps[1:] else ()
    return tuple(sorted(wanted, reverse=True))


def spread(curves: Sequence[Curve], size: Callable[[np.ndarray], float], wanted: float) -> np.ndarray | None:
    """Counts by group whose `size` is at most `wanted`, with the least sum of errors that single steps find.

    Each step takes the channels whose error is smallest for what they save; it may pass over counts that are no
    bargain. None where even the smallest counts are too large.
    """
    counts = np.array([curve.steps[0] for curve in curves])
    errors = [curve.at(curve.steps) for curve in curves]
    place = np.zeros(len(curves), np.intp)
    now = size(counts)
    while now > wanted:
        best: tuple[float, int, int] | None = None
        for number, curve in enumerate(curves):
            after = list(curve.steps[place[number] + 1 :])
            if not after:
                continue
            trial = counts.copy()
            trial[number] = after[0]
            saved = (now - size(trial)) / (counts[number] - after[0])  # a channel
            if saved <= 0:
                continue
            added = errors[number][place[number] + 1 :] - errors[number][place[number]]
            prices = np.maximum(added, 1e-12) / (saved * (counts[number] - np.array(after)))
            cheapest = int(np.argmin(prices))
            if best is None or prices[cheapest] < best[0]:
                best = float(prices[cheapest]), number, cheapest + 1
        if best is None:
            return None
        _, number, step = best
        # A bargain may be more than is asked for: then only as far as needed.
        for _ in range(step):
            place[number] += 1
            counts[number] = curves[number].steps[place[number]]
            now = size(counts)
            if now <= wanted:
                break
    return _given_back(curves, errors, place, size, wanted)


def _given_back(
    curves: Sequence[Curve], errors: Sequence[np.ndarray], place: np.ndarray, size: Callable[[np.ndarray], float],
    wanted: float,
) -> np.ndarray:  # fmt: skip
    """The last step may have gone too far: what fits into the rest of the budget is taken back."""
    while True:
        best: tuple[float, int, int] | None = None
        for number, curve in enumerate(curves):
            for back in range(int(place[number])):
                counts = np.array([known.steps[at] for known, at in zip(curves, place, strict=True)])
                counts[number] = curve.steps[back]
                gain = float(errors[number][place[number]] - errors[number][back])
                if size(counts) <= wanted:
                    if best is None or gain > best[0]:
                        best = gain, number, back
                    break
        if best is None or best[0] <= 0:
            return np.array([known.steps[at] for known, at in zip(curves, place, strict=True)])
        place[best[1]] = best[2]
