"""What edgepack wrote, read back: measurements, sweeps, builds, diagnoses, profiles as JSON, and bundles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepack.bundles import bundle
from edgepack.errors import UnreadableResult
from edgepack.measuring import measurement

BUILD, LAYERS, PROFILE, BUNDLE = "build", "layers", "profile", "bundle"
MEASURED = (measurement.MEASUREMENT, measurement.SWEEP)
# The newest format of each kind that is read here.
FORMATS = {
    measurement.MEASUREMENT: measurement.FORMAT,
    measurement.SWEEP: measurement.FORMAT,
    BUILD: 1,
    LAYERS: 1,
    PROFILE: 1,
}
_WRITERS = "`edgepack bench`, `build` and `inspect --layers` write results with --json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One result: `kind` is measurement, sweep, build, layers, profile or bundle; `path` where it came from.

    The data of a bundle are its `manifest`, its `model_bytes`, and its `archive_bytes` or None.
    """

    kind: str
    path: str
    data: dict[str, Any]


def read(path: str | Path) -> Result:
    """A JSON file, or a bundle's folder or archive.

    Raises:
        UnreadableResult: it is missing, no result, or of another format.
        BrokenBundle: a bundle that is not whole.
    """
    path = Path(path)
    if path.is_dir() or path.name.endswith((".tar.gz", ".tgz")):
        return _bundle(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnreadableResult(f"{path} does not exist", _WRITERS) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableResult(f"{path} is no result of edgepack, or is cut off", _WRITERS) from error
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in FORMATS:
        raise UnreadableResult(f"{path} is no result of edgepack", _WRITERS)
    if data.get("format") != FORMATS[kind]:
        raise UnreadableResult(
            f"{path} has format {data.get('format')}, and this edgepack reads {FORMATS[kind]}",
            "make it again, or update edgepack",
        )
    return Result(kind=kind, path=str(path), data=data)


def _bundle(path: Path) -> Result:
    with bundle.opened(path) as folder:
        manifest = bundle.verify(folder)
        archive = path if path.is_file() else bundle.archive_path(path)
        data = {
            "manifest": manifest,
            "model_bytes": bundle.folder_bytes(folder / "model"),
            "archive_bytes": archive.stat().st_size if archive.is_file() else None,
        }
    return Result(kind=BUNDLE, path=str(path), data=data)


@contextmanager
def understood(path: str) -> Iterator[None]:
    """What a damaged result makes of the code that reads it becomes one error.

    Raises:
        UnreadableResult: a key is missing, or a value is of another type.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UnreadableResult(f"{path} is damaged: {what}", "make it again") from error
