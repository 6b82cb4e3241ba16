"""Copy files to a host, run long jobs there, and leave nothing behind. Built on `Transport.run` alone.

A host needs sh, cat, mkdir, rm, mv, kill and python3; sha256sum, wc, setsid, sleep and tail are used where they are.
All that edgepack keeps there lies in one folder, ~/.edgepack. All state of a job lies there too, so that a new
connection, or a new process here, finds it again.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgepack.errors import EdgepackError, HostError, HostLost, Interrupted, UsageError, WriteFailed, writing
from edgepack.hosts import Completed, Transport

if TYPE_CHECKING:
    from edgepack.candidate import Progress

FOLDER = ".edgepack"
JOBS = "jobs"

# A chunk should take about a second, whatever the link.
_FIRST_CHUNK, _SMALLEST_CHUNK, _LARGEST_CHUNK = 256 * 1024, 32 * 1024, 32 * 1024 * 1024
# How often a file that arrives damaged is sent again.
_ATTEMPTS = 3
# What even a slow board can hash in a second.
_HASHED_PER_SECOND = 4e6
_POLL_SECONDS = 0.3
_FULL = re.compile(r"No space left on device|[Dd]isk quota exceeded|File too large")
_READ_ONLY = re.compile(r"Read-only file system|Permission denied|Operation not permitted")

# Exit codes of the scripts below.
_DISTURBED, _RUNNING, _ABSENT = 75, 76, 77

_PRELUDE = r"""
locale=${LC_ALL-}
export LC_ALL=C
umask 077
pause() { sleep "$1" 2>/dev/null || python3 -c "import time; time.sleep($1)"; }
size_of() {
    bytes=$(wc -c 2>/dev/null <"$1") || bytes=$(python3 -c 'import os, sys; print(os.path.getsize(sys.argv[1]))' "$1")
    echo "$((bytes))"
}
digest() {
    if command -v sha256sum >/dev/null 2>&1; then sum=$(sha256sum <"$1"); echo "${sum%% *}"; return; fi
    python3 -c 'import hashlib, sys
file, sum = open(sys.argv[1], "rb"), hashlib.sha256()
for block in iter(lambda: file.read(1 << 20), b""): sum.update(block)
print(sum.hexdigest())' "$1"
}
boot_id() { boot_id=; { read -r boot_id </proc/sys/kernel/random/boot_id; } 2>/dev/null; }
# When a process started, in ticks since boot; nothing if it is gone or a zombie. The number alone may be used anew.
started() {
    started=
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
    set -- ${line##*) }
    case $1 in Z | X) ;; *) started=${20} ;; esac
}
# The living processes of a session.
members() {
    for stat in /proc/[0-9]*/stat; do
        { read -r line <"$stat"; } 2>/dev/null || continue
        set -- "$1" ${line##*) }
        case $2 in Z | X) continue ;; esac
        if [ "$5" = "$1" ]; then stat=${stat#/proc/}; echo "${stat%/stat}"; fi
    done
}
# The processes whose standard output is this file.
writers() {
    [ -f "$1" ] || return 0
    for process in /proc/[0-9]*; do
        if [ "$process/fd/1" -ef "$1" ]; then echo "${process#/proc/}"; fi
    done 2>/dev/null
}
# End the writers that a broken connection left behind: they would add to the file what was sent long ago.
fence() {
    tries=0
    while left=$(writers "$1"); [ -n "$left" ] && [ "$tries" -lt 20 ]; do
        kill -s KILL $left 2>/dev/null
        pause 0.1
        tries=$((tries + 1))
    done
}
# All that runs of a job: its session, and whoever still writes to its output.
crew() {
    [ -z "$2" ] || members "$2"
    writers "$1/stdout"
}
# End all of a job: TERM, and after two seconds KILL.
stop() {
    pid= start= boot=
    { read -r pid start boot <"$1/pid"; } 2>/dev/null
    boot_id
    if [ -n "$pid" ]; then
        started "$pid"
        # The number may belong to somebody else by now.
        if [ "$boot" != "$boot_id" ] || { [ -n "$started" ] && [ "$started" != "$start" ]; }; then pid=; fi
    fi
    left=$(crew "$1" "$pid")
    [ -z "$left" ] || kill -s TERM $left 2>/dev/null
    tries=0
    while left=$(crew "$1" "$pid"); [ -n "$left" ]; do
        [ "$tries" -lt 50 ] || return 1
        [ "$tries" -lt 20 ] || kill -s KILL $left 2>/dev/null
        pause 0.1
        tries=$((tries + 1))
    done
}
"""

# $1 folder
_MAKE_ROOT = r"""
: "${HOME:?}"
cd "$HOME" && mkdir -p "$1" && cd "$1" && pwd -P || exit 1
chmod 700 . 2>/dev/null || :
"""

# $1 target, $2 partial, $3 size, $4 digest; says what is there of the file.
_INSPECT = r"""
mkdir -p "${1%/*}" || exit 1
if [ -d "$1" ]; then echo "is a folder" >&2; exit 1; fi
fence "$2"
if [ -f "$1" ] && [ "$(size_of "$1")" = "$3" ] && [ "$(digest "$1")" = "$4" ]; then rm -f "$2"; echo same
elif [ -f "$2" ]; then echo "partial $(size_of "$2") $(digest "$2")"
else echo none; fi
"""

# $1 partial, $2 offset. Standard input is added there, and only there.
_APPEND = rf"""
if [ "$2" = 0 ]; then rm -f "$1"; else [ "$(size_of "$1")" = "$2" ] || exit {_DISTURBED}; fi
exec cat >>"$1"
"""

# $1 target, $2 partial, $3 digest
_SETTLE = rf"""
if [ -f "$2" ] && [ "$(digest "$2")" = "$3" ]; then mv -f "$2" "$1"; else rm -f "$2"; exit {_DISTURBED}; fi
"""

# Runs in the job's own session. The exit code goes where there is already room for it, even on a full disk.
_RUNNER = r"""
job=$1 script=$2; shift 2
sh -c "$script" sh "$@"
printf '%-8s\n' "$?" 1<>"$job/code"
"""

# $1 root, $2 job, $3 token, $4 runner, $5 script, then its arguments
_START = rf"""
cd "$1" || exit 1
job=$1/{JOBS}/$2 token=$3 runner=$4; shift 4
mkdir -p "${{job%/*}}" || exit 1
until mkdir "$job" 2>/dev/null; do
    [ -d "$job" ] || {{ mkdir "$job"; exit 1; }}
    # Whoever made it may still be at it: an earlier try of ours, whose answer was lost, or somebody else.
    tries=0
    while
        there= code= pid= start= boot=
        {{ read -r there <"$job/token"; read -r code <"$job/code"; read -r pid start boot <"$job/pid"; }} 2>/dev/null
        [ -z "$pid" ] && [ "$tries" -lt 30 ]
    do
        pause 0.1
        tries=$((tries + 1))
    done
    boot_id
    if [ "$there" = "$token" ] && [ -n "$pid" ]; then echo "$boot"; exit 0; fi
    started "$pid"
    if [ -z "$code" ] && [ -n "$started" ] && [ "$boot $started" = "$boot_id $start" ]; then exit {_RUNNING}; fi
    stop "$job" && rm -rf "$job" || exit 1
done
blank='        '
cat >"$job/token" <<END && cat >"$job/code" <<END && cat >"$job/pid" <<END || {{ rm -rf "$job"; exit 1; }}
$token
END
$blank
END
$blank$blank$blank$blank$blank$blank$blank$blank$blank$blank
END
if [ -n "$locale" ]; then LC_ALL=$locale; else unset LC_ALL; fi
if command -v setsid >/dev/null 2>&1; then
    setsid sh -c "$runner" sh "$job" "$@" </dev/null >"$job/stdout" 2>"$job/stderr" &
else
    python3 -c 'import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])' \
        sh -c "$runner" sh "$job" "$@" </dev/null >"$job/stdout" 2>"$job/stderr" &
fi
pid=$!
# Recorded from here, not by the job itself: an emulator may give a process a made-up /proc/self/stat.
start= tries=0
while started "$pid"; [ -n "$started" ] && [ "$tries" -lt 100 ]; do
    start=$started
    [ -z "$(members "$pid")" ] || break
    pause 0.05
    tries=$((tries + 1))
done
boot_id
printf '%s %s %s\n' "$pid" "${{start:--}}" "$boot_id" 1<>"$job/pid"
echo "$boot_id"
"""

# $1 job's folder, $2 the token that it must have, if any
_STOP = r"""
if [ -n "$2" ]; then
    there=
    { read -r there <"$1/token"; } 2>/dev/null
    [ "$there" = "$2" ] || exit 0
fi
stop "$1"
"""

# $1 job's folder, $2 rounds to wait, $3 how much of stderr is known (- if nobody asks)
_POLL = rf"""
boot_id
here=$boot_id
[ -d "$1" ] || {{ echo "missing 0 0 $here"; exit 0; }}
code=0 state=running round=0
while :; do
    code= pid= start= boot=
    {{ read -r code <"$1/code"; read -r pid start boot <"$1/pid"; }} 2>/dev/null
    [ -z "$code" ] || {{ state=ended; break; }}
    if [ -n "$pid" ]; then
        started "$pid"
        if [ "$boot" != "$here" ]; then state=restarted; break; fi
        if [ "$started" != "$start" ]; then
            read -r code <"$1/code"
            if [ -n "$code" ]; then state=ended; else state=killed; fi
            break
        fi
    fi
    round=$((round + 1))
    [ "$round" -lt "$2" ] || break
    sleep {_POLL_SECONDS} 2>/dev/null || break
done
from=0
if command -v tail >/dev/null 2>&1 && [ "$3" != - ]; then from=$3; fi
echo "$state ${{code:-0}} $from $here"
if [ "$3" = - ]; then :
elif [ "$from" = 0 ]; then cat "$1/stderr"
else tail -c "+$((from + 1))" "$1/stderr"; fi 2>/dev/null || :
"""

_OUTPUT = r"""cat "$1/stdout" && cat "$1/stderr" >&2"""

_FETCH = rf"""
[ -f "$1" ] || exit {_ABSENT}
exec cat "$1"
"""

# $1 folder
_LIST = rf"""
cd "$HOME/$1" 2>/dev/null || exit 0
for file in * .*.part {JOBS}/*; do
    case $file in {JOBS}) continue ;; esac
    [ ! -e "$file" ] || echo "$file"
done
"""

# $1 folder
_CLEAN = rf"""
: "${{HOME:?}}"
root=$HOME/$1
[ -d "$root" ] || exit 0
for job in "$root/{JOBS}"/*; do
    [ ! -d "$job" ] || stop "$job" || {{ echo "a process of ${{job##*/}} cannot be ended" >&2; exit 1; }}
done
for part in "$root"/.*.part "$root"/*/.*.part; do fence "$part"; done
rm -rf "$root"
"""

_PYTHON_FACTS = r"""
import os, platform, sys
print("version", platform.python_version())
print("bits", 64 if sys.maxsize > 2**32 else 32)
print("machine", platform.machine())
disk = os.statvfs(sys.argv[1])
print("free", disk.f_bavail * disk.f_frsize)
try:
    print("glibc", os.confstr("CS_GNU_LIBC_VERSION").split()[-1])
except (AttributeError, OSError, ValueError):
    pass
"""

# $1 folder, $2 Python's part
_FACTS = r"""
exec 2>/dev/null
folder=$HOME/$1
[ -d "$folder" ] || folder=$HOME
say() { echo; echo "@@ $1"; }
say machine; uname -m
say boot; cat /proc/sys/kernel/random/boot_id
say memory; cat /proc/meminfo
say cpu; cat /proc/cpuinfo
say disk; df -Pk "$folder"
say glibc; getconf GNU_LIBC_VERSION
say python; python3 -c "$2" "$folder"
:
"""


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
            done = self._run(_MAKE_ROOT, FOLDER)
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
            upload = _Upload(file, f"{self.root}/{name}", name, progress or (lambda what, done, total: None))
            retry = _Retry(self.patience)
            while True:
                before = upload.furthest
                try:
                    if self._upload(upload):
                        return upload.target
                except HostLost as error:
                    # A link that brings the file further each time may break as often as it likes.
                    if upload.furthest > before:
                        retry = _Retry(self.patience)
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
        done = self._run(_FETCH, f"{self.root}/{name}", timeout=600.0)
        if done.returncode == _ABSENT:
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
        there = self._run(_LIST, FOLDER).stdout.decode(errors="replace").splitlines()
        done = self._run(_CLEAN, FOLDER, timeout=120.0)
        if done.returncode:
            raise self._failure("cleaning up", done)
        self._root = None
        self._boots.clear()
        return sorted(there)

    def facts(self) -> dict[str, Any]:
        """What the host says about itself, in one round trip; None for what it does not say.

        Keys: machine (uname -m; a 32-bit system on a 64-bit kernel tells itself by python_bits), python, python_bits,
        glibc, memory_kb, memory_available_kb, disk_free_bytes, cpu_flags (a list), cores, boot_id.
        """
        return _facts(self._run(_FACTS, FOLDER, _PYTHON_FACTS).stdout.decode(errors="replace"))

    def _upload(self, upload: _Upload) -> bool:
        """Bring the file there over one connection. False if it arrived damaged."""
        patience = 60.0 + 2 * upload.size / _HASHED_PER_SECOND
        done = self.transport.run(
            _PRELUDE + _INSPECT, [upload.target, upload.part, str(upload.size), upload.digest], timeout=patience
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
            if done.returncode == _DISTURBED:
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
        done = self.transport.run(_PRELUDE + _SETTLE, [upload.target, upload.part, upload.digest], timeout=patience)
        if done.returncode not in (0, _DISTURBED):
            raise self._failure(f"copying {upload.name}", done)
        return done.returncode == 0

    def _append(self, upload: _Upload, offset: int, length: int) -> tuple[Completed, int]:
        upload.file.seek(offset)
        data = upload.file.read(min(length, upload.size - offset))
        with writing(tempfile.gettempdir()), tempfile.TemporaryFile() as chunk:
            chunk.write(data)
            chunk.seek(0)
            done = self.transport.run(_PRELUDE + _APPEND, [upload.part, str(offset)], stdin=chunk, timeout=120.0)
        return done, len(data)

    def _poll(self, name: str, rounds: int = 1, lines: _Lines | None = None) -> _State:
        known = str(lines.known) if lines else "-"
        done = self._run(_POLL, f"{self.root}/{JOBS}/{name}", str(rounds), known, timeout=30.0)
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
        done = self._run(_OUTPUT, f"{self.root}/{JOBS}/{name}", timeout=600.0)
        if done.returncode:
            raise self._failure(f"reading what {name} printed", done)
        return Completed(returncode=code, stdout=done.stdout, stderr=done.stderr)

    def _start(self, name: str, script: str, arguments: Sequence[str], token: str) -> None:
        _check(name, parts=1)
        everything = (self.root, name, token, _RUNNER, script, *arguments)
        try:
            done = self._run(_START, *everything)
        except KeyboardInterrupt:
            # It may or may not have been started; asked again, the host makes sure, and then it can be stopped.
            with suppress(HostError):
                self.transport.run(_PRELUDE + _START, everything, timeout=10.0)
            raise
        if done.returncode == _RUNNING:
            raise HostError(f"{self.transport.name}: {name} still runs there", "wait for it, or clean up there first")
        if done.returncode:
            raise self._failure(f"starting {name}", done)
        self._boots[name] = done.stdout.decode().strip()

    def _wait(self, name: str, timeout: float, progress: Progress | None) -> Completed:
        _check(name, parts=1)
        where, deadline = self.transport.name, time.monotonic() + timeout
        lines = _Lines(progress) if progress else None
        while True:
            began = time.monotonic()
            # The waiting is done there: asking costs a busy board more than sleeping does.
            rounds = math.ceil(min(1.0 if lines else 3.0, max(deadline - began, 0.0)) / _POLL_SECONDS)
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
            time.sleep(max(0.0, _POLL_SECONDS - (time.monotonic() - began)))

    def _stop(self, name: str, token: str = "") -> None:
        """Stop a job; with a token, only if it is the one that was started with it."""
        _check(name, parts=1)
        done = self._run(_STOP, f"{self.root}/{JOBS}/{name}", token)
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
        retry = _Retry(self.patience)
        while True:
            try:
                return self.transport.run(_PRELUDE + script, arguments, timeout=timeout)
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


@dataclass
class _Retry:
    """Waits a little longer after each loss, until the patience is at an end."""

    patience: float
    since: float | None = None
    delay: float = 0.2

    def after(self, error: HostLost) -> None:
        """
        Raises:
            HostLost: `error`, if it is time to give up.
        """
        now = time.monotonic()
        self.since = now if self.since is None else self.since
        if now + self.delay - self.since > self.patience:
            raise error
        time.sleep(self.delay)
        self.delay = min(2 * self.delay, 2.0)


@dataclass
class _Upload:
    """A file on its way. `furthest` is how much of it was ever there."""

    file: BinaryIO
    target: str
    name: str
    progress: Progress
    furthest: int = 0
    damaged: int = 0
    size: int = field(init=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        self.measure()

    @property
    def part(self) -> str:
        folder, _, name = self.target.rpartition("/")
        return f"{folder}/.{name}.part"

    def measure(self) -> None:
        self.size = os.fstat(self.file.fileno()).st_size
        self.digest = self._digest(self.size)

    def offset(self, there: list[str]) -> int | None:
        """Where to go on after what the host says is there; None if all is done."""
        if there == ["same"]:
            return None
        if len(there) == 3 and int(there[1]) <= self.size and self._digest(int(there[1])) == there[2]:
            return int(there[1])
        return 0

    def _digest(self, length: int) -> str:
        digest = hashlib.sha256()
        self.file.seek(0)
        while length and (block := self.file.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
        return digest.hexdigest()


class _Lines:
    """Hands each line of a growing text to `progress`, once."""

    def __init__(self, progress: Progress) -> None:
        self.known = 0
        self._progress = progress
        self._rest = b""

    def add(self, start: int, text: bytes) -> None:
        """Take what stands at `start`, which may be known in part."""
        fresh = text[self.known - start :]
        self.known += len(fresh)
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + fresh)
        for line in lines:
            self._tell(line)

    def finish(self) -> None:
        self._tell(self._rest)
        self._rest = b""

    def _tell(self, line: bytes) -> None:
        if line.strip():
            self._progress(line.decode(errors="replace").strip(), 0, 0)


def _check(name: str, parts: int | None = None) -> None:
    """Refuse names that could lead out of edgepack's folder, or hide in it.

    Raises:
        UsageError: it is such a name.
    """
    pieces = name.split("/")
    sound = name.isprintable() and (parts is None or len(pieces) == parts)
    if not sound or not all(piece and piece[0] not in ".-" and len(piece.encode()) <= 200 for piece in pieces):
        raise UsageError(f"{name!r} cannot be a name on a host", "use letters, digits, dots and dashes")


def _facts(text: str) -> dict[str, Any]:
    """Read what _FACTS printed."""
    sections = {}
    for section in re.split(r"^@@ ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        sections[title] = body.strip()
    python = dict(re.findall(r"^(\w+) (\S+)$", sections.get("python", ""), re.MULTILINE))
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB$", sections.get("memory", ""), re.MULTILINE))
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", sections.get("cpu", ""), re.MULTILINE)
    cores = len(re.findall(r"^processor\s*:", sections.get("cpu", ""), re.MULTILINE))
    disk = re.search(r"(\d+)\s+\d+%\s+\S*$", sections.get("disk", ""))
    glibc = re.fullmatch(r"glibc (\S+)", sections.get("glibc", ""))
    free = _number(python.get("free"))
    return {
        "machine": sections.get("machine") or python.get("machine"),
        "python": python.get("version"),
        "python_bits": _number(python.get("bits")),
        "glibc": python.get("glibc") or (glibc[1] if glibc else None),
        "memory_kb": _number(memory.get("MemTotal")),
        "memory_available_kb": _number(memory.get("MemAvailable")),
        "disk_free_bytes": int(disk[1]) * 1024 if free is None and disk else free,
        "cpu_flags": flags[1].split() if flags else None,
        "cores": cores or None,
        "boot_id": sections.get("boot") or None,
    }


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
