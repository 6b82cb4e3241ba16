"""Emulated boards: a Debian root in which every program runs under QEMU as one chosen CPU.

A connection is one set of namespaces that lives until `close`: a job that one `run` starts is still there for the
next, and nothing is left afterwards. Inside it, binfmt_misc hands each program to QEMU, child processes too.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgepack.errors import HostError, HostLost, UsageError, writing
from edgepack.hosts import Completed
from edgepack.hosts.board_root import HOME, board_root, boards_folder, locked, needed, remove

SUITE = "bookworm"
# Far more than it takes, which is under a second on an idle machine.
START_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Arch:
    """What QEMU and Debian call a processor architecture, and what marks its programs: ELF class and machine."""

    qemu: str
    debian: str
    elf: tuple[int, int]


ARCHES = {
    "aarch64": Arch(qemu="aarch64", debian="arm64", elf=(2, 183)),
    "armv7l": Arch(qemu="arm", debian="armhf", elf=(1, 40)),
    "x86_64": Arch(qemu="x86_64", debian="amd64", elf=(2, 62)),
}


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """A CPU: `uname -m`, what QEMU calls it, the features and other lines of /proc/cpuinfo, ARM's id register."""

    arch: str
    model: str
    features: str
    lines: tuple[str, ...]
    midr: int = 0

    def cpuinfo(self, cores: Sequence[int]) -> str:
        """/proc/cpuinfo of a machine with these cores."""
        label = "flags" if self.arch == "x86_64" else "Features"
        lines = "".join(f"{line}\n" for line in (f"{label}\t: {self.features}", *self.lines))
        return "".join(f"processor\t: {core}\n{lines}\n" for core in cores)


def _arm(model: str, arch: str, features: str, part: int, variant: int, revision: int) -> Cpu:
    lines = (
        "CPU implementer\t: 0x41",
        f"CPU architecture: {8 if arch == 'aarch64' else 7}",
        f"CPU variant\t: {variant:#x}",
        f"CPU part\t: {part:#x}",
        f"CPU revision\t: {revision}",
    )
    midr = 0x41 << 24 | variant << 20 | 0xF << 16 | part << 4 | revision
    return Cpu(arch=arch, model=model, features=features, lines=lines, midr=midr)


# The features are those that QEMU gives each model (its AT_HWCAP, its cpuid), not those of one maker's chip.
_V7 = "half thumb fastmult vfp edsp thumbee neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae"
_V8 = "fp asimd aes pmull sha1 sha2 crc32 cpuid"
_V8_2 = "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_HASWELL = (
    "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 syscall nx rdtscp lm"
    " nopl cpuid pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand hypervisor lahf_lm"
    " abm fsgsbase bmi1 avx2 smep bmi2 erms xsaveopt"
)
CPUS = {
    "cortex-a53": _arm("cortex-a53", "aarch64", _V8, 0xD03, 0, 4),
    "cortex-a57": _arm("cortex-a57", "aarch64", _V8, 0xD07, 1, 0),
    "cortex-a72": _arm("cortex-a72", "aarch64", _V8, 0xD08, 0, 3),
    "cortex-a76": _arm("cortex-a76", "aarch64", _V8_2, 0xD0B, 4, 1),
    "neoverse-n1": _arm("neoverse-n1", "aarch64", _V8_2, 0xD0C, 4, 1),
    "cortex-a7": _arm("cortex-a7", "armv7l", _V7, 0xC07, 0, 5),
    "cortex-a15": _arm("cortex-a15", "armv7l", _V7, 0xC0F, 2, 1),
    "haswell": Cpu(
        arch="x86_64",
        # Without what QEMU cannot do in user mode, of which it would warn in every process.
        model="Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid",
        features=_HASWELL,
        lines=(
            "vendor_id\t: GenuineIntel",
            "cpu family\t: 6",
            "model\t\t: 60",
            "model name\t: Intel Core Processor (Haswell, no TSX)",
            "stepping\t: 1",
        ),
    ),
}
ALIASES = {
    "armv7": "cortex-a7",
    "rpi3": "cortex-a53",
    "rpi-zero2w": "cortex-a53",
    "rpi4": "cortex-a72",
    "rpi5": "cortex-a76",
    "jetson-nano": "cortex-a57",
    "intel-avx2": "haswell",
}


def parse(where: str) -> tuple[Cpu, str]:
    """The CPU and the Debian suite that `qemu:CPU[@SUITE]` names.

    Raises:
        UsageError: there is no such CPU, or it cannot be trusted.
    """
    name, _, suite = where.removeprefix("qemu:").partition("@")
    name, suite = name.lower(), suite or SUITE
    if name in ("max", "any"):
        raise UsageError(
            f"--on qemu:{name} is refused: under QEMU 7.2 its int8 arithmetic is wrong in some runtimes",
            f"name a CPU that exists: {', '.join(CPUS)}",
        )
    if name not in CPUS and name not in ALIASES:
        near = difflib.get_close_matches(name, [*CPUS, *ALIASES], 1, cutoff=0.5)
        known = ", ".join([*CPUS, *ALIASES])
        raise UsageError(
            f"--on qemu:{name}: no such CPU", f"did you mean qemu:{near[0]}?" if near else f"known: {known}"
        )
    if not re.fullmatch(r"[a-z][a-z0-9.-]*", suite):
        raise UsageError(f"{suite!r} is not the name of a Debian release", f"such as qemu:{name}@{SUITE}")
    return CPUS[ALIASES.get(name, name)], suite


class Emulated:
    """Runs commands on an emulated board, as its root, in its home.

    The board's root file system is read-only, its home and /tmp are new and empty, its network is this machine's.
    QEMU learns the CPU from the environment, so a script there must not start programs with an empty one.
    """

    emulated = True

    def __init__(self, where: str) -> None:
        """Set the board up; the first time for an architecture and suite this downloads and takes long.

        Raises:
            UsageError: `where` cannot be read.
            HostError: something that it needs is missing or not permitted here.
        """
        self.name = where
        self.cpu, self.suite = parse(where)
        arch = ARCHES[self.cpu.arch]
        interpreter = Path(needed(f"qemu-{arch.qemu}-static"))
        self._nsenter, unshare = needed("nsenter"), needed("unshare")
        root = board_root(arch.debian, self.suite)
        with ExitStack() as stack:
            folder = stack.enter_context(_connection_folder())
            with writing(folder):
                _prepare(folder, self.cpu, interpreter)
            self._init, self._pid = stack.enter_context(_namespaces(unshare, folder, root, self.cpu))
            # Also called when the object or the interpreter goes.
            self._finish = weakref.finalize(self, stack.pop_all().close)

    def run(
        self, script: str, arguments: Sequence[str] = (), *, stdin: BinaryIO | None = None, timeout: float = 60.0
    ) -> Completed:
        self._alive()
        process = subprocess.Popen(
            [
                self._nsenter, f"--target={self._pid}", "--user", "--mount", "--pid", "--ipc", "--root", "--wd",
                "--preserve-credentials", "--", "/bin/sh", "-c", script, "sh", *arguments,
            ],
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(self.cpu),
            start_new_session=True,
        )  # fmt: skip
        with process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except BaseException as error:
                # The script as well as nsenter. What the script started in a session of its own lives on.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise HostLost(
                        f"{self.name}: no answer in {timeout:.0f} s", "emulation is slow: try again"
                    ) from error
                raise
        if process.returncode:
            self._alive()
        return Completed(returncode=process.returncode, stdout=stdout, stderr=stderr)

    def close(self) -> None:
        """End every process of the board and delete what they wrote."""
        self._finish()

    def _alive(self) -> None:
        if self._init.poll() is not None:
            raise HostLost(f"{self.name}: the emulated board has stopped", "connect again; its files are gone")


def _environment(cpu: Cpu) -> dict[str, str]:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": f"/{HOME}", "USER": "root", "LANG": "C.UTF-8", "QEMU_CPU": cpu.model}


# --- what a connection has of its own -------------------------------------------------------------------------


@contextmanager
def _connection_folder() -> Iterator[Path]:
    """A folder that is deleted in the end, or by a later connection should this process be killed."""
    boards = boards_folder()
    with locked(boards / "connections.lock"):
        for left in boards.glob("run-*"):
            _remove_if_unused(left)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=boards))
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        remove(folder)
        os.close(handle)


def _remove_if_unused(folder: Path) -> None:
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(folder)
        finally:
            os.close(handle)


def _prepare(folder: Path, cpu: Cpu, interpreter: Path) -> None:
    """Fill a connection's folder: an empty home, mount points, QEMU, and what the kernel says of the CPU."""
    for name in ("root", "home", "binfmt"):
        (folder / name).mkdir()
    shutil.copy(interpreter, folder / "qemu")
    # A mark in the unused bytes of the ELF header: binfmt_misc must not give QEMU itself, a program of this
    # machine's own architecture, to QEMU.
    with (folder / "qemu").open("r+b") as file:
        file.seek(15)
        file.write(b"Q")
    cores = sorted(os.sched_getaffinity(0))
    (folder / "cpuinfo").write_text(cpu.cpuinfo(cores))
    for name, text in _sys(cpu, cores).items():
        path = folder / "sys/devices/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def _sys(cpu: Cpu, cores: Sequence[int]) -> dict[str, str]:
    """The files of /sys/devices/system that runtimes count cores by; OpenVINO crashes without them."""
    every, whole = ",".join(map(str, cores)), f"{sum(1 << core for core in cores):x}"
    files = dict.fromkeys(("cpu/possible", "cpu/present", "cpu/online", "node/node0/cpulist"), every)
    files |= {"node/possible": "0", "node/online": "0", "node/has_cpu": "0", "node/node0/cpumap": whole}
    for core in cores:
        topology = f"cpu/cpu{core}/topology"
        files |= {f"{topology}/physical_package_id": "0", f"{topology}/core_id": str(core)}
        for name in ("core_cpus", "thread_siblings"):
            files |= {f"{topology}/{name}": f"{1 << core:x}", f"{topology}/{name}_list": str(core)}
        for name in ("package_cpus", "core_siblings"):
            files |= {f"{topology}/{name}": whole, f"{topology}/{name}_list": every}
        if cpu.midr:
            files[f"cpu/cpu{core}/regs/identification/midr_el1"] = f"{cpu.midr:#018x}"
    return files


# --- namespaces -----------------------------------------------------------------------------------------------

# $1 the connection's folder, $2 the root, $3 the rule for binfmt_misc, $4 the handler that may serve instead.
_SETUP = r"""
mount --make-rprivate /
cd "$1"
mount --bind "$2" root
mount -o remount,bind,ro,nosuid,nodev root
mount -t tmpfs -o mode=755,nosuid dev root/dev
for node in null zero full random urandom tty; do
    : > root/dev/$node
    mount --bind /dev/$node root/dev/$node
done
mkdir root/dev/shm root/dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts root/dev/pts
ln -s pts/ptmx root/dev/ptmx
ln -s /proc/self/fd root/dev/fd
for number in 0:stdin 1:stdout 2:stderr; do
    ln -s /proc/self/fd/${number%:*} root/dev/${number#*:}
done
mount -t proc -o nosuid,nodev,noexec proc root/proc
mount --bind cpuinfo root/proc/cpuinfo
for kernel in sys sysrq-trigger; do
    [ -e root/proc/$kernel ] || continue
    mount --bind root/proc/$kernel root/proc/$kernel
    mount -o remount,bind,ro,nosuid,nodev,noexec root/proc/$kernel
done
mount --bind sys root/sys
mount -o remount,bind,ro,nosuid,nodev root/sys
mount -t tmpfs -o mode=1777,nosuid,nodev tmp root/tmp
mount -t tmpfs -o mode=755,nosuid,nodev run root/run
mount --bind home root/home/edge
# The number of this process outside, since this /proc is still the outer one.
read -r pid rest < /proc/self/stat
if mount -t binfmt_misc binfmt_misc binfmt 2> /dev/null; then
    printf '%s' "$3" > binfmt/register
else
    # Before Linux 6.7 there is one for all namespaces, and Debian's QEMU package registers itself there.
    grep -qs '^flags:.*F' "/proc/sys/fs/binfmt_misc/$4" || {
        echo "no binfmt_misc in a user namespace (Linux 6.7), nor a handler $4 outside" >&2
        exit 1
    }
fi
# The kernel reaps orphans for an init that ignores SIGCHLD. (dash cannot ignore it.)
exec unshare --root=root --wd=/home/edge /bin/bash -c 'trap "" CHLD; echo "$1"; exec cat' sh "$pid"
"""


def _rule(arch: Arch) -> str:
    """What to write to binfmt_misc. Flag F opens QEMU now, outside the root; P keeps argv[0]."""
    bits, machine = arch.elf
    magic = bytes((0x7F, *b"ELF", bits, 1, 1, *[0] * 9, 2, 0, machine, 0))
    mask = bytes((*[0xFF] * 7, 0, *[0xFF] * 8, 0xFE, 0xFF, 0xFF, 0xFF))  # any OS ABI; executables, also PIE
    magic_text, mask_text = ("".join(f"\\x{byte:02x}" for byte in text) for text in (magic, mask))
    return f":edgepack:M::{magic_text}:{mask_text}:qemu:FP"


@contextmanager
def _namespaces(unshare: str, folder: Path, root: Path, cpu: Cpu) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start the namespaces' first process. It ends, and all others with it, once our end of its stdin is closed."""
    arch = ARCHES[cpu.arch]
    errors = folder / "errors"
    flags = ["--user", "--map-root-user", "--mount", "--pid", "--ipc", "--fork", "--kill-child"]
    arguments = [str(folder), str(root), _rule(arch), f"qemu-{arch.qemu}"]
    with errors.open("wb") as file:
        process = subprocess.Popen(
            [unshare, *flags, "/bin/sh", "-euc", _SETUP, "sh", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            env={**os.environ, "QEMU_CPU": cpu.model},
            start_new_session=True,  # Ctrl-C is for us
        )
    with process:
        try:
            yield process, _started(process, errors)
        finally:
            assert process.stdin
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _started(process: subprocess.Popen[bytes], errors: Path) -> int:
    """The first process's number, once it runs emulated."""
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    answer = process.stdout.readline() if ready else b""
    if answer.strip().isdigit():
        return int(answer)
    said = errors.read_text(errors="replace").strip().splitlines() or ["it does not start"]
    raise HostError(
        f"no emulated board: {said[0]}",
        "it needs Linux with user namespaces, and `apt-get install qemu-user-static util-linux`",
    )
