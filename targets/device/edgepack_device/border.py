"""A model's border: real numbers and the integers that a file takes. Python 3.8."""


def encoded(entry, array):
    """Real numbers as the manifest's `entry` for that input says: integers where it has a `quantization`."""
    import numpy as np

    grid = entry.get("quantization")
    if not grid:
        return np.asarray(array).astype(entry["dtype"])
    limits = np.iinfo(entry["dtype"])
    steps = np.rint(np.asarray(array, np.float32) / np.float32(grid["scale"])) + grid["zero_point"]
    return np.clip(steps, limits.min, limits.max).astype(entry["dtype"])


def restored(entry, array):
    """The real numbers that an input's or output's integers stand for; other arrays as they are."""
    import numpy as np

    grid = entry.get("quantization")
    if not grid:
        return np.asarray(array)
    steps = np.asarray(array, np.float32) - np.float32(grid["zero_point"])
    return (steps * np.float32(grid["scale"])).astype(np.float32)


def by_name(entries):
    return {entry["name"]: entry for entry in entries}
