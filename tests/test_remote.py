"""Files and jobs on a host, here with this machine as the host. What needs a connection that breaks: test_ssh.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from edgepack.errors import EdgepackError, HostError, HostLost, UsageError, WriteFailed
from edgepack.hosts import Completed
from edgepack.hosts.local import Local
from edgepack.hosts.remote import Remote
from tests.ssh_device import eventually, processes

# All that a device must have. The rest makes things faster where it is there.
NEEDED = ("cat", "mkdir", "rm", "mv", "kill")
MEGABYTE = 1 << 20


class Shell(Local):
    """This machine with another sh."""

    def __init__(self, shell: str) -> None:
        self.shell = shell

    def run(
        self, script: str, arguments: Sequence[str] = (), *, stdin: BinaryIO | None = None, timeout: float = 60.0
    ) -> Completed:
        done = subprocess.run(
            [self.shell, "-c", script, "sh", *arguments],
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
        )
        return Completed(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)


def tools(folder: Path, shell: str, names: Sequence[str] = NEEDED, python: bool = True) -> Path:
    """A folder for PATH with these programs, `shell` as its sh, and python3."""
    folder.mkdir()
    for name in names:
        path = shutil.which(name)
        # Of some, as of kill, the shell's own is all there need be.
        if path:
            (folder / name).symlink_to(path)
    (folder / "sh").symlink_to(shell)
    if python:
        (folder / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (folder / "python3").chmod(0o755)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    yield home
    for pid in processes(home):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def remote(home: Path) -> Remote:
    return Remote(Local())


@pytest.fixture(params=["sh", "bash", "busybox", "mksh", "needed"])
def anywhere(request: pytest.FixtureRequest, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """With each shell, and with nothing but what is needed."""
    path = shutil.which("sh" if request.param == "needed" else request.param)
    if path is None:
        pytest.skip(f"{request.param} is not installed")
    folder = tools(tmp_path / "tools", path)
    rest = "" if request.param == "needed" else f":{os.environ['PATH']}"
    monkeypatch.setenv("PATH", f"{folder}{rest}")
    return Remote(Shell(str(folder / "sh")))


def a_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def sleeps(home: Path) -> list[str]:
    """The sleeps that tests start as jobs."""
    return [line for line in processes(home).values() if "sleep 4" in line.partition("-c")[0]]


def job_file(home: Path, name: str, file: str) -> Path:
    return home / ".edgepack" / "jobs" / name / file


# --- in any shell, with the least of tools ----------------------------------------------------------------


def test_a_whole_round(anywhere: Remote, home: Path, tmp_path: Path) -> None:
    source = a_file(tmp_path / "source", 700_001)
    path = anywhere.put(source, "sub/a file")
    assert path == str(home / ".edgepack" / "sub" / "a file") and Path(path).read_bytes() == source.read_bytes()
    assert anywhere.put(source, "sub/a file") == path
    script = 'cat "$1" >copy; echo "$2"; echo error >&2; exit 7'
    lines: list[str] = []
    done = anywhere.run("job", script, ["sub/a file", "it's"], progress=lambda line, done, total: lines.append(line))
    assert (done.returncode, done.stdout, done.stderr, lines) == (7, b"it's\n", b"error\n", ["error"])
    anywhere.fetch("copy", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == source.read_bytes()
    anywhere.remove("copy")
    assert anywhere.clean() == ["jobs/job", "sub"]
    assert list(home.iterdir()) == [] and processes(home) == {}


def test_an_upload_goes_on(anywhere: Remote, home: Path, tmp_path: Path) -> None:
    source = a_file(tmp_path / "source", 700_001)
    part = home / ".edgepack" / ".file.part"
    part.parent.mkdir()
    part.write_bytes(source.read_bytes()[:600_000])
    steps: list[int] = []
    path = anywhere.put(source, "file", lambda what, done, total: steps.append(done))
    assert Path(path).read_bytes() == source.read_bytes() and not part.exists()
    assert steps == [600_000, 700_001]


def test_stop_ends_all_of_a_job(anywhere: Remote, home: Path) -> None:
    sleep = shutil.which("sleep", path="/bin:/usr/bin")
    anywhere.start("job", f"{sleep} 400 >/dev/null 2>&1 & {sleep} 401")
    assert eventually(lambda: len(sleeps(home)) == 2)
    anywhere.stop("job")
    assert sleeps(home) == []
    with pytest.raises(HostLost, match="job was lost: the process was killed"):
        anywhere.wait("job")
    anywhere.stop("job")


def test_a_long_job_is_waited_for(anywhere: Remote) -> None:
    anywhere.start("job", f"{shutil.which('sleep', path='/bin:/usr/bin')} 0.7; echo done")
    with pytest.raises(HostError, match="job still runs there"):
        anywhere.start("job", "true")
    assert anywhere.wait("job").stdout == b"done\n"


# --- files ------------------------------------------------------------------------------------------------


def test_the_folder_is_the_owner_s_alone(remote: Remote, home: Path, tmp_path: Path) -> None:
    (home / ".edgepack").mkdir(mode=0o755)
    assert remote.root == str(home / ".edgepack")
    assert (home / ".edgepack").stat().st_mode & 0o777 == 0o700
    path = remote.put(a_file(tmp_path / "source", 10), "file")
    assert Path(path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 3 * MEGABYTE])
def test_sizes(remote: Remote, tmp_path: Path, size: int) -> None:
    source = a_file(tmp_path / "source", size)
    steps: list[tuple[str, int, int]] = []
    path = remote.put(source, "file", lambda *step: steps.append(step))
    assert Path(path).read_bytes() == source.read_bytes()
    assert steps[0] == ("file", 0, size) and steps[-1] == ("file", size, size)


def test_an_equal_file_is_not_sent_again(remote: Remote, tmp_path: Path) -> None:
    source = a_file(tmp_path / "source", MEGABYTE)
    before = Path(remote.put(source, "file")).stat()
    steps: list[int] = []
    after = Path(remote.put(source, "file", lambda what, done, total: steps.append(done))).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns) and steps == [MEGABYTE]


def test_another_file_of_that_name_is_replaced_at_once(remote: Remote, tmp_path: Path) -> None:
    first, second = a_file(tmp_path / "first", MEGABYTE), a_file(tmp_path / "second", MEGABYTE)
    path = Path(remote.put(first, "file"))

    def progress(what: str, done: int, total: int) -> None:
        assert path.read_bytes() == first.read_bytes()

    remote.put(second, "file", progress)
    assert path.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("there", [b"", b"other", b"x" * 2_000_000])
def test_a_partial_of_something_else_is_not_continued(remote: Remote, home: Path, tmp_path: Path, there: bytes) -> None:
    source = a_file(tmp_path / "source", MEGABYTE)
    Path(remote.root, ".file.part").write_bytes(there)
    steps: list[int] = []
    path = remote.put(source, "file", lambda what, done, total: steps.append(done))
    assert Path(path).read_bytes() == source.read_bytes() and steps[0] == 0
    assert [entry.name for entry in Path(remote.root).iterdir()] == ["file"]


def test_a_writer_left_behind_cannot_spoil_the_file(remote: Remote, home: Path, tmp_path: Path) -> None:
    source = a_file(tmp_path / "source", MEGABYTE)
    part = Path(remote.root, ".file.part")
    part.write_bytes(source.read_bytes()[:1000])
    with part.open("ab") as end:
        writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=end)
    path = remote.put(source, "file")
    assert writer.wait(timeout=2) == -signal.SIGKILL
    assert Path(path).read_bytes() == source.read_bytes()
    assert writer.stdin is not None
    writer.stdin.close()


def test_a_file_that_keeps_changing_is_given_up(remote: Remote, tmp_path: Path) -> None:
    source = a_file(tmp_path / "source", 1000)
    with pytest.raises(HostError, match="arrived damaged 3 times") as caught:
        remote.put(source, "file", lambda what, done, total: a_file(source, 1000) and None)
    assert caught.value.hint and list(Path(remote.root).iterdir()) == []


def test_a_folder_in_the_way(remote: Remote, tmp_path: Path) -> None:
    Path(remote.root, "file").mkdir()
    with pytest.raises(HostError, match="is a folder"):
        remote.put(a_file(tmp_path / "source", 10), "file")
    with pytest.raises(HostError, match="there is no file"):
        remote.fetch("file", tmp_path / "target")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/x", "a//b", "a/../b", "a/", "-rf", ".hidden", "a\nb"])
def test_names_that_lead_elsewhere(remote: Remote, tmp_path: Path, name: str) -> None:
    source = a_file(tmp_path / "source", 10)
    for use in (
        lambda: remote.put(source, name),
        lambda: remote.fetch(name, tmp_path / "target"),
        lambda: remote.remove(name),
        lambda: remote.start(name, "true"),
        lambda: remote.wait(name),
        lambda: remote.stop(name),
    ):
        with pytest.raises(UsageError):
            use()
    assert not (tmp_path / "target").exists()


def test_names_of_jobs_are_not_for_files(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keeps its jobs"):
        remote.put(a_file(tmp_path / "source", 10), "jobs/x")
    with pytest.raises(UsageError):
        remote.start("a/b", "true")
    with pytest.raises(UsageError):
        remote.remove("jobs")


def test_fetch_of_what_is_not_there(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="there is no file nothing") as caught:
        remote.fetch("nothing", tmp_path / "target")
    assert caught.value.hint and list(tmp_path.glob("*target*")) == []


def test_fetch_to_where_nothing_can_be_written(remote: Remote, tmp_path: Path) -> None:
    remote.put(a_file(tmp_path / "source", 10), "file")
    with pytest.raises((WriteFailed, FileNotFoundError)):
        remote.fetch("file", tmp_path / "source" / "target")


def test_clean_where_nothing_is(remote: Remote, home: Path) -> None:
    assert remote.clean() == [] and list(home.iterdir()) == []


def test_clean_removes_all_and_more_can_follow(remote: Remote, home: Path, tmp_path: Path) -> None:
    remote.put(a_file(tmp_path / "source", 10), "file")
    Path(remote.root, ".half.part").write_bytes(b"x")
    remote.start("job", "sleep 400 & setsid sleep 401 & sleep 402")
    assert eventually(lambda: len(sleeps(home)) == 3)
    assert remote.clean() == [".half.part", "file", "jobs/job"]
    assert list(home.iterdir()) == [] and sleeps(home) == []
    remote.put(tmp_path / "source", "file")
    remote.start("job", "true")
    assert remote.wait("job").returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_cannot_be_written(remote: Remote, home: Path) -> None:
    home.chmod(0o500)
    with pytest.raises(WriteFailed, match="Permission denied"):
        print(remote.root)


def test_no_home(remote: Remote, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home / "not" / "there"))
    with pytest.raises(HostError) as caught:
        print(remote.root)
    assert isinstance(caught.value, EdgepackError) and caught.value.hint
    monkeypatch.delenv("HOME")
    for use in (lambda: remote.root, remote.clean):
        with pytest.raises(HostError):
            use()


# --- jobs -------------------------------------------------------------------------------------------------


def test_a_job_s_surroundings(remote: Remote, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    hard = ["a b", "it's", "$HOME", "", "two\nlines", "-n"]
    remote.start("job", 'pwd; echo "$LC_ALL"; cat; printf "%s|" "$@"', hard)
    done = remote.wait("job")
    assert done.stdout.decode() == f"{home}/.edgepack\nC.UTF-8\n{'|'.join(hard)}|" and done.stderr == b""


def test_a_job_has_a_session_of_its_own(remote: Remote, home: Path) -> None:
    remote.start("job", "sleep 400")
    pid = int(job_file(home, "job", "pid").read_text().split()[0])
    assert os.getsid(pid) == pid == os.getpgid(pid)
    remote.stop("job")


def test_a_job_gets_time_to_end_and_no_more(remote: Remote, home: Path) -> None:
    remote.start("kind", "trap 'sleep 0.5; echo bye; exit' TERM; echo on; while :; do sleep 0.1; done")
    remote.start("stubborn", "trap '' TERM; sleep 400")
    assert eventually(lambda: job_file(home, "kind", "stdout").read_text() == "on\n")
    remote.stop("kind")
    assert job_file(home, "kind", "stdout").read_text() == "on\nbye\n"
    began = time.monotonic()
    remote.stop("stubborn")
    assert 1.5 < time.monotonic() - began < 6 and sleeps(home) == []


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 255", 255), ("kill -s KILL $$", 137), ("no-such-program", 127), ("'", 2)]
)
def test_exit_codes(remote: Remote, script: str, code: int) -> None:
    remote.start("job", script)
    assert remote.wait("job").returncode == code


def test_much_output(remote: Remote) -> None:
    remote.start("job", "i=0; while [ $i -lt 20000 ]; do echo line $i; echo error $i >&2; i=$((i + 1)); done")
    lines: list[str] = []
    done = remote.wait("job", progress=lambda line, done, total: lines.append(line))
    assert done.stdout.splitlines() == [b"line %d" % i for i in range(20000)]
    assert lines == [f"error {i}" for i in range(20000)]


def test_lines_come_whole_and_once(remote: Remote) -> None:
    remote.start(
        "job", r"printf 'half ' >&2; sleep 1.3; printf 'and half\n10 %%\r20 %%\r\n\n' >&2; sleep 1; printf end >&2"
    )
    lines: list[str] = []
    remote.wait("job", progress=lambda line, done, total: lines.append(line))
    assert lines == ["half and half", "10 %", "20 %", "end"]


def test_a_second_client_gets_the_same_result(remote: Remote) -> None:
    remote.start("job", "sleep 0.5; echo result; exit 3")
    assert remote.wait("job") == Remote(Local()).wait("job") == remote.wait("job")


def test_the_same_name_again(remote: Remote) -> None:
    for word in ("first", "second"):
        remote.start("job", 'echo "$1"', [word])
        assert remote.wait("job").stdout.decode() == f"{word}\n"


def test_an_ended_job_s_stragglers_go_before_its_name_is_used_again(remote: Remote, home: Path) -> None:
    remote.start("job", "sleep 400 & true")
    assert remote.wait("job").returncode == 0 and len(sleeps(home)) == 1
    remote.start("job", "true")
    assert sleeps(home) == []


def test_a_job_started_twice_by_a_lost_answer_runs_once(remote: Remote, home: Path) -> None:
    class Forgetful(Local):
        """Loses every answer once, after the command ran."""

        def __init__(self) -> None:
            self.lost: set[str] = set()

        def run(
            self, script: str, arguments: Sequence[str] = (), *, stdin: BinaryIO | None = None, timeout: float = 60.0
        ) -> Completed:
            done = super().run(script, arguments, stdin=stdin, timeout=timeout)
            if script not in self.lost:
                self.lost.add(script)
                raise HostLost("the answer was lost", "try again")
            return done

    forgetful = Remote(Forgetful())
    forgetful.start("job", "echo run >>runs")
    assert forgetful.wait("job").returncode == 0
    assert Path(remote.root, "runs").read_text() == "run\n"


@pytest.mark.parametrize("run", ["start", "run"])
def test_ctrl_c_before_the_host_has_even_begun_to_start_the_job(home: Path, run: str) -> None:
    class Hasty(Local):
        """Interrupted while the command is on its way, as with a connection that somebody else holds."""

        late: threading.Timer | None = None

        def run(
            self, script: str, arguments: Sequence[str] = (), *, stdin: BinaryIO | None = None, timeout: float = 60.0
        ) -> Completed:
            if self.late is None and "sleep 400" in arguments:
                self.late = threading.Timer(0.3, super().run, (script, arguments))
                self.late.start()
                raise KeyboardInterrupt
            return super().run(script, arguments, stdin=stdin, timeout=timeout)

    transport = Hasty()
    with pytest.raises(KeyboardInterrupt):
        getattr(Remote(transport), run)("job", "sleep 400")
    assert transport.late is not None
    transport.late.join()
    assert sleeps(home) == []


def test_two_starts_at_once(home: Path) -> None:
    failures: list[HostError] = []

    def start() -> None:
        try:
            Remote(Local()).start("job", "echo run >>runs; sleep 400")
        except HostError as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["still runs" in failure.message for failure in failures] == [True] * 3
    assert len(sleeps(home)) == 1
    remote = Remote(Local())
    remote.stop("job")
    assert Path(remote.root, "runs").read_text() == "run\n"


def test_no_such_job(remote: Remote) -> None:
    with pytest.raises(HostError, match="there is no job job") as caught:
        remote.wait("job")
    assert not isinstance(caught.value, HostLost) and caught.value.hint
    remote.stop("job")
    remote.remove("jobs/job")


def test_a_job_that_takes_too_long_is_stopped(remote: Remote, home: Path) -> None:
    remote.start("job", "sleep 400")
    began = time.monotonic()
    with pytest.raises(HostLost, match="did not end within 1 s and was stopped"):
        remote.wait("job", timeout=1.0)
    assert time.monotonic() - began < 3 and sleeps(home) == []


def test_a_killed_job_s_children_are_ended(remote: Remote, home: Path) -> None:
    remote.start("job", "sleep 400 & sleep 401")
    os.kill(int(job_file(home, "job", "pid").read_text().split()[0]), signal.SIGKILL)
    with pytest.raises(HostLost, match="the process was killed"):
        remote.wait("job")
    assert sleeps(home) == []


def test_a_number_that_belongs_to_somebody_else_by_now(remote: Remote, home: Path) -> None:
    remote.start("job", "sleep 400")
    record = job_file(home, "job", "pid")
    _, start, boot = record.read_text().split()
    remote.stop("job")
    other = subprocess.Popen(["sleep", "410"], start_new_session=True)
    record.write_text(f"{other.pid} {start} {boot}\n")
    with pytest.raises(HostLost, match="the process was killed"):
        remote.wait("job")
    remote.stop("job")
    remote.clean()
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_board_that_restarted(remote: Remote, home: Path) -> None:
    remote.start("job", "sleep 400")
    record = job_file(home, "job", "pid")
    boot = record.read_text().split()[2]
    remote.stop("job")
    other = subprocess.Popen(["sleep", "410"], start_new_session=True)
    # On a new boot, even number and start may be the same by chance.
    ticks = Path(f"/proc/{other.pid}/stat").read_text().rpartition(") ")[2].split()[19]
    record.write_text(f"{other.pid} {ticks} {'0' * len(boot)}\n")
    with pytest.raises(HostLost, match="the board restarted"):
        remote.wait("job")
    remote.stop("job")
    assert other.poll() is None
    other.kill()
    other.wait()


def test_an_error_while_waiting_stops_the_job(remote: Remote, home: Path) -> None:
    def progress(line: str, done: int, total: int) -> None:
        raise ZeroDivisionError

    remote.start("job", "echo line >&2; sleep 400")
    with pytest.raises(ZeroDivisionError):
        remote.wait("job", progress=progress)
    assert sleeps(home) == []


def test_ctrl_c_stops_the_job(home: Path) -> None:
    code = (
        "from edgepack.hosts.local import Local; from edgepack.hosts.remote import Remote; remote = Remote(Local()); "
        "remote.run('job', 'echo on >&2; sleep 400', progress=lambda *step: print('on', flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    assert len(sleeps(home)) == 1
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=5)[1].strip().endswith("KeyboardInterrupt")
    assert sleeps(home) == []


@pytest.mark.parametrize("run", ["start", "run"])
def test_ctrl_c_does_not_stop_what_somebody_else_started(home: Path, run: str) -> None:
    class Hasty(Local):
        hurried = False

        def run(
            self, script: str, arguments: Sequence[str] = (), *, stdin: BinaryIO | None = None, timeout: float = 60.0
        ) -> Completed:
            if "sleep 401" in arguments and not self.hurried:
                self.hurried = True
                raise KeyboardInterrupt
            return super().run(script, arguments, stdin=stdin, timeout=timeout)

    remote = Remote(Local())
    remote.start("job", "sleep 400")
    with pytest.raises(KeyboardInterrupt):
        getattr(Remote(Hasty()), run)("job", "sleep 401")
    assert sleeps(home) == ["sleep 400 "]
    remote.stop("job")


def test_remove_of_a_job_stops_it(remote: Remote, home: Path) -> None:
    remote.start("job", "sleep 400")
    remote.remove("jobs/job")
    assert sleeps(home) == [] and not job_file(home, "job", "pid").exists()


# --- facts ------------------------------------------------------------------------------------------------


def test_facts(remote: Remote, home: Path) -> None:
    facts = remote.facts()
    assert facts["machine"] == os.uname().machine
    assert facts["python"].startswith("3.") and facts["python_bits"] in (32, 64)
    assert facts["glibc"] is None or facts["glibc"].startswith("2.")
    assert 0 < facts["memory_available_kb"] <= facts["memory_kb"]
    disk = os.statvfs(home)
    assert facts["disk_free_bytes"] == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.1)
    assert facts["cpu_flags"] and facts["cores"] == os.cpu_count()
    assert facts["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert list(home.iterdir()) == []


def test_facts_of_a_host_that_has_next_to_nothing(
    remote: Remote, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = remote.facts()
    no_python = tools(tmp_path / "no_python", "/bin/sh", ["df", "getconf"], python=False)
    needed = tools(tmp_path / "needed", "/bin/sh")
    nothing = tools(tmp_path / "nothing", "/bin/sh", [], python=False)
    monkeypatch.setenv("PATH", str(no_python))
    facts = remote.facts()
    assert facts.keys() == everything.keys()
    assert facts["python"] is facts["python_bits"] is facts["machine"] is facts["memory_kb"] is None
    assert facts["disk_free_bytes"] == pytest.approx(everything["disk_free_bytes"], rel=0.1)
    monkeypatch.setenv("PATH", str(needed))
    facts = remote.facts()
    assert facts["machine"] == everything["machine"] and facts["memory_kb"] == everything["memory_kb"]
    monkeypatch.setenv("PATH", str(nothing))
    assert set(remote.facts().values()) == {None}
