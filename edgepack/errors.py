"""Every error a user can meet: what is wrong, what to do about it, and the exit code that says so.

The library raises these; only `edgepack.cli.main` catches them. `docs/errors.md` lists them, and a test
holds that table against this file.
"""

from __future__ import annotations

import errno
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


class EdgepackError(Exception):
    """The root. `message` is one line, `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(EdgepackError):
    """Flags that contradict each other or cannot be read."""

    exit_code = 2


class NotAModel(EdgepackError):
    """The file is missing, is no model, or is cut off."""

    exit_code = 10


class ExternalDataError(EdgepackError):
    """A weight file is missing, too short, or lies outside the model's folder."""

    exit_code = 11


class UnsupportedOperator(EdgepackError):
    """The model holds operators that cannot be run or quantized."""

    exit_code = 12


class ShapeNeeded(EdgepackError):
    """A dimension is open and nothing says what it should be, or a given shape does not fit."""

    exit_code = 13


class CleanupError(EdgepackError):
    """The cleaned-up model does not answer like the original, or the original cannot be run."""

    exit_code = 14


class PruningError(EdgepackError):
    """Nothing in the model can be pruned, or not as much as was asked for."""

    exit_code = 15


class SamplesError(EdgepackError):
    """Samples whose names, shapes, types or values do not fit the model."""

    exit_code = 20


class NoSamples(EdgepackError):
    """The samples are missing or empty."""

    exit_code = 21


class UnreadableSample(EdgepackError):
    """One sample cannot be decoded."""

    exit_code = 22


class OverlapError(EdgepackError):
    """Calibration and evaluation share samples."""

    exit_code = 23


class DataNeeded(EdgepackError):
    """The precision asked for needs calibration data."""

    exit_code = 24


class LabelsError(EdgepackError):
    """Labels that are missing, unreadable or out of range."""

    exit_code = 25


class PreprocessError(EdgepackError):
    """The preprocessing cannot be understood."""

    exit_code = 26


class MetricError(EdgepackError):
    """A metric that cannot be computed: the outputs do not fit it, or the user's function fails."""

    exit_code = 27


class UnknownDevice(EdgepackError):
    """No such board."""

    exit_code = 30


class DeviceFileError(EdgepackError):
    """A device file with an unknown, missing or ill-typed key."""

    exit_code = 31


class UnfitDevice(EdgepackError):
    """The device cannot run the target or the precision asked for."""

    exit_code = 32


class UnknownTarget(EdgepackError):
    """No such target."""

    exit_code = 33


class MissingExtra(EdgepackError):
    """An optional part of edgepack is not installed."""

    exit_code = 40


class BrokenBundle(EdgepackError):
    """The bundle is incomplete, altered, or no bundle."""

    exit_code = 50


class WrongOutput(EdgepackError):
    """The bundle runs but does not answer as it should."""

    exit_code = 51


class RunFailed(EdgepackError):
    """The bundle could not be run in its runtime."""

    exit_code = 52


class HostError(EdgepackError):
    """The host cannot be reached, refuses us, or cannot be set up."""

    exit_code = 53


class HostLost(HostError):
    """The connection to the host broke and did not come back."""

    exit_code = 54


class UnfitHost(EdgepackError):
    """The bundle will not run on that host: wrong architecture, no Python, no space."""

    exit_code = 55


class DoubtfulMeasurement(EdgepackError):
    """The measurement is not valid: the board was throttled, short of power or emulated, or answered wrongly."""

    exit_code = 56


class UnreadableResult(EdgepackError):
    """A file that is no result of edgepack, is damaged, or has a format that is not read here."""

    exit_code = 57


class NotComparable(EdgepackError):
    """Two results have no figure in common, or a condition of `--fail-if` asks for one that cannot be judged."""

    exit_code = 58


class OutputExists(EdgepackError):
    """The output path is taken."""

    exit_code = 60


class WriteFailed(EdgepackError):
    """The disk is full or the path cannot be written."""

    exit_code = 61


class Interrupted(EdgepackError):
    """Ctrl-C or SIGTERM."""

    exit_code = 130


# No error: the bundle is written, but loses more than --max-drop allowed.
PROMISE_MISSED = 3
# Nor this: the results are compared, and a condition of `--fail-if` holds.
GATE_FAILED = 4
# Nor this: `inspect` has looked, and names what the runtime of the board would refuse.
LINT_FAILED = 5
INTERNAL_ERROR = 70

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {
    errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP,
    errno.ENAMETOOLONG,
}  # fmt: skip
# The distribution that brings each optional module, and the extra that installs it.
_EXTRAS = {
    "openvino": "openvino",
    "ai_edge_litert": "tflite",
    "flatbuffers": "tflite",
    "matplotlib": "report",
    "torch": "torch",
    "onnxscript": "torch",
}


def needs(module: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Raises:
        MissingExtra: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        extra = _EXTRAS.get(module.partition(".")[0], module)
        raise MissingExtra(f"{module} is not installed", f"pip install 'edgepack[{extra}]'") from error


@contextmanager
def writing(path: object) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into a WriteFailed."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise WriteFailed(
                f"no space left while writing {path}", "free some space or choose another place with -o"
            ) from error
        if error.errno in _REFUSED:
            raise WriteFailed(f"cannot write {path}: {error.strerror}", "choose another place with -o") from error
        raise
