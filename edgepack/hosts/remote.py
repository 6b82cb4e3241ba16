"""Copy files to a host, run long jobs there, and leave nothing behind. Built on `Transport.run` alone.

A host needs sh, cat, mkdir, rm, mv, kill and python3; sha256sum, wc, setsid, sleep and tail are used where they are.
All that edgepack keeps there lies in one folder, ~/.edgepack. All state of a job lies there too, so that a new
connection, or a new process here, finds it again.
"""

from __future__ import annotations

import math
import re
import secrets
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepack.errors import EdgepackError, HostError, HostLost, Interrupted, UsageError, WriteFailed, writing
from edgepack.hosts import Completed, Transport, scripts
from edgepack.hosts.facts import read_facts
from edgepack.hosts.scripts import FOLDER, JOBS
from edgepack.hosts.upload import Lines, Retry, Upload

if TYPE_CHECKING:
    from edgepack.progress import Progress


# A chunk should take about a second, whatever the link.
_FIRST_CHUNK, _SMALLEST_CHUNK, _LARGEST_CHUNK = 256 * 1024, 32 * 1024, 32 * 1024 * 1024
# How often a file that arrives damaged is sent again.
_ATTEMPTS = 3
# What even a slow board can hash in a second.
_HASHED_PER_SECOND = 4e6
_FULL = re.compile(r"No space left on device|[Dd]isk quota exceeded|File too large")
_READ_ONLY = re.compile(r"Read-only file system|Permission denied|Operation not permitted")


class Remote:
    """One host's ~/.edgepack.

    Args:
        patience: seconds that a lost connection is given to come back.

    Every method raises HostLost if the connection broke and did not come back in that time, and HostError if the
    host refuses us.
    """

    def __init__(self, transport: Transport, *, patience: float = 30.0) -> None:
        self.transport = transport
        self.patience = patience
        self._root: str | None = None
        # The boot under which each job was started here: on some boards the home folder does not outlive it.
        self._boots: dict[str, str] = {}

    @property
    def root(self) -> str:
        """The absolute path of edgepack's folder there. Made if needed, for its owner only."""
        if self._root is None:
            done = self._run(scripts.MAKE_ROOT, FOLDER)
            root = done.stdout.decode(errors="surrogateescape").strip()
            if done.returncode or not root.startswith("/"):
                raise self._failure(f"making ~/{FOLDER}", done)
            self._root = root
        return self._root

    def put(self, source: Path, name: str, progress: Progress | None = None) -> str:
        """Copy a file there, if it is not there already, and return its path.

        What an earlier try left is continued. The file appears under its name whole, or not at all.

        Raises:
            WriteFailed: the disk there is full, or cannot be written.
            UsageError: `name` is no relative path, or one that edgepack keeps for itself.
        """
        _check(name)
        if name.partition("/")[0] == JOBS:
            raise UsageError(f"{name} is where edgepack keeps its jobs", "choose another name")
        with source.open("rb") as file:
            upload = Upload(file, f"{self.root}/{name}", name, progress or (lambda what, done, total: None))
            retry = Retry(self.patience)
            while True:
                before = upload.furthest
                try:
                    if self._upload(upload):
                        return upload.target
                except HostLost as error:
                    # A link that brings the file further each time may break as often as it likes.
                    if upload.furthest > before:
                        retry = Retry(self.patience)
                    retry.after(error)
                    continue
                upload.damaged += 1
                if upload.damaged == _ATTEMPTS:
                    raise HostError(
                        f"{self.transport.name}: {name} arrived damaged {_ATTEMPTS} times",
                        "is the disk there sound, and does the file here stay as it is?",
                    )
                upload.measure()

    def run(
        self,
        name: str,
        script: str,
        arguments: Sequence[str] = (),
        *,
        timeout: float = 3600.0,
        progress: Progress | None = None,
    ) -> Completed:
        """Start a job and wait for it: `start` and `wait`, but an interruption finds no gap between them.

        Raises:
            HostLost: the job was killed, the board restarted, or the time is up.
            HostError: a job of that name still runs.
            WriteFailed: the disk there is full, or cannot be written.
        """
        token = secrets.token_hex(8)
        try:
            self._start(name, script, arguments, token)
            return self._wait(name, timeout, progress)
        except EdgepackError:
            raise
        except BaseException as error:
            self._abandon(name, error, token)
            raise

    def start(self, name: str, script: str, arguments: Sequence[str] = ()) -> None:
        """Start a job: `script` with POSIX sh in edgepack's folder, `arguments` as $1, $2, …

        It runs in a session of its own and outlives the connection. A job of that name that has ended is replaced.

        Raises:
            HostError: a job of that name still runs.
            WriteFailed: the disk there is full, or cannot be written.
        """
        token = secrets.token_hex(8)
        try:
            self._start(name, script, arguments, token)
        except EdgepackError:
            raise
        except BaseException as error:
            self._abandon(name, error, token)
            raise

    def wait(self, name: str, timeout: float = 3600.0, progress: Progress | None = None) -> Completed:
        """Wait for a job's end, whoever started it. If this is interrupted, the job is stopped.

        Args:
            timeout: seconds after which the job is stopped.
            progress: gets each line that the job writes to stderr.

        Raises:
            HostLost: the job was killed, the board restarted, or the time is up.
            HostError: there is no such job.
        """
        try:
            return self._wait(name, timeout, progress)
        except EdgepackError:
            raise
        except BaseException as error:
            self._abandon(name, error)
            raise

    def stop(self, name: str) -> None:
        """End a job and all its processes: TERM, and KILL for those that still run two seconds later.

        Not found are processes that made a session of their own and write elsewhere. Nothing happens if there is no
        such job.

        Raises:
            HostError: a process cannot be ended.
        """
        _check(name, parts=1)
        self._stop(name)

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file from there to `target`, which appears whole or not at all.

        Raises:
            HostError: there is no such file.
            WriteFailed: `target` cannot be written.
        """
        _check(name)
        done = self._run(scripts.FETCH, f"{self.root}/{name}", timeout=600.0)
        if done.returncode == scripts.ABSENT:
            raise HostError(f"{self.transport.name}: there is no file {name} in {self.root}", "did the job write it?")
        if done.returncode:
            raise self._failure(f"reading {name}", done)
        with writing(target):
            partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
            try:
                partial.write_bytes(done.stdout)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, a folder, or a job ("jobs/NAME"), which is stopped, if it is there."""
        _check(name)
        if name == JOBS:
            raise UsageError("one job at a time", f"{JOBS}/NAME")
        script = 'stop "$1" && rm -rf "$1"' if name.startswith(f"{JOBS}/") else 'rm -rf "$1"'
        done = self._run(script, f"{self.root}/{name}")
        if done.returncode:
            raise self._failure(f"removing {name}", done)

    def clean(self) -> list[str]:
        """Stop all jobs, remove edgepack's folder, and return what was in it, jobs as "jobs/NAME".

        Raises:
            HostError: a process cannot be ended, or something cannot be removed.
        """
        there = self._run(scripts.LIST, FOLDER).stdout.decode(errors="replace").splitlines()
        done = self._run(scripts.CLEAN, FOLDER, timeout=120.0)
        if done.returncode:
            raise self._failure("cleaning up", done)
        self._root = None
        self._boots.clear()
        return sorted(there)

    def facts(self) -> dict[str, Any]:
        """What the host says about itself, in one round trip; None for what it does not say.

        Keys: machine (uname -m; a 32-bit system on a 64-bit kernel tells itself by python_bits), python, python_bits,
        glibc, memory_kb, memory_available_kb, disk_free_bytes, cpu (its model, or ARM's part number), cpu_flags (a
        list), cores, boot_id.
        """
        return read_facts(self._run(scripts.FACTS, FOLDER, scripts.PYTHON_FACTS).stdout.decode(errors="replace"))

    def _upload(self, upload: Upload) -> bool:
        """Bring the file there over one connection. False if it arrived damaged."""
        patience = 60.0 + 2 * upload.size / _HASHED_PER_SECOND
        done = self.transport.run(
            scripts.PRELUDE + scripts.INSPECT,
            [upload.target, upload.part, str(upload.size), upload.digest],
            timeout=patience,
        )
        if done.returncode:
            raise self._failure(f"copying {upload.name}", done)
        offset = upload.offset(done.stdout.decode().split())
        reached = upload.size if offset is None else offset
        upload.furthest = max(upload.furthest, reached)
        upload.progress(upload.name, reached, upload.size)
        if offset is None:
            return True
        chunk = _FIRST_CHUNK
        while offset < upload.size or offset == 0:
            began = time.monotonic()
            done, sent = self._append(upload, offset, chunk)
            if done.returncode == scripts.DISTURBED:
                return False
            if done.returncode:
                with suppress(HostError):
                    self.transport.run('rm -f "$1"', [upload.part])
                raise self._failure(f"copying {upload.name}", done)
            offset += sent
            upload.furthest = max(upload.furthest, offset)
            upload.progress(upload.name, offset, upload.size)
            if not sent:
                break
            fitting = sent / max(time.monotonic() - began, 1e-3)
            chunk = max(_SMALLEST_CHUNK, min(int(fitting), 4 * chunk, _LARGEST_CHUNK))
        done = self.transport.run(
            scripts.PRELUDE + scripts.SETTLE, [upload.target, upload.part, upload.digest], timeout=patience
        )
        if done.returncode not in (0, scripts.DISTURBED):
            raise self._failure(f"copying {upload.name}", done)
        return done.returncode == 0

    def _append(self, upload: Upload, offset: int, length: int) -> tuple[Completed, int]:
        upload.file.seek(offset)
        data = upload.file.read(min(length, upload.size - offset))
        with writing(tempfile.gettempdir()), tempfile.TemporaryFile() as chunk:
            chunk.write(data)
            chunk.seek(0)
            done = self.transport.run(
                scripts.PRELUDE + scripts.APPEND, [upload.part, str(offset)], stdin=chunk, timeout=120.0
            )
        return done, len(data)

    def _poll(self, name: str, rounds: int = 1, lines: Lines | None = None) -> _State:
        known = str(lines.known) if lines else "-"
        done = self._run(scripts.POLL, f"{self.root}/{JOBS}/{name}", str(rounds), known, timeout=30.0)
        first, _, rest = done.stdout.partition(b"\n")
        words = first.decode(errors="replace").split()
        if done.returncode or len(words) not in (3, 4):
            raise self._failure(f"asking after {name}", done)
        state = _State(word=words[0], code=int(words[1]), boot=words[3] if len(words) == 4 else "")
        if state.word == "missing" and self._boots.get(name, state.boot) != state.boot:
            return _State(word="restarted", code=0, boot=state.boot)
        if lines:
            lines.add(int(words[2]), rest)
        return state

    def _output(self, name: str, code: int) -> Completed:
        done = self._run(scripts.OUTPUT, f"{self.root}/{JOBS}/{name}", timeout=600.0)
        if done.returncode:
            raise self._failure(f"reading what {name} printed", done)
        return Completed(returncode=code, stdout=done.stdout, stderr=done.stderr)

    def _start(self, name: str, script: str, arguments: Sequence[str], token: str) -> None:
        _check(name, parts=1)
        everything = (self.root, name, token, scripts.RUNNER, script, *arguments)
        try:
            done = self._run(scripts.START, *everything)
        except KeyboardInterrupt:
            # It may or may not have been started; asked again, the host makes sure, and then it can be stopped.
            with suppress(HostError):
                self.transport.run(scripts.PRELUDE + scripts.START, everything, timeout=10.0)
            raise
        if done.returncode == scripts.RUNNING:
            raise HostError(f"{self.transport.name}: {name} still runs there", "wait for it, or clean up there first")
        if done.returncode:
            raise self._failure(f"starting {name}", done)
        self._boots[name] = done.stdout.decode().strip()

    def _wait(self, name: str, timeout: float, progress: Progress | None) -> Completed:
        _check(name, parts=1)
        where, deadline = self.transport.name, time.monotonic() + timeout
        lines = Lines(progress) if progress else None
        while True:
            began = time.monotonic()
            # The waiting is done there: asking costs a busy board more than sleeping does.
            rounds = math.ceil(min(1.0 if lines else 3.0, max(deadline - began, 0.0)) / scripts.POLL_SECONDS)
            state = self._poll(name, rounds, lines)
            if state.word == "ended":
                if lines:
                    lines.finish()
                return self._output(name, state.code)
            if state.word == "killed":
                self.stop(name)
                raise HostLost(
                    f"{where}: {name} was lost: the process was killed", "by somebody, or for want of memory there"
                )
            if state.word == "restarted":
                raise HostLost(f"{where}: {name} was lost: the board restarted", "start it again")
            if state.word == "missing":
                raise HostError(f"{where}: there is no job {name}", "has somebody cleaned up there?")
            if time.monotonic() >= deadline:
                self.stop(name)
                raise HostLost(
                    f"{where}: {name} did not end within {timeout:.0f} s and was stopped", "give it more time"
                )
            time.sleep(max(0.0, scripts.POLL_SECONDS - (time.monotonic() - began)))

    def _stop(self, name: str, token: str = "") -> None:
        """Stop a job; with a token, only if it is the one that was started with it."""
        _check(name, parts=1)
        done = self._run(scripts.STOP, f"{self.root}/{JOBS}/{name}", token)
        if done.returncode:
            raise self._failure(f"stopping {name}", done)

    def _abandon(self, name: str, reason: BaseException, token: str = "") -> None:
        """Stop a job because nobody waits any more; not for long, since somebody may have pressed Ctrl-C.

        Raises:
            Interrupted: somebody did, and the job cannot be reached.
        """
        hurried = Remote(self.transport, patience=3.0)
        hurried._root = self._root
        try:
            hurried._stop(name, token)
        except HostError as error:
            if isinstance(reason, KeyboardInterrupt):
                raise Interrupted(
                    f"interrupted; {name} may still run on {self.transport.name}",
                    "clean up there when you can reach it",
                ) from error

    def _run(self, script: str, *arguments: str, timeout: float = 60.0) -> Completed:
        """Run a script that does no harm when run twice, again if the connection breaks."""
        retry = Retry(self.patience)
        while True:
            try:
                return self.transport.run(scripts.PRELUDE + script, arguments, timeout=timeout)
            except HostLost as error:
                retry.after(error)

    def _failure(self, doing: str, done: Completed) -> HostError | WriteFailed:
        """The error for a script that failed."""
        where = self.transport.name
        text = done.stderr.decode(errors="replace").strip()
        if _FULL.search(text):
            return WriteFailed(f"{where}: no space left on device while {doing}", "free some space there")
        last = text.splitlines()[-1] if text else f"exit code {done.returncode}"
        if _READ_ONLY.search(text):
            return WriteFailed(f"{where}: {doing} failed: {last}", "can its home folder be written?")
        return HostError(f"{where}: {doing} failed: {last}", "can its home folder be used, and has it python3?")


@dataclass(frozen=True, kw_only=True)
class _State:
    """What a job's folder says: running, ended (with a code), killed, restarted or missing."""

    word: str
    code: int
    boot: str


def _check(name: str, parts: int | None = None) -> None:
    """Refuse names that could lead out of edgepack's folder, or hide in it.

    Raises:
        UsageError: it is such a name.
    """
    pieces = name.split("/")
    sound = name.isprintable() and (parts is None or len(pieces) == parts)
    if not sound or not all(piece and piece[0] not in ".-" and len(piece.encode()) <= 200 for piece in pieces):
        raise UsageError(f"{name!r} cannot be a name on a host", "use letters, digits, dots and dashes")
