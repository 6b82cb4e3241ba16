"""Figures: how far answers are apart. Python 3.8."""

import math

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
