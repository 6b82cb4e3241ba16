"""Emulated boards. What needs a real one is slow, and skipped where the packages or the kernel do not allow it."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgepack import _root, target
from edgepack.building.plan import plan
from edgepack.bundles.remote_bundle import detect
from edgepack.errors import HostError, HostLost, UsageError
from edgepack.hosts import Completed, board_root, connect, emulated
from edgepack.hosts.emulated import ARCHES, CPUS, Emulated, parse
from edgepack.model import Model
from edgepack.passes.dynamic import dynamic
from edgepack.quantization.saturation import answers
from edgepack.reference import Session
from tests import models
from tests.test_saturation import every_layer, loud

Board = Callable[..., Emulated]

# --- names ----------------------------------------------------------------------------------------------------


def test_a_name_gives_the_cpu_and_the_suite() -> None:
    assert parse("qemu:cortex-a72") == (CPUS["cortex-a72"], "bookworm")
    assert parse("qemu:Cortex-A76@trixie") == (CPUS["cortex-a76"], "trixie")
    assert parse("qemu:rpi3")[0] is CPUS["cortex-a53"]
    assert parse("qemu:armv7")[0].arch == "armv7l"
    assert set(emulated.ALIASES.values()) <= set(CPUS)


def test_an_unknown_cpu_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no such CPU") as error:
        connect("qemu:cortex-a73")
    assert "cortex-a7" in error.value.hint and "did you mean" in error.value.hint
    with pytest.raises(UsageError) as error:
        connect("qemu:")
    assert "cortex-a53" in error.value.hint


@pytest.mark.parametrize("name", ["max", "any"])
def test_a_cpu_that_computes_wrongly_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="wrong") as error:
        connect(f"qemu:{name}")
    assert "cortex-a76" in error.value.hint


@pytest.mark.parametrize("suite", ["../x", "Book worm", "-o"])
def test_a_suite_is_a_name(suite: str) -> None:
    with pytest.raises(UsageError, match="Debian release"):
        parse(f"qemu:haswell@{suite}")


def test_cpuinfo_has_every_core() -> None:
    text = CPUS["cortex-a76"].cpuinfo([0, 3])
    assert text.count("processor") == 2 and "processor\t: 3\n" in text
    assert "asimddp" in text and "asimddp" not in CPUS["cortex-a72"].cpuinfo([0])
    assert "flags\t: " in CPUS["haswell"].cpuinfo([0])


# --- package sources ------------------------------------------------------------------------------------------

DEB822 = """# a comment
Types: deb deb-src
URIs: http://mirror.invalid/debian
# another
Suites: bookworm bookworm-updates
Components: main contrib
Architectures: amd64
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://mirror.invalid/security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.invalid/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """# deb http://off.invalid/debian bookworm main
deb [arch=amd64,i386 signed-by=/usr/share/keyrings/a.gpg] http://mirror.invalid/debian bookworm main # end
deb-src http://source.invalid/debian bookworm main
deb http://tool.invalid/linux bookworm stable
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(board_root.SOURCES, raising=False)
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    folder = tmp_path / "apt"
    (folder / "sources.list.d").mkdir(parents=True)
    return folder


def test_deb822_sources_are_narrowed_to_the_suite(apt: Path) -> None:
    (apt / "sources.list.d/debian.sources").write_text(DEB822)
    text = board_root.apt_sources("bookworm", apt)
    assert text.count("URIs: ") == 1 and "URIs: http://mirror.invalid/debian\n" in text
    assert "Suites: bookworm\n" in text and "Components: main\n" in text and "Types: deb\n" in text
    assert " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n" in text
    assert "Architectures" not in text


def test_one_line_sources_become_deb822(apt: Path) -> None:
    (apt / "sources.list").write_text(ONE_LINE)
    assert board_root.apt_sources("bookworm", apt).splitlines() == [
        "Types: deb",
        "URIs: http://mirror.invalid/debian",
        "Suites: bookworm",
        "Components: main",
        "Signed-By: /usr/share/keyrings/a.gpg",
    ]


def test_another_release_comes_from_the_mirror_of_this_one(apt: Path) -> None:
    (apt / "sources.list").write_text(ONE_LINE)
    (apt / "sources.list.d/off.sources.disabled").write_text(DEB822)
    assert "Suites: trixie\n" in board_root.apt_sources("trixie", apt)


def test_sources_can_be_given(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match="no package source for trixie") as error:
        board_root.apt_sources("trixie", apt)
    assert board_root.SOURCES in error.value.hint
    (apt / "mine").write_text("deb http://mine.invalid/debian trixie main\n")
    monkeypatch.setenv(board_root.SOURCES, str(apt / "mine"))
    assert "http://mine.invalid" in board_root.apt_sources("trixie", apt)


# --- making a root, with a stand-in for mmdebstrap --------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with tar, and stand-ins for the rest, but no mmdebstrap; an empty cache; sources of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("tar", "sh", "mkdir", "sleep"):
        (folder / name).symlink_to(shutil.which(name) or "missing")
    for name in ("unshare", "nsenter", "apt-config", *(f"qemu-{arch.qemu}-static" for arch in ARCHES.values())):
        _script(folder / name, "exit 1")
    (tmp_path / "sources").write_text("deb http://mirror.invalid/debian bookworm main\n")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(board_root.SOURCES, str(tmp_path / "sources"))
    return folder


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


# The archive is the argument before the last. The file in bin/ must end up in usr/bin.
FAKE = """
echo made >> {log}
while [ $# -gt 2 ]; do shift; done
mkdir {tree} && mkdir {tree}/etc {tree}/bin {tree}/usr {tree}/usr/bin && : > {tree}/bin/dash && sleep 0.3
tar -cf "$1" -C {tree} .
"""


def test_what_is_missing_is_named(tools: Path) -> None:
    with pytest.raises(HostError, match="needs mmdebstrap, which is not installed") as error:
        Emulated("qemu:cortex-a72")
    assert "apt-get install" in error.value.hint and error.value.exit_code == 53
    (tools / "qemu-aarch64-static").unlink()
    with pytest.raises(HostError, match="needs qemu-aarch64-static"):
        Emulated("qemu:cortex-a72")
    (tools / "nsenter").unlink()
    with pytest.raises(HostError, match="needs nsenter"):
        Emulated("qemu:haswell")


def test_a_root_that_cannot_be_made_leaves_nothing(tools: Path) -> None:
    _script(tools / "mmdebstrap", "echo 'I: start' >&2; echo 'E: no such mirror' >&2; echo 'I: end' >&2; exit 1")
    with pytest.raises(HostError, match="arm64 bookworm: E: no such mirror") as error:
        board_root.board_root("arm64", "bookworm")
    assert "\n" not in str(error.value)
    assert not [path for path in board_root.boards_folder().iterdir() if path.is_dir()]


def test_two_at_once_make_one_root(tools: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    _script(tools / "mmdebstrap", FAKE.format(log=log, tree=tmp_path / "tree"))
    roots: list[Path] = []
    threads = [
        threading.Thread(target=lambda: roots.append(board_root.board_root("arm64", "bookworm"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert roots[0] == roots[1] and log.read_text() == "made\n"
    assert (roots[0] / "usr/bin/dash").is_file() and (roots[0] / "bin").is_symlink()
    assert (roots[0] / "usr/bin/sh").readlink() == Path("dash")
    assert (roots[0] / "home/edge").is_dir() and "root" in (roots[0] / "etc/passwd").read_text()
    assert stat.S_IMODE(roots[0].parent.stat().st_mode) == 0o700


def test_what_a_killed_build_left_is_deleted(tools: Path, tmp_path: Path) -> None:
    _script(tools / "mmdebstrap", FAKE.format(log=tmp_path / "log", tree=tmp_path / "tree"))
    left = board_root.boards_folder() / f"build-arm64-bookworm-{board_root.RECIPE}-x"
    (left / "root").mkdir(parents=True)
    (left / "root").chmod(0)
    board_root.board_root("arm64", "bookworm")
    assert not left.exists()


def test_no_namespaces_is_one_line(tools: Path, tmp_path: Path) -> None:
    _script(tools / "mmdebstrap", FAKE.format(log=tmp_path / "log", tree=tmp_path / "tree"))
    _script(tools / "unshare", "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1")
    with pytest.raises(HostError, match="unshare failed: Operation not permitted") as error:
        Emulated("qemu:cortex-a72")
    assert "user namespaces" in error.value.hint
    assert not list(board_root.boards_folder().glob("run-*"))


# --- real boards ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def board() -> Iterator[Board]:
    """Connect to a board that the tests share, or skip."""
    boards: dict[str, Emulated] = {}

    def shared(where: str) -> Emulated:
        if where not in boards:
            available(where)
            boards[where] = Emulated(where)
        return boards[where]

    yield shared
    for each in boards.values():
        each.close()


def available(where: str) -> None:
    """Skip unless this machine can have such a board. A fault of edgepack's own must not skip."""
    cpu, suite = parse(where)
    arch = ARCHES[cpu.arch]
    for command in ("mmdebstrap", f"qemu-{arch.qemu}-static", "unshare", "nsenter"):
        if not shutil.which(command):
            pytest.skip(f"{command} is not installed")
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    if subprocess.run(unshare, capture_output=True).returncode:
        pytest.skip("user namespaces are not permitted here")
    try:
        board_root.board_root(arch.debian, suite)
    except HostError as error:
        pytest.skip(f"no root: {error}")


def said(done: Completed) -> str:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def python(board: Emulated, code: str, *arguments: str, timeout: float = 120) -> str:
    return said(board.run('python3 -c "$@"', [code, *arguments], timeout=timeout))


MACHINES = [("qemu:cortex-a72", "aarch64"), ("qemu:armv7", "armv7l"), ("qemu:haswell", "x86_64")]
# The bits of AT_HWCAP on aarch64 that /proc/cpuinfo calls by these names.
HWCAP = {
    "fp": 0, "asimd": 1, "evtstrm": 2, "aes": 3, "pmull": 4, "sha1": 5, "sha2": 6, "crc32": 7, "atomics": 8,
    "fphp": 9, "asimdhp": 10, "cpuid": 11, "asimdrdm": 12, "jscvt": 13, "fcma": 14, "lrcpc": 15, "dcpop": 16,
    "sha3": 17, "sm3": 18, "sm4": 19, "asimddp": 20, "sha512": 21, "sve": 22,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("where", "machine"), MACHINES)
def test_every_program_sees_the_machine(board: Board, where: str, machine: str) -> None:
    there = board(where)
    assert there.emulated and there.name == where
    code = (
        "import os, platform, subprocess\n"
        "print(platform.machine(), subprocess.check_output(['sh', '-c', 'uname -m'], text=True).strip())\n"
        "print(os.cpu_count() == len(os.sched_getaffinity(0)), os.path.expanduser('~'), os.listdir())\n"
    )
    assert python(there, code).splitlines() == [f"{machine} {machine}", "True /home/edge []"]
    assert said(there.run('echo "$LANG $PWD $2"', ["a", "b c"])) == "C.UTF-8 /home/edge b c"
    assert said(there.run("cat; echo end")) == "end"  # no stdin is an empty one
    done = there.run("echo oops >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"", b"oops\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, cpu in CPUS.items() if cpu.arch == "aarch64"])
def test_cpuinfo_is_what_the_emulated_cpu_can_do(board: Board, name: str) -> None:
    there = board(f"qemu:{name}")
    features = set(said(there.run("grep -m1 Features /proc/cpuinfo")).partition(":")[2].split())
    has = int(said(there.run("LD_SHOW_AUXV=1 /bin/true | grep AT_HWCAP:")).split()[1], 16)
    # A newer QEMU may know more of a CPU than the one that the table was made with; never less.
    assert features <= {feature for feature, bit in HWCAP.items() if has >> bit & 1}
    assert {"asimddp", "asimdhp"} <= features or not {"asimddp", "asimdhp"} & features
    assert ("asimddp" in features) == bool(has >> HWCAP["asimddp"] & 1) == (name in ("cortex-a76", "neoverse-n1"))


@pytest.mark.slow
def test_an_old_intel_has_no_vnni_for_child_processes_either(board: Board) -> None:
    code = """
import ctypes, mmap, subprocess, sys
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3"))
ask = ctypes.CFUNCTYPE(None, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)(
    ctypes.addressof(ctypes.c_char.from_buffer(page)))
answer = (ctypes.c_uint * 4)()
ask(7, 0, ctypes.addressof(answer))
avx2, avx512f, vnni = answer[1] >> 5 & 1, answer[1] >> 16 & 1, answer[2] >> 11 & 1
ask(7, 1, ctypes.addressof(answer))
print(avx2, avx512f, vnni, answer[0] >> 4 & 1)
if len(sys.argv) > 1:
    sys.stdout.flush()
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""
    there = board("qemu:haswell")
    assert python(there, code, code).splitlines() == ["1 0 0 0"] * 2
    flags = said(there.run("grep -m1 ^flags /proc/cpuinfo"))
    assert "avx2" in flags and "avx512" not in flags and "vnni" not in flags


@pytest.mark.slow
def test_a_job_outlives_the_run_that_started_it(board: Board) -> None:
    there = board("qemu:cortex-a72")
    start = "setsid sh -c 'sleep 1; echo done > flag; exit 3' < /dev/null > /dev/null 2>&1 & echo $!"
    number = said(there.run(start))
    assert there.run("kill -0 $1", [number]).returncode == 0
    for _ in range(100):
        if there.run("kill -0 $1 2> /dev/null", [number]).returncode:
            break
        time.sleep(0.1)
    else:
        pytest.fail("an ended job is never reaped")
    assert said(there.run("cat flag; rm flag")) == "done"


@pytest.mark.slow
def test_time_is_up_for_the_script_but_not_for_jobs(board: Board) -> None:
    there = board("qemu:cortex-a72")
    start = time.monotonic()
    with pytest.raises(HostLost, match="no answer in 1 s"):
        there.run("setsid sleep 4321 > /dev/null 2>&1 & echo $! > job; sleep 1234", timeout=1)
    assert time.monotonic() - start < 10
    processes = said(there.run("ps ax"))
    assert "sleep 1234" not in processes and "sleep 4321" in processes
    said(there.run("kill $(cat job) && rm job"))


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [5, 100])
def test_stdin_arrives_whole(board: Board, megabytes: int) -> None:
    there = board("qemu:cortex-a72")
    data = os.urandom(1 << 20) * megabytes
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        said(there.run("cat > big", stdin=file))
    assert said(there.run("sha256sum big")).split()[0] == hashlib.sha256(data).hexdigest()
    assert there.run("cat big; rm big").stdout == data


@pytest.mark.slow
def test_boards_do_not_see_each_other(board: Board) -> None:
    first = board("qemu:cortex-a72")
    with closing(Emulated("qemu:cortex-a72")) as second:
        said(first.run("echo 1 > mine; echo 1 > /tmp/mine"))
        assert said(second.run("ls -A . /tmp")).split() == [".:", "/tmp:"]
        assert first.run("touch /usr/x").returncode != 0
        assert first.run("echo x > /proc/sys/kernel/hostname").returncode != 0
    assert said(first.run("cat mine /tmp/mine; rm mine /tmp/mine")) == "1\n1"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the usual root and no connections but this test's."""
    available("qemu:cortex-a53")
    root = board_root.board_root("arm64", "bookworm")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    board_root.boards_folder().joinpath(root.name).symlink_to(root)
    return board_root.boards_folder()


def _running(seconds: int) -> bool:
    """Is there a process `sleep SECONDS` on this machine?"""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"sleep\0{seconds}\0" in path.read_text(errors="replace"):
                return True
    return False


@pytest.mark.slow
def test_nothing_is_left(own_cache: Path) -> None:
    seconds = 100_000 + os.getpid()
    there = connect("qemu:cortex-a53")
    (folder,) = own_cache.glob("run-*")
    said(there.run("mkdir -m 0 locked; touch file; chmod 555 .; setsid sleep $1 > /dev/null 2>&1 &", [str(seconds)]))
    assert _running(seconds) and str(folder) not in Path("/proc/mounts").read_text()
    there.close()
    there.close()
    assert not folder.exists() and not _running(seconds)
    with pytest.raises(HostLost, match="has stopped"):
        there.run("true")


@pytest.mark.slow
def test_a_killed_edgepack_leaves_nothing_for_long(own_cache: Path) -> None:
    seconds = 200_000 + os.getpid()
    code = (
        "import os, signal, sys; from edgepack.hosts import connect\n"
        "board = connect('qemu:cortex-a53')\n"
        "board.run('setsid sleep $1 > /dev/null 2>&1 & echo $!', sys.argv[1:])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(seconds)], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    until = time.monotonic() + 5
    while _running(seconds) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _running(seconds)
    (left,) = own_cache.glob("run-*")
    with closing(Emulated("qemu:cortex-a53")):
        assert not left.exists()
    assert not list(own_cache.glob("run-*"))


@pytest.mark.slow
def test_a_forgotten_board_is_closed(own_cache: Path) -> None:
    there = Emulated("qemu:cortex-a53")
    first = there._init
    del there
    gc.collect()
    assert first.poll() is not None and not list(own_cache.glob("run-*"))


@pytest.mark.slow
def test_a_board_that_died_is_lost() -> None:
    available("qemu:cortex-a53")
    with closing(Emulated("qemu:cortex-a53")) as there:
        there._init.kill()
        there._init.wait()
        with pytest.raises(HostLost, match="has stopped"):
            there.run("true")


# --- a runtime on the boards ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def runtime(board: Board) -> Board:
    """Boards with onnxruntime, of this machine's version, in ~/lib."""
    prepared: set[str] = set()

    def with_runtime(where: str) -> Emulated:
        there = board(where)
        if where not in prepared:
            with wheels(there.cpu.arch).open("rb") as archive:
                said(there.run("mkdir lib && tar -xf - -C lib", stdin=archive, timeout=300))
            prepared.add(where)
        return there

    return with_runtime


def wheels(arch: str) -> Path:
    """An archive of numpy and onnxruntime for Debian 12 on that architecture, kept beside the boards."""
    import onnxruntime

    folder = board_root.boards_folder().with_name("test-wheels")
    folder.mkdir(exist_ok=True)
    archive = folder / f"onnxruntime-{onnxruntime.__version__}-{arch}.tar"
    with board_root.locked(archive.with_suffix(".lock")):
        if archive.exists():
            return archive
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            platforms = [f"manylinux_2_{minor}_{arch}" for minor in range(17, 37)] + [f"manylinux2014_{arch}"]
            command = [
                sys.executable, "-m", "pip", "install", "--quiet", "--target", f"{scratch}/lib", "--no-deps",
                "--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311",
                *(f"--platform={platform}" for platform in platforms),
                f"onnxruntime=={onnxruntime.__version__}", "numpy",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no wheels for {arch}: {done.stderr.strip().splitlines()[-1:]}")
            with tarfile.open(f"{scratch}/tar", "w") as file:
                for name in ("numpy", "numpy.libs", "onnxruntime"):
                    if Path(scratch, "lib", name).exists():
                        file.add(f"{scratch}/lib/{name}", name, filter=_without_tests)
            Path(scratch, "tar").rename(archive)
    return archive


def _without_tests(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    left_out = {"tests", "transformers", "quantization", "tools", "__pycache__"}
    return None if left_out & set(member.name.split("/")) else member


RUN = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
feed = {file[:-4]: numpy.load(file) for file in os.listdir() if file.endswith(".npy")}
numpy.save("y", session.run(None, feed)[0])
"""


BUNDLED = """
import os
import numpy, runner
feed = {file[:-4]: numpy.load(file) for file in os.listdir() if file.endswith(".npy")}
numpy.save("y", runner.load("model.onnx", 1)(feed)["y"])
"""


def answer(
    there: Emulated, proto: onnx.ModelProto, feed: dict[str, np.ndarray], *, bundled: bool = False
) -> np.ndarray:
    """What onnxruntime on that board answers, by itself or with the runner of a bundle."""
    said(there.run("rm -rf work && mkdir work"))
    contents = {"model.onnx": proto.SerializeToString()}
    if bundled:
        contents["runner.py"] = (_root.TARGETS / "onnxruntime" / "runner.py").read_bytes()
    for name, array in feed.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        contents[f"{name}.npy"] = buffer.getvalue()
    for name, data in contents.items():
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            said(there.run('cat > "work/$1"', [name], stdin=file))
    script = BUNDLED if bundled else RUN
    said(there.run('cd work && PYTHONPATH=../lib:. python3 -c "$1"', [script], timeout=300))
    result: np.ndarray = np.load(io.BytesIO(there.run("cat work/y.npy").stdout))
    return result


@pytest.fixture(scope="session")
def int8_convnet(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """A small CNN, quantized to 7 bits so that it is the same on every CPU."""
    from onnxruntime import quantization

    class Calibration(quantization.CalibrationDataReader):
        feeds: Iterator[dict[str, np.ndarray]] = iter([{"x": models.images(8, seed=1)}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    folder = tmp_path_factory.mktemp("int8")
    onnx.save(models.convnet(), folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx", folder / "int8.onnx", Calibration(), per_channel=True, reduce_range=True
    )
    return onnx.load(folder / "int8.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["qemu:cortex-a53", "qemu:cortex-a76", "qemu:haswell"])
def test_int8_answers_are_bit_equal_to_this_machine(runtime: Board, int8_convnet: onnx.ModelProto, where: str) -> None:
    import onnxruntime

    feed = {"x": models.images(4, seed=2)}
    session = onnxruntime.InferenceSession(int8_convnet.SerializeToString(), providers=["CPUExecutionProvider"])
    here = session.run(None, feed)[0]
    assert len(np.unique(here)) > 4
    np.testing.assert_array_equal(answer(runtime(where), int8_convnet, feed), here)


@pytest.mark.slow
@pytest.mark.parametrize(("where", "total"), [("qemu:haswell", 64 // 2 * 32767), ("qemu:cortex-a53", 64 * 255 * 127)])
def test_u8s8_saturates_on_the_old_intel_only(runtime: Board, where: str, total: int) -> None:
    proto = models.model(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        {"a": [1, 64]},
        {"y": [1, 16]},
        {"b": np.full((64, 16), 127, np.int8)},
        types={"a": TensorProto.UINT8, "y": TensorProto.INT32},
    )
    result = answer(runtime(where), proto, {"a": np.full((1, 64), 255, np.uint8)})
    assert (result == total).all(), result


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_the_emulation_answers_as_the_old_intel(runtime: Board, count: int) -> None:
    model, feed = loud(every_layer()), {"x": models.images(count, size=8, seed=3)}
    there = answer(runtime("qemu:haswell"), model.proto(), feed)
    np.testing.assert_array_equal(answers(model, feed)["y"], there)
    assert not np.array_equal(Session(model).run(feed)["y"], there)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("zero", [0, 77])
def test_the_emulation_adds_as_the_old_intel(runtime: Board, rows: int, zero: int) -> None:
    """One row, an odd length and a zero point each have kernels of their own."""
    random = np.random.default_rng(rows + zero)
    weight = random.integers(-128, 128, (403, 21)).astype(np.int8)
    proto = models.model(
        [helper.make_node("MatMulInteger", ["a", "b", "z"], ["y"])],
        {"a": [rows, 403]},
        {"y": [rows, 21]},
        {"b": weight, "z": np.array(zero, np.uint8)},
        types={"a": TensorProto.UINT8, "y": TensorProto.INT32},
    )
    feed = {"a": random.integers(0, 256, (rows, 403)).astype(np.uint8)}
    there = answer(runtime("qemu:haswell"), proto, feed)
    np.testing.assert_array_equal(answers(Model.from_proto(proto), feed)["y"], there)
    assert not np.array_equal((feed["a"].astype(np.int64) - zero) @ weight.astype(np.int64), there)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [7, 8])
def test_bundles_answer_exactly_on_the_old_intel(runtime: Board, bits: int) -> None:
    """Seven bits never saturate; eight do not because the runner has them multiplied unsigned."""
    model, feed = loud(every_layer(), bits=bits), {"x": models.images(2, size=8, seed=4)}
    here = Session(model).run(feed)["y"]
    np.testing.assert_array_equal(answer(runtime("qemu:haswell"), model.proto(), feed, bundled=True), here)
    if bits == 7:
        np.testing.assert_array_equal(answer(runtime("qemu:haswell"), model.proto(), feed), here)


@pytest.mark.slow
def test_an_old_intel_is_a_device_of_seven_bits(board: Board) -> None:
    """By what it says of itself over a connection, and as the build machine."""
    found = detect("qemu:haswell", "old")
    decided = plan(found, target="onnxruntime", precision="int8", has_data=True, is_quantized=False, threads=1)
    assert found.saturates and decided.scheme.weight_bits == 7
    there = board("qemu:haswell")
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name in ("__init__", "_root", "_version", "device", "errors"):
                archive.add(Path(_root.__file__).with_name(f"{name}.py"), f"edgepack/{name}.py")
        file.seek(0)
        said(there.run("rm -rf host && mkdir host && tar -xf - -C host", stdin=file))
    code = "from edgepack.device import detect; found = detect(); print(found.board, found.saturates)"
    assert said(there.run('cd host && python3 -c "$1"', [code], timeout=60)) == "host True"


@pytest.mark.slow
def test_the_emulation_answers_as_the_old_intel_in_dynamic_models(runtime: Board) -> None:
    model = dynamic(models.in_edgepack(models.mlp(features=64)), target.load("onnxruntime").SCHEME).model
    feed = {"x": np.abs(models.random((3, 64), 5)) + 3}
    there = answer(runtime("qemu:haswell"), model.proto(), feed)
    np.testing.assert_allclose(answers(model, feed)["y"], there, rtol=1e-5, atol=1e-5)
    assert not np.allclose(Session(model).run(feed)["y"], there, rtol=1e-3)
    bundled = answer(runtime("qemu:haswell"), model.proto(), feed, bundled=True)
    np.testing.assert_allclose(bundled, Session(model).run(feed)["y"], rtol=1e-5, atol=1e-5)
