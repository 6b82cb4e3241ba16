"""Figures: how far answers are apart, and how long they took. Python 3.8."""

import math
import statistics

# Two equal arrays have no error; a decibel figure needs a number all the same.
EXACT_DB = 200.0


def sqnr_db(reference, actual):
    """Signal to quantization noise ratio in dB over all elements; EXACT_DB where nothing differs."""
    import numpy as np

    reference = np.asarray(reference, np.float64)
    noise = float(np.sum((reference - np.asarray(actual, np.float64)) ** 2))
    signal = float(np.sum(reference**2))
    return decibels(signal, noise)


def decibels(signal, noise):
    """Ratio of two sums of squares in dB, within ±EXACT_DB."""
    if noise == 0:
        return EXACT_DB
    if signal == 0 or not math.isfinite(noise) or not math.isfinite(signal):
        return -EXACT_DB
    return max(-EXACT_DB, min(EXACT_DB, 10 * math.log10(signal / noise)))


def relative_error(reference, actual):
    """Largest difference over the largest magnitude of the reference."""
    import numpy as np

    reference = np.asarray(reference, np.float64)
    if reference.size == 0:
        return 0.0
    difference = float(np.max(np.abs(reference - np.asarray(actual, np.float64))))
    largest = float(np.max(np.abs(reference)))
    return difference / largest if largest > 0 else difference


def flat(arrays):
    import numpy as np

    return np.concatenate([np.asarray(array).reshape(-1) for array in arrays])


def summary(milliseconds):
    """Percentiles of latencies in milliseconds."""
    import numpy as np

    p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99])
    return {
        "count": len(milliseconds),
        "mean_ms": float(np.mean(milliseconds)),
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "min_ms": float(np.min(milliseconds)),
        "max_ms": float(np.max(milliseconds)),
        "throughput_per_s": 1000.0 / float(np.mean(milliseconds)),
    }


def ratio(baseline, model, seed=0):
    """How many times faster the model is, with a 95 % interval.

    Both ran in each round, one right after the other, so that what slows the machine slows both; the figure is the
    median over rounds of the ratio of medians. A process has its own luck with memory and caches, so the interval
    is a percentile bootstrap over pairs of processes, then over their rounds (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993; Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, 2013).

    Args:
        baseline, model: [process][round][run] in milliseconds.
    """
    import numpy as np

    pairs = [
        np.array([statistics.median(b) / statistics.median(m) for b, m in zip(before, after)])
        for before, after in zip(baseline, model)
    ]
    random = np.random.default_rng(seed)
    medians = []
    for _ in range(1000):
        picked = [pairs[index] for index in random.integers(0, len(pairs), len(pairs))]
        medians.append(np.median(np.concatenate([random.choice(rounds, len(rounds)) for rounds in picked])))
    low, high = np.percentile(medians, [2.5, 97.5])
    return {
        "median": float(np.median(np.concatenate(pairs))),
        "low": float(low),
        "high": float(high),
        "rounds": sum(len(rounds) for rounds in pairs),
        "processes": len(pairs),
    }
