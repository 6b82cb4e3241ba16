"""Rounding of one layer's weights so that its output, not its weights, changes least.

The error of a channel is eᵀ·H·e, with e its rounding error and H the second moments of the layer's input. The scale is
the one with the smallest such error for nearest rounding; then the columns are rounded one by one, each error being
made up for by the columns still to come (Frantar & Alistarh, "Optimal Brain Compression", 2022, and Frantar et al.,
"GPTQ", 2022); then the scale is fitted once more, and single weights are moved by a step while that helps (coordinate
descent, as in Behdin et al., "QuantEase", 2023).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import CancelledError
from threading import Event

import numpy as np

# Share of the mean diagonal that is added to H: measured to matter little between 0.001 and 0.1.
_DAMPING = 0.01
_LAZY = 64
# Weights that are rounded at once; each takes about 60 bytes meanwhile.
_AT_ONCE = 1 << 24
# Scales that are tried, as shares of the one that just holds the largest weight.
_COARSE = np.geomspace(0.05, 1.0, 14)
_FINE = np.array([-0.6, -0.3, 0.3, 0.6])


def round_matrix(
    weight: np.ndarray,
    moments: Sequence[np.ndarray],
    bits: int,
    floor: np.ndarray | float = 0.0,
    *,
    tied: bool = False,
    sweeps: int = 1,
    kept: np.ndarray | None = None,
    stop: Event | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Integers and scales for one layer.

    Args:
        weight: [G, O, K].
        moments: H in blocks along K, each [G, K_b, K_b].
        floor: the smallest allowed scales, [G, O].
        tied: one scale for all channels.
        kept: the weights that may be other than zero, [G, O, K]; all if not given.
        stop: once set, nobody waits for the result any more.

    Returns:
        int8 [G, O, K], float32 scales [G, O].

    Raises:
        CancelledError: `stop` is set.
    """
    stop = stop or Event()
    groups, outputs, columns = weight.shape
    count = outputs if tied else max(1, _AT_ONCE // (groups * columns))
    floors = np.broadcast_to(floor, (groups, outputs))
    masks = np.broadcast_to(np.True_ if kept is None else kept, weight.shape)

    def part(channels: slice) -> tuple[np.ndarray, np.ndarray]:
        return _round_channels(
            weight[:, channels], moments, bits, floors[:, channels], tied, sweeps, masks[:, channels], stop
        )

    parts = [part(slice(start, start + count)) for start in range(0, outputs, count)]
    return np.concatenate([part[0] for part in parts], axis=1), np.concatenate([part[1] for part in parts], axis=1)


def _round_channels(
    weight: np.ndarray,
    moments: Sequence[np.ndarray],
    bits: int,
    floor: np.ndarray,
    tied: bool,
    sweeps: int,
    kept: np.ndarray,
    stop: Event,
) -> tuple[np.ndarray, np.ndarray]:
    """`round_matrix` for some of the channels, which do not depend on each other unless they are tied."""
    limit = 2 ** (bits - 1) - 1
    weight = weight.astype(np.float64)
    edges = np.cumsum([0, *(block.shape[-1] for block in moments)])
    blocks = [slice(a, b) for a, b in itertools.pairwise(edges)]
    damped = [damp(block) for block in moments]
    scale = search_scale(weight, damped, blocks, limit, floor, tied=tied, stop=stop)
    start = np.clip(np.rint(weight / scale[:, :, None]), -limit, limit)
    integers, first = np.empty_like(weight), scale
    for block, h in zip(blocks, damped, strict=True):
        integers[:, :, block] = _compensated(weight[:, :, block], h, scale, limit, kept[:, :, block], stop)
    for _ in range(sweeps):
        scale = _fitted(weight, integers, damped, blocks, scale, floor, tied=tied)
        for block, h in zip(blocks, damped, strict=True):
            part = (weight[:, :, block], integers[:, :, block], h, scale, limit, kept[:, :, block], stop)
            integers[:, :, block] = _descended(*part)
    plain, ours = (_error(q * s[:, :, None] - weight, damped, blocks) for q, s in ((start, first), (integers, scale)))
    worse = ours > plain
    if tied:
        worse = np.full_like(worse, ours.sum() > plain.sum())
    integers = np.where(worse[:, :, None], start, integers)
    return integers.astype(np.int8), np.where(worse, first, scale).astype(np.float32)


def damp(h: np.ndarray, share: float = _DAMPING) -> np.ndarray:
    """Second moments [G, K, K] with `share` of the mean diagonal on it: positive definite, however few patches or dead
    inputs there were."""
    diagonal = np.einsum("gkk->gk", h)
    mean = diagonal.mean(axis=1, keepdims=True)
    extra = np.where(mean > 0, share * mean, 1.0)
    result = h.copy()
    columns = np.arange(h.shape[-1])
    result[:, columns, columns] = np.maximum(diagonal, 0) + extra
    return result


def _error(e: np.ndarray, damped: Sequence[np.ndarray], blocks: Sequence[slice]) -> np.ndarray:
    """eᵀ·H·e by channel, [G, O], in float32: only compared."""
    total = np.zeros(e.shape[:2], np.float32)
    for block, h in zip(blocks, damped, strict=True):
        part = np.asarray(e[:, :, block], np.float32)
        total += np.einsum("gok,gok->go", part @ np.asarray(h, np.float32), part)
    return total


def search_scale(
    weight: np.ndarray,
    damped: Sequence[np.ndarray],
    blocks: Sequence[slice],
    limit: int,
    floor: np.ndarray | float,
    *,
    tied: bool,
    stop: Event,
) -> np.ndarray:
    """The scale of each channel whose nearest rounding errs least, [G, O]."""
    largest = np.abs(weight).max(axis=2)
    if tied:
        largest = np.full_like(largest, largest.max())
    full = np.maximum(largest / limit, floor)
    full = np.where(full > 0, full, 1.0)
    # Only compared, so float32 will do, in half the time.
    weight, damped = weight.astype(np.float32), [h.astype(np.float32) for h in damped]

    def cost(share: np.ndarray) -> np.ndarray:
        _go_on(stop)
        scale = np.maximum(full * share, floor)[:, :, None].astype(np.float32)
        rounded = np.clip(np.rint(weight / scale), -limit, limit) * scale
        error = _error(rounded - weight, damped, blocks)
        return np.full_like(error, error.sum()) if tied else error

    best, lowest = np.ones_like(full), cost(np.ones_like(full))
    for share in _COARSE[:-1]:
        trial = np.full_like(full, share)
        error = cost(trial)
        better = error < lowest
        best, lowest = np.where(better, trial, best), np.where(better, error, lowest)
    ratio = _COARSE[1] / _COARSE[0]
    center = best
    for step in _FINE:
        trial = np.minimum(center * ratio**step, 1.0)
        error = cost(trial)
        better = error < lowest
        best, lowest = np.where(better, trial, best), np.where(better, error, lowest)
    return np.asarray(np.maximum(full * best, floor))


def _compensated(
    weight: np.ndarray, h: np.ndarray, scale: np.ndarray, limit: int, kept: np.ndarray, stop: Event
) -> np.ndarray:
    """Integers of a block, columns of large moments first, [G, O, K_b]."""
    groups, _, columns = weight.shape
    order = np.argsort(-np.einsum("gkk->gk", h), axis=1, kind="stable")
    rows = np.arange(groups)[:, None]
    work = np.take_along_axis(weight, order[:, None, :], axis=2) / scale[:, :, None]
    kept = np.take_along_axis(kept, order[:, None, :], axis=2)
    factor = inverse_factor(h[rows[:, :, None], order[:, :, None], order[:, None, :]])
    integers = np.empty_like(work)
    for start in range(0, columns, _LAZY):
        _go_on(stop)
        end = min(start + _LAZY, columns)
        errors = np.empty((*work.shape[:2], end - start))
        for k in range(start, end):
            column = work[:, :, k]
            rounded = np.clip(np.rint(column), -limit, limit) * kept[:, :, k]
            integers[:, :, k] = rounded
            error = (column - rounded) / factor[:, None, k, k]
            errors[:, :, k - start] = error
            work[:, :, k + 1 : end] -= error[:, :, None] * factor[:, None, k, k + 1 : end]
        work[:, :, end:] -= errors @ factor[:, start:end, end:]
    result: np.ndarray = np.empty_like(integers)
    np.put_along_axis(result, order[:, None, :], integers, axis=2)
    return result


def inverse_factor(h: np.ndarray) -> np.ndarray:
    """The upper Cholesky factor of H⁻¹, without ever inverting H: flipped, H's own factor is a triangle to invert."""
    damping = 0.0
    flipped = h[:, ::-1, ::-1]
    identity = np.eye(h.shape[-1])
    for _ in range(6):
        try:
            lower = np.linalg.cholesky(flipped + damping * identity)
            break
        except np.linalg.LinAlgError:
            largest = float(np.einsum("gkk->gk", h).max())
            damping = max(10 * damping, 1e-6 * largest)
    else:
        return np.asarray(np.broadcast_to(identity, h.shape))
    # H = U·Uᵀ with U = the flipped lower factor, upper triangular; H⁻¹ = U⁻ᵀ·U⁻¹, whose upper factor is U⁻¹.
    return np.asarray(_inverse(lower)[:, ::-1, ::-1])


def _inverse(lower: np.ndarray) -> np.ndarray:
    """The inverses of lower triangles [G, K, K], by halves: a quarter of the time that a general inverse takes."""
    size = lower.shape[-1]
    if size <= 64:
        return np.asarray(np.tril(np.linalg.inv(lower)))
    half = size // 2
    result = np.zeros_like(lower)
    result[:, :half, :half] = first = _inverse(lower[:, :half, :half])
    result[:, half:, half:] = second = _inverse(lower[:, half:, half:])
    result[:, half:, :half] = -second @ (lower[:, half:, :half] @ first)
    return result


def _fitted(
    weight: np.ndarray,
    integers: np.ndarray,
    damped: Sequence[np.ndarray],
    blocks: Sequence[slice],
    scale: np.ndarray,
    floor: np.ndarray | float,
    *,
    tied: bool,
) -> np.ndarray:
    """The scale that errs least for given integers: (w·H·q) / (q·H·q)."""
    both, own = np.zeros_like(scale), np.zeros_like(scale)
    for block, h in zip(blocks, damped, strict=True):
        weighted = integers[:, :, block] @ h
        both += np.einsum("gok,gok->go", weighted, weight[:, :, block])
        own += np.einsum("gok,gok->go", weighted, integers[:, :, block])
    if tied:
        both, own = np.full_like(both, both.sum()), np.full_like(own, own.sum())
    fitted = np.divide(both, own, out=scale.copy(), where=own > 0)
    # A fit far off means next to no signal in that channel.
    sane = (fitted > 0.5 * scale) & (fitted < 2 * scale)
    return np.asarray(np.maximum(np.where(sane, fitted, scale), floor))


def _descended(
    weight: np.ndarray,
    integers: np.ndarray,
    h: np.ndarray,
    scale: np.ndarray,
    limit: int,
    kept: np.ndarray,
    stop: Event,
) -> np.ndarray:
    """One sweep over the columns, each set to its best integer with all others fixed."""
    current = integers.copy()
    target = weight / scale[:, :, None]
    gradient = (target - current) @ h
    diagonal = np.einsum("gkk->gk", h)
    columns = weight.shape[-1]
    for start in range(0, columns, _LAZY):
        _go_on(stop)
        end = min(start + _LAZY, columns)
        moves = np.zeros((*weight.shape[:2], end - start))
        for k in range(start, end):
            best = np.clip(np.rint(current[:, :, k] + gradient[:, :, k] / diagonal[:, None, k]), -limit, limit)
            best = best * kept[:, :, k]
            move = best - current[:, :, k]
            moves[:, :, k - start] = move
            current[:, :, k] = best
            gradient[:, :, k:end] -= move[:, :, None] * h[:, None, k, k:end]
        gradient[:, :, end:] -= moves @ h[:, start:end, end:]
        # Columns before this block are not visited again in this sweep.
    return current


def _go_on(stop: Event) -> None:
    if stop.is_set():
        raise CancelledError
