"""How far answers are from the original's, in one number that can be added up over layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepack.data.samples import Feed


def distance(originals: Sequence[Feed], others: Sequence[Feed]) -> float:
    """Mean over the float outputs: KL divergence where an output holds probabilities, else the squared error as a
    share of the output's variance over the samples."""
    names = [name for name, array in originals[0].items() if isinstance(array, np.ndarray) and array.dtype.kind == "f"]
    found = []
    for name in names:
        if any(one[name].shape != other[name].shape for one, other in zip(originals, others, strict=True)):
            return np.inf
        wide = [
            (one[name].astype(np.float64), other[name].astype(np.float64))
            for one, other in zip(originals, others, strict=True)
        ]
        found.append(_divergence(wide) if probabilities(wide[0][0]) else _error(wide))
    return float(np.mean(found)) if found else 0.0


def probabilities(array: np.ndarray) -> bool:
    return (
        array.ndim >= 2
        and array.shape[-1] > 1
        and bool((array >= 0).all())
        and bool(np.allclose(array.sum(axis=-1), 1.0, atol=1e-3))
    )


def _divergence(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    total = rows = 0.0
    for p, q in pairs:
        logs = np.log(np.maximum(p, 1e-12)) - np.log(np.maximum(q, 1e-12))
        total += float((p * logs).sum())
        rows += p.size / p.shape[-1]
    return total / max(rows, 1.0)


def _error(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    alike = len({one.shape[1:] for one, _ in pairs}) == 1 and sum(len(one) for one, _ in pairs) > 1
    mean = (
        np.concatenate([one for one, _ in pairs]).mean(axis=0) if alike else np.mean([one.mean() for one, _ in pairs])
    )
    error = sum(float(np.square(other - one).sum()) for one, other in pairs)
    signal = sum(float(np.square(one - mean).sum()) for one, _ in pairs)
    return error / max(signal, 1e-30)
