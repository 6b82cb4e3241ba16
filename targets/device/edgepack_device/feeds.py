"""What the model is fed while it is timed: the golden inputs, in other batches and shapes if asked for. Python 3.8."""

from edgepack_device.files import HarnessError


def feeds(samples, inputs, batch=1, shapes=None):
    """The golden samples as they are to be run.

    Args:
        samples: dicts of arrays, one sample each.
        inputs: the manifest's, with `name` and `shape`.
        batch: how many samples a run takes: neighbouring ones, put together.
        shapes: by input name; values are repeated or cut to fill them, so that they stay in range.

    Raises:
        HarnessError: 2, if a name or a shape does not fit an input.
    """
    import numpy as np

    shapes = shapes or {}
    known = [entry["name"] for entry in inputs]
    for name, shape in shapes.items():
        if name not in known:
            raise HarnessError(2, "--input-shape: there is no input %s" % name, "the inputs are %s" % ", ".join(known))
        if len(shape) != samples[0][name].ndim:
            words = "--input-shape: %s has %d dimensions" % (name, samples[0][name].ndim)
            raise HarnessError(2, words, "as in %s=%s" % (name, "x".join(map(str, samples[0][name].shape))))
    made = []
    for index in range(len(samples)):
        feed = {}
        for entry in inputs:
            name = entry["name"]
            array = samples[index][name]
            axis = batch_axis(entry, inputs)
            if batch > 1 and axis is not None:
                near = [samples[(index + step) % len(samples)][name] for step in range(batch)]
                array = np.concatenate([part for part in near if part.shape == array.shape], axis)
                array = np.take(array, np.arange(batch) % array.shape[axis], axis)
            if name in shapes:
                array = filled(array, shapes[name])
            feed[name] = np.ascontiguousarray(array)
        made.append(feed)
    return made


def batch_axis(entry, inputs):
    """Where an input counts samples: the dimension that is called like the first input's first, or the first one."""
    shape = entry["shape"]
    first = inputs[0]["shape"][0] if inputs[0]["shape"] else None
    if isinstance(first, str):
        return shape.index(first) if first in shape else None
    return 0 if shape and shape[0] in (None, 1) else None


def filled(array, shape):
    """`array` repeated or cut along each axis."""
    import numpy as np

    for axis, length in enumerate(shape):
        array = np.take(array, np.arange(length) % max(1, array.shape[axis]), axis)
    return array
