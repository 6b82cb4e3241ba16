"""`tensorrt.json`, which lies beside the model and says how its engine is built. Python 3.8."""

import json
import os

from edgepack_tensorrt.errors import BoardError

FORMAT = 1
FILE = "tensorrt.json"
PRECISIONS = ("fp32", "fp16", "int8")
WORKSPACE = 2**30


class Settings(object):
    """How to build one model.

    `precision`, `sparse`, `built_for` (jetpack, l4t, tensorrt, cuda, compute), `profile` (min, opt and max of each
    input with an open dimension), `workspace` in bytes at most, and `fp32_layers`, nodes by name that should stay in
    fp32 where TensorRT chooses types itself (before 10).
    """

    def __init__(
        self, precision="fp32", sparse=False, built_for=None, profile=None, workspace=WORKSPACE, fp32_layers=()
    ):
        self.precision = precision
        self.sparse = sparse
        self.built_for = built_for or {}
        self.profile = profile or {}
        self.workspace = workspace
        self.fp32_layers = list(fp32_layers)

    def of_the_engine(self):
        """What an engine depends on."""
        return {
            "precision": self.precision,
            "sparse": self.sparse,
            "profile": self.profile,
            "workspace": self.workspace,
            "fp32_layers": self.fp32_layers,
        }


def read(path):
    """The settings of the model at `path`; a float original has those of the bundle's model, in fp32."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isfile(os.path.join(folder, FILE)):
        return parsed(os.path.join(folder, FILE))
    beside = os.path.join(os.path.dirname(folder), "model", FILE)
    if not os.path.isfile(beside):
        return Settings()
    found = parsed(beside)
    return Settings("fp32", False, found.built_for, found.profile, found.workspace)


def parsed(path):
    """
    Raises:
        BoardError: 50, the file is no such thing.
    """
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)
        if entries["format"] > FORMAT:
            raise BoardError("%s has format %s, newer than this harness" % (path, entries["format"]), code=50)
        if entries["precision"] not in PRECISIONS:
            raise ValueError("precision")
        profile = {
            name: {key: [int(n) for n in ranges[key]] for key in ("min", "opt", "max")}
            for name, ranges in entries["profile"].items()
        }
        return Settings(
            entries["precision"],
            bool(entries["sparse"]),
            dict(entries["built_for"]),
            profile,
            int(entries["workspace_bytes"]),
            [str(name) for name in entries.get("fp32_layers", [])],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BoardError("%s cannot be read" % path, "copy the bundle again", code=50)


def check_profile(model, settings):
    """
    Args:
        model: a ModelFile.

    Raises:
        BoardError: an input with an open dimension has no range, or one that does not fit it.
    """
    for name, (_, shape) in model.inputs.items():
        ranges = settings.profile.get(name)
        if ranges is None:
            if None in shape:
                words = "the input %s has an open dimension, and %s gives no range for it" % (name, FILE)
                raise BoardError(words, "build it with --input-shape %s=MIN..OPT..MAX" % name)
            continue
        low, usual, high = (ranges[key] for key in ("min", "opt", "max"))
        fits = all(
            len(one) == len(shape) and all(dim in (None, n) for dim, n in zip(shape, one)) for one in (low, usual, high)
        )
        if not fits or not all(a <= b <= c for a, b, c in zip(low, usual, high)):
            raise BoardError("the range of the input %s does not fit it" % name, "build the bundle again")


def check_shapes(feeds, profile):
    """
    Raises:
        BoardError: an array is outside the range that the engine was built for.
    """
    for name, ranges in profile.items():
        shape = list(feeds[name].shape)
        if len(shape) != len(ranges["min"]) or any(
            not low <= n <= high for low, n, high in zip(ranges["min"], shape, ranges["max"])
        ):
            raise BoardError(
                "%s has shape %s, and the engine takes %s to %s"
                % (name, times(shape), times(ranges["min"]), times(ranges["max"])),
                "build it with --input-shape %s=MIN..OPT..MAX that holds it" % name,
                code=22,
            )


def times(shape):
    return "x".join(map(str, shape))
