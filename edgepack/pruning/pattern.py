"""2:4 sparsity of a matrix: in every four neighbouring columns of a row two weights are zero, and the others make up
for them.

The error of a row is eᵀ·H·e, with e its change and H the second moments of the layer's input. Fours are taken one by
one, those of large moments first; of the six pairs that can go, that one goes which costs least once all columns still
to come have made up for it (Hassibi & Stork, "Optimal Brain Surgeon", 1993; column by column as in Frantar & Alistarh,
"SparseGPT", 2023, but with the pair judged as a pair). Then single fours move to another pair while that helps, and in
the end the weights that are kept are fitted exactly, a small system a row.
"""

from __future__ import annotations

import itertools

import numpy as np

from edgepack.passes.round_weights import inverse_factor

OF = 4
_PAIRS = np.array(list(itertools.combinations(range(OF), 2)))
SWEEPS = 4
# Columns that are worked on before the others hear of it; a multiple of OF.
_LAZY = 64
# Numbers that the systems solved at once may hold.
_AT_ONCE = 1 << 25


def largest(weight: np.ndarray) -> np.ndarray:
    """The two largest of every four columns, bool of the shape of `weight` [O, K]."""
    fours = np.abs(weight).reshape(len(weight), -1, OF)
    ranks = np.argsort(np.argsort(-fours, axis=2, kind="stable"), axis=2, kind="stable")
    return np.asarray((ranks < OF // 2).reshape(weight.shape))


def is_two_of_four(weight: np.ndarray) -> bool:
    """Whether no four columns [O, K] hold more than two numbers that are not zero."""
    return bool((np.count_nonzero(weight.reshape(len(weight), -1, OF), axis=2) <= OF // 2).all())


def chosen(weight: np.ndarray, h: np.ndarray, *, sweeps: int = SWEEPS) -> tuple[np.ndarray, np.ndarray]:
    """
    Args:
        weight: [O, K], K a multiple of four.
        h: positive definite, [K, K].

    Returns:
        The mask of the weights that stay, bool [O, K], and weights [O, K] that are zero elsewhere and already make up
        for most.
    """
    power = np.diagonal(h).reshape(-1, OF).sum(axis=1)
    fours = np.argsort(-power, kind="stable")
    order = (OF * fours[:, None] + np.arange(OF)).reshape(-1)
    turned, moments = weight[:, order].astype(np.float64), h[np.ix_(order, order)]
    kept, found = _compensated(turned, moments)
    for _ in range(sweeps):
        kept, found = _descended(turned, found, kept, moments)
    back = np.argsort(order)
    return kept[:, back], found[:, back]


def _compensated(weight: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    work, kept = weight.copy(), np.ones(weight.shape, bool)
    factor = inverse_factor(h[None])[0]
    for start in range(0, weight.shape[1], _LAZY):
        stop = min(start + _LAZY, weight.shape[1])
        moves = np.zeros((len(weight), stop - start))
        for k in range(start, stop, OF):
            here = slice(k, k + OF)
            block = factor[here, here]
            # The inverse of H for these columns and all to come, of which this is the first block.
            inverse = block.T @ block
            four = work[:, here]
            costs, pulls = _by_pair(inverse, four)
            best = costs.argmin(axis=0)
            pull = pulls[best, np.arange(len(weight))] @ block.T  # in the factor's rows
            gone = _PAIRS[best]
            work[:, k:stop] -= pull @ factor[here, k:stop]
            moves[:, k - start : k - start + OF] = pull
            np.put_along_axis(kept[:, here], gone, False, axis=1)
            work[:, here] *= kept[:, here]
        work[:, stop:] -= moves @ factor[start:stop, stop:]
    return kept, work


def _by_pair(system: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of a four, x with system · x = right [O, 4] on that pair alone, and the worth right · x.

    Returns:
        Worths [pairs, O]; solutions [pairs, O, 4], zero beside the pair.
    """
    worths = np.empty((len(_PAIRS), len(right)))
    found = np.zeros((len(_PAIRS), len(right), OF))
    for number, pair in enumerate(_PAIRS):
        solved = np.linalg.solve(system[np.ix_(pair, pair)], right[:, pair].T).T
        worths[number] = np.einsum("op,op->o", solved, right[:, pair])
        found[number][:, pair] = solved
    return worths, found


def _descended(weight: np.ndarray, found: np.ndarray, kept: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One sweep in which every four gets its best two weights with all others as they are."""
    found, kept = found.copy(), kept.copy()
    gradient = (weight - found) @ h
    for start in range(0, weight.shape[1], _LAZY):
        stop = min(start + _LAZY, weight.shape[1])
        moves = np.zeros((len(weight), stop - start))
        for k in range(start, stop, OF):
            here = slice(k, k + OF)
            block = h[here, here]
            # With this four at zero the error falls by q·w − w·H·w/2, w its weights.
            pull = gradient[:, here] + found[:, here] @ block
            gains, forms = _by_pair(block, pull)
            best = gains.argmax(axis=0)
            move = forms[best, np.arange(len(weight))] - found[:, here]
            found[:, here] += move
            kept[:, here] = False
            np.put_along_axis(kept[:, here], _PAIRS[best], True, axis=1)
            gradient[:, k:stop] -= move @ h[here, k:stop]
            moves[:, k - start : k - start + OF] = move
        gradient[:, stop:] -= moves @ h[start:stop, stop:]
    return kept, found


def fitted_kept(weight: np.ndarray, near: np.ndarray, kept: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The weights of a mask that come nearest to `weight` in H, a system a row.

    Args:
        near: [O, K], zero where nothing is kept; where to start from.
        kept: bool [O, K], equally many in each row.
    """
    columns = np.nonzero(kept)[1].reshape(len(kept), -1)
    missing = (weight - near) @ h
    result = near.copy()
    step = max(1, _AT_ONCE // columns.shape[1] ** 2)
    for start in range(0, len(weight), step):
        part = columns[start : start + step]
        rows = np.arange(start, start + len(part))[:, None]
        systems = h[part[:, :, None], part[:, None, :]]
        result[rows, part] += np.linalg.solve(systems, missing[rows, part][:, :, None])[:, :, 0]
    return result
