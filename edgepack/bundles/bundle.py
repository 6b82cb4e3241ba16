"""A bundle: the folder that is copied to a device, and its archive. The manifest's schema is docs/bundle.md."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgepack import _root
from edgepack.errors import FULL, BrokenBundle, OutputExists, WriteFailed, writing
from edgepack.metrics.merit import harness

MANIFEST = "manifest.json"
# The float original beside the model: for comparison where the bundle was built, not for the device.
BASELINE = "baseline"
# The harness's own modules.
DEVICE_CODE = "edgepack_device"

_NEEDED = (
    "name",
    "version",
    "created",
    "edgepack",
    "device",
    "requires",
    "target",
    "runtime",
    "precision",
    "model",
    "inputs",
    "outputs",
    "golden",
)
Manifest = dict[str, Any]


def check_output(output: Path, force: bool) -> None:
    """
    Raises:
        OutputExists: something is there, and it is no bundle that --force may replace.
    """
    if output.name in ("", ".."):
        raise OutputExists(f"{output} exists and cannot become a bundle", "choose another place with -o")
    for path, is_ours in ((output, _is_bundle), (archive_path(output), _is_archive)):
        if not os.path.lexists(path):
            continue
        if not force:
            raise OutputExists(f"{path} exists", "choose another place with -o, or add --force to replace it")
        if not is_ours(path):
            raise OutputExists(
                f"{path} exists and is no bundle, so --force leaves it alone", "choose another place with -o"
            )


def _is_bundle(path: Path) -> bool:
    """A manifest of ours and its checksums: other programs write a manifest.json, too."""
    try:
        return bool(read_manifest(path)) and (path / harness().SUMS).is_file()
    except BrokenBundle:
        return False


def _is_archive(path: Path) -> bool:
    try:
        with tarfile.open(path) as tar:
            names = {PurePosixPath(name).name for name in tar.getnames()}
    except (tarfile.TarError, EOFError, OSError, zlib.error):
        return False
    return {MANIFEST, harness().SUMS, "harness.py"} <= names


def archive_path(output: Path) -> Path:
    return output.with_name(output.name + ".tar.gz")


@contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """A new folder beside `output` that takes its place if all goes well, and vanishes if not.

    Its archive, if one was made beside it, moves along.

    Raises:
        WriteFailed: the disk is full, or the place cannot be written.
    """
    new_parents = [parent for parent in output.parents if not os.path.lexists(parent)]
    scratch = None
    try:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
            built = scratch / output.name
            built.mkdir()
            yield built
            with _undisturbed():
                _swap(built, output, scratch / "replaced")
    finally:
        with _undisturbed():
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)
            for parent in new_parents:
                with contextlib.suppress(OSError):  # not empty: the bundle is in it
                    parent.rmdir()


def _swap(built: Path, output: Path, replaced: Path) -> None:
    """Put the new folder and its archive in place; whatever goes wrong, the old folder is there again."""
    try:
        if output.exists():
            output.rename(replaced)
        built.rename(output)
        if archive_path(built).exists():
            archive_path(built).replace(archive_path(output))
    except BaseException:
        if replaced.exists():
            if output.exists():
                output.rename(built)
            replaced.rename(output)
        elif not built.exists():
            output.rename(built)
        raise


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: waiting.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if waiting:
            signal.raise_signal(waiting[0])


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **dict(arrays))  # type: ignore[arg-type]


def write_payload(folder: Path, target: str, requirements: Sequence[str]) -> None:
    """Copy the device-side files and pin the requirements."""
    for source in (
        _root.TARGETS / "device" / "harness.py",
        _root.TARGETS / "device" / "preprocess.py",
        _root.TARGETS / target / "runner.py",
    ):
        shutil.copyfile(source, folder / source.name)
    (folder / DEVICE_CODE).mkdir()
    for source in sorted((_root.TARGETS / "device" / DEVICE_CODE).glob("*.py")):
        shutil.copyfile(source, folder / DEVICE_CODE / source.name)
    verbatim = _root.TARGETS / target / "bundle"
    if verbatim.is_dir():
        shutil.copytree(verbatim, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")


def seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, then the checksums of everything the device gets."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    lines = [f"{harness().sha256(str(path))}  {path.relative_to(folder).as_posix()}\n" for path in shipped(folder)]
    (folder / harness().SUMS).write_text("".join(lines), encoding="utf-8")


def add_to_manifest(folder: Path, entries: Manifest) -> None:
    """Seal a bundle anew with more in its manifest."""
    seal(folder, {**read_manifest(folder), **entries})


def shipped(folder: Path) -> list[Path]:
    """The files that go to the device, the list of checksums apart."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name != harness().SUMS
        and path.relative_to(folder).parts[0] not in {BASELINE, "lib", "engines"}
        and path.parent.name != "__pycache__"
    ]


def pack(folder: Path, archive: Path | None = None) -> Path:
    """Write the bundle's .tar.gz, beside it if nothing else is said; the same bundle gives the same bytes."""
    target = archive or archive_path(folder)
    tar_of(folder, [*shipped(folder), folder / harness().SUMS], target)
    return target


def device_code(archive: Path) -> Path:
    """Write this edgepack's own harness as a .tar.gz, its folder called `kit`: it times bundles of any version."""
    source = _root.TARGETS / "device"
    tar_of(source, [source / "harness.py", *sorted((source / DEVICE_CODE).glob("*.py"))], archive, name="kit")
    return archive


def tar_of(folder: Path, paths: Sequence[Path], target: Path, name: str = "") -> None:
    """Write files below `folder` as a .tar.gz that tells nothing of when and by whom."""
    import gzip

    with (
        target.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for path in paths:
            entry = tar.gettarinfo(path, arcname=f"{name or folder.name}/{path.relative_to(folder).as_posix()}")
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = 0
            with path.open("rb") as file:
                tar.addfile(entry, file)


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of the bundle at `path`, which may be a .tar.gz.

    Raises:
        BrokenBundle: there is no bundle, or the archive is damaged or leads outside itself.
    """
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise BrokenBundle(f"{path} does not exist", "give the folder or .tar.gz that `edgepack build` made")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with tarfile.open(path) as tar:
                if hasattr(tarfile, "data_filter"):
                    tar.extractall(scratch, filter="data")
                else:  # Python before 3.11.4, as in Debian 12
                    tar.extractall(scratch, members=_plain(tar))
        except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise WriteFailed(
                    f"no space left in {scratch} while unpacking {path}",
                    "free some space, or let TMPDIR name another place",
                ) from error
            raise BrokenBundle(f"{path} is no bundle, or is damaged", "copy it again") from error
        folders = [folder for folder in Path(scratch).iterdir() if (folder / MANIFEST).is_file()]
        if len(folders) != 1:
            raise BrokenBundle(f"{path} holds no bundle", "give the .tar.gz that `edgepack build` made")
        yield folders[0]


def _plain(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """The members of an archive, all of them files and folders inside it; a link could lead outside."""
    members = tar.getmembers()
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name} leads outside of the archive")
    return members


def read_manifest(folder: Path) -> Manifest:
    """
    Raises:
        BrokenBundle: it is missing, unreadable, or of a newer format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BrokenBundle(
            f"{folder} is no bundle: {MANIFEST} is missing", "give the folder that `edgepack build` made"
        ) from error
    except (OSError, ValueError) as error:
        raise BrokenBundle(f"{folder / MANIFEST} cannot be read", "build or copy the bundle again") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise BrokenBundle(f"{folder / MANIFEST} is not a bundle's manifest", "build or copy the bundle again")
    if manifest["format"] > harness().FORMAT:
        raise BrokenBundle(f"{folder} has format {manifest['format']}, newer than this edgepack", "update edgepack")
    return manifest


def read_whole_manifest(folder: Path) -> Manifest:
    """
    Raises:
        BrokenBundle: as read_manifest, or a key that every bundle has is missing.
    """
    manifest = read_manifest(folder)
    missing = [key for key in _NEEDED if key not in manifest]
    if missing:
        raise BrokenBundle(f"{folder / MANIFEST} lacks {', '.join(missing)}", "build or copy the bundle again")
    return manifest


def verify(folder: Path) -> Manifest:
    """The manifest, once every file is as it was built. This edgepack's own code judges, none of the bundle's.

    Raises:
        BrokenBundle: as read_whole_manifest, or a file is missing, altered, or does not belong there.
    """
    read_manifest(folder)
    damage = harness().damage(str(folder))
    if damage:
        raise BrokenBundle(damage, "build or copy the bundle again")
    return read_whole_manifest(folder)


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
