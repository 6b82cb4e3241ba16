"""A host behind SSH, with a real sshd, and everything that goes wrong on the way to a board on somebody's desk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgepack.errors import EdgepackError, HostError, HostLost, Interrupted, UsageError, WriteFailed
from edgepack.hosts import connect
from edgepack.hosts.remote import Remote
from edgepack.hosts.ssh import OPTIONS_VARIABLE, Address, Ssh, quote
from tests.ssh_device import Link, SshDevice, behind_link, eventually, key, loopback, processes

Client = Callable[[str], "subprocess.Popen[str]"]

MEGABYTE = 1 << 20
# What a client does in a process of its own, after which it can be killed.
CLIENT = """
import sys
from edgepack.hosts import connect
from edgepack.hosts.remote import Remote
remote = Remote(connect(sys.argv[1]))
"""


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SshDevice]:
    with loopback(tmp_path) as device:
        yield device


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[tuple[SshDevice, Link]]:
    with behind_link(tmp_path) as (device, link):
        yield device, link


@pytest.fixture
def host(device: SshDevice) -> Iterator[Ssh]:
    host = Ssh(device.url)
    yield host
    host.close()


@pytest.fixture
def client(device: SshDevice) -> Iterator[Client]:
    """Starts a client in a process and a session of its own."""
    started = []
    # One that is killed cannot remove its folder.
    scratch = tempfile.mkdtemp(prefix="client-")

    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT + code, device.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": scratch},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    shutil.rmtree(scratch)


def jobs(device: SshDevice) -> list[str]:
    """The sleeps that tests start as jobs."""
    return [line for line in processes(device.home).values() if line.startswith("sleep 4")]


def a_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def one_line(error: BaseException) -> bool:
    assert isinstance(error, EdgepackError)
    return "\n" not in str(error) and bool(error.hint) and len(error.message) < 200


# --- commands ---------------------------------------------------------------------------------------------


def test_a_command_is_what_it_would_be_here(host: Ssh, tmp_path: Path) -> None:
    arguments = ["a b", "it's", "back\\slash\\", "two\nlines", "$HOME `id` $(id)", "*", "", "é", "-n", "!", '"']
    done = host.run('printf "%s|" "$@"; printf error >&2; exit 3', arguments)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (3, "|".join(arguments) + "|", b"error")
    given = a_file(tmp_path / "given", 300_000)
    with given.open("rb") as stdin:
        assert host.run("cat", stdin=stdin).stdout == given.read_bytes()
    assert host.run("cat").stdout == b""


def test_a_command_s_own_255_is_no_lost_connection(host: Ssh) -> None:
    assert host.run("exit 255").returncode == 255
    assert host.run("kill -s KILL $$").returncode == 128 + signal.SIGKILL
    assert host.run("echo 'x").returncode == 2
    assert host.run("no-such-program-anywhere").returncode == 127


def test_all_commands_share_one_connection(host: Ssh, device: SshDevice) -> None:
    for _ in range(5):
        host.run("true")
    assert device.log.count("Accepted publickey") == 1


def test_nothing_is_left_after_close(device: SshDevice) -> None:
    host = Ssh(device.url)
    folder = host._folder
    assert host.run("true").returncode == 0 and folder.stat().st_mode & 0o777 == 0o700
    host.close()
    assert not folder.exists()
    assert eventually(lambda: "Disconnected from user" in device.log or "disconnected by user" in device.log)


def test_what_a_login_shell_prints_does_not_matter(host: Ssh, device: SshDevice) -> None:
    for name in (".bashrc", ".zshenv", ".kshrc"):
        (device.home / name).write_text("echo welcome; echo warning >&2\n")
    done = host.run("echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_the_user_s_configuration_holds(device: SshDevice) -> None:
    device.config.write_text(
        f"Host Board\n  HostName {device.address}\n  Port {device.port}\n  RemoteCommand echo mine\n"
        f"  RequestTTY force\n  LocalForward 1 127.0.0.1:1\n  ControlMaster auto\n  ControlPath /nowhere/%C\n"
        + device.config.read_text()
    )
    assert connect("ssh://Board").run("echo ours").stdout == b"ours\n"


def test_a_home_folder_far_down_is_no_obstacle(
    device: SshDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    host = Ssh(device.url)
    assert host.run("echo here").stdout == b"here\n"
    host.close()


@pytest.mark.parametrize("shell", ["bash", "busybox", "dash", "fish", "ksh", "mksh", "zsh"])
def test_quoting_for_login_shells(shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    hard = ["", "a b", "'", "\\", "\\'", "'\\'", "\\\\", "a\nb", "$x", "`x`", '"', "!!", "*", "~", "\\n"]
    command = "exec printf '%s|' " + " ".join(map(quote, hard))
    arguments = [path, "sh", "-c", command] if shell == "busybox" else [path, "-c", command]
    done = subprocess.run(arguments, capture_output=True, check=True)
    assert done.stdout.decode() == "|".join(hard) + "|"


def test_a_script_too_long_for_one_command_is_a_mistake_here(host: Ssh) -> None:
    assert host.run("echo ${#1}", ["x" * 100_000]).stdout == b"100000\n"
    with pytest.raises(ValueError, match="too long"):
        host.run("true", ["x" * 140_000])


# --- addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "target", "port"),
    [
        ("ssh://board", "board", None),
        ("ssh://pi@board.local:2222", "pi@board.local", 2222),
        ("ssh://Alias/", "Alias", None),
        ("ssh://pi@[fe80::1%eth0]:22", "pi@fe80::1%eth0", 22),
        ("ssh://DOMAIN\\me@board", "DOMAIN\\me@board", None),
    ],
)
def test_addresses(url: str, target: str, port: int | None) -> None:
    address = Address.parse(url)
    assert (address.target, address.port) == (target, port)


@pytest.mark.parametrize(
    "url",
    [
        "ssh://",
        "ssh://-oProxyCommand=id",
        "ssh://-l@board",
        "ssh://pi:word@board",
        "ssh://board/path",
        "ssh://board:0",
        "ssh://board:99999",
        "ssh://board:x",
        "ssh://board;id",
        "ssh://$(id)",
        "ssh://a b",
        "ssh://pi@",
        "ssh://[board]",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(url)
    assert one_line(caught.value)


def test_options_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPTIONS_VARIABLE, "-F 'half")
    with pytest.raises(UsageError, match=OPTIONS_VARIABLE):
        Ssh("ssh://board")


# --- refusals ---------------------------------------------------------------------------------------------


def refusal(url: str, seconds: float = 5.0) -> HostError:
    began = time.monotonic()
    with pytest.raises(HostError) as caught:
        Ssh(url)
    assert time.monotonic() - began < seconds
    assert not isinstance(caught.value, HostLost) and one_line(caught.value)
    assert caught.value.message.startswith(url)
    return caught.value


def test_a_refused_key(device: SshDevice, tmp_path: Path) -> None:
    with loopback(_folder(tmp_path / "second")) as second, pytest.MonkeyPatch.context() as patch:
        patch.setenv(OPTIONS_VARIABLE, f"-F {device.config} -o UserKnownHostsFile={second.known_hosts}")
        error = refusal(second.url)
    assert "Permission denied" in error.message and f"ssh-copy-id -p {second.port}" in error.hint


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_changed_host_key(device: SshDevice, tmp_path: Path) -> None:
    other = key(tmp_path / "other").with_suffix(".pub").read_text()
    device.known_hosts.write_text(f"[{device.address}]:{device.port} {other}")
    error = refusal(device.url)
    assert "host key has changed" in error.message
    assert "ssh-keygen" in error.hint and f"-R '[{device.address}]:{device.port}'" in error.hint.replace('"', "'")


def test_an_unknown_host_key(device: SshDevice) -> None:
    device.known_hosts.write_text("")
    error = refusal(device.url)
    assert "not known" in error.message and f"ssh -p {device.port}" in error.hint
    assert device.known_hosts.read_text() == ""


def test_no_such_host(device: SshDevice) -> None:
    # A name that no resolver is asked for: it is too long for a label.
    error = refusal(f"ssh://{'x' * 70}")
    assert "there is no host" in error.message


def test_nobody_listens(device: SshDevice) -> None:
    device.stop()
    assert "Connection refused" in refusal(device.url).message


def test_somebody_listens_and_says_nothing(device: SshDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPTIONS_VARIABLE, f"-F {device.config} -o ConnectTimeout=1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "timed out" in refusal(f"ssh://127.0.0.1:{silent.getsockname()[1]}").message


def test_a_port_where_no_ssh_is(device: SshDevice) -> None:
    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        refusal(f"ssh://127.0.0.1:{server.getsockname()[1]}")


def test_options_that_ssh_does_not_know(device: SshDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPTIONS_VARIABLE, f"-F {device.config} -o Frobnicate=yes")
    assert "frobnicate" in refusal(device.url).message
    monkeypatch.setenv(OPTIONS_VARIABLE, "-F /no/such/file")
    assert "/no/such/file" in refusal(device.url).message


def test_no_ssh_here(device: SshDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="ssh is not installed") as caught:
        Ssh(device.url)
    assert "openssh-client" in caught.value.hint


def test_an_account_without_a_shell(tmp_path: Path) -> None:
    with loopback(tmp_path, "ForceCommand echo This account is not available; exit 1\n") as device:
        host = Ssh(device.url)
        with pytest.raises(HostError, match="runs no commands: This account is not available") as caught:
            host.run("true")
        assert one_line(caught.value) and not isinstance(caught.value, HostLost)
        host.close()


def test_a_failed_connection_leaves_no_folder(
    device: SshDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.stop()
    empty = _folder(tmp_path / "t")
    monkeypatch.setattr("tempfile.tempdir", str(empty))
    refusal(device.url)
    assert list(empty.iterdir()) == []


# --- the connection breaks --------------------------------------------------------------------------------


def test_a_command_that_takes_too_long(host: Ssh) -> None:
    began = time.monotonic()
    with pytest.raises(HostLost, match="no answer in 1 s") as caught:
        host.run("sleep 2", timeout=1.0)
    assert time.monotonic() - began < 2 and one_line(caught.value)
    assert host.run("echo again").stdout == b"again\n"


def test_sshd_stops_and_starts_again(host: Ssh, device: SshDevice) -> None:
    threading.Timer(0.3, device.stop).start()
    began = time.monotonic()
    with pytest.raises(HostLost, match="the connection broke") as caught:
        host.run("sleep 2")
    assert time.monotonic() - began < 1.5 and one_line(caught.value)
    with pytest.raises(HostLost, match="Connection refused") as caught:
        host.run("true")
    assert one_line(caught.value)
    with pytest.raises(HostLost, match="Connection refused"):
        Remote(host, patience=1.0).stop("job")
    device.start()
    assert host.run("echo back").stdout == b"back\n"


def test_a_job_outlives_sshd(host: Ssh, device: SshDevice) -> None:
    remote = Remote(host)
    remote.start("job", "sleep 1.5; echo done")
    device.stop()
    threading.Timer(1.0, device.start).start()
    assert remote.wait("job").stdout == b"done\n"


def test_an_upload_outlives_sshd(host: Ssh, device: SshDevice, tmp_path: Path) -> None:
    source = a_file(tmp_path / "source", 24 * MEGABYTE)
    breaks = iter([device])

    def progress(what: str, done: int, total: int) -> None:
        if 0 < done < total and (running := next(breaks, None)):
            running.stop()
            running.start()

    path = Remote(host).put(source, "file", progress)
    assert Path(path).read_bytes() == source.read_bytes()
    assert device.log.count("Accepted publickey") == 2


def test_a_dead_master_is_replaced(host: Ssh, device: SshDevice) -> None:
    assert host.run("true").returncode == 0
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(host._socket).encode() in process.read_bytes():
                os.kill(int(process.parent.name), signal.SIGKILL)
        except OSError:
            continue
    with pytest.raises(HostLost):
        host.run("true")
    assert host.run("echo back").stdout == b"back\n"


def test_a_key_withdrawn_meanwhile_is_a_refusal_and_no_loss(host: Ssh, device: SshDevice, tmp_path: Path) -> None:
    device.stop()
    (device.folder / "user_key.pub").write_text(key(tmp_path / "other").with_suffix(".pub").read_text())
    device.start()
    began = time.monotonic()
    with pytest.raises(HostError, match="refuses the key") as caught:
        Remote(host).facts()
    assert not isinstance(caught.value, HostLost) and time.monotonic() - began < 3


# --- what becomes of a job when its client ends -----------------------------------------------------------


def test_a_killed_client_s_job_is_found_by_the_next(host: Ssh, device: SshDevice, client: Client) -> None:
    code = "remote.start('job', 'sleep 1.5; echo $1', ['here']); print('started', flush=True); remote.wait('job')"
    process = client(code)
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    process.kill()
    done = Remote(host).wait("job")
    assert (done.returncode, done.stdout) == (0, b"here\n")


def test_a_killed_client_s_job_is_cleaned_up(host: Ssh, device: SshDevice, client: Client) -> None:
    process = client("remote.start('job', 'sleep 400 & sleep 401'); print('started', flush=True); remote.wait('job')")
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    process.kill()
    remote = Remote(host)
    with pytest.raises(HostError, match="job still runs there"):
        remote.start("job", "true")
    assert len(jobs(device)) == 2
    assert remote.clean() == ["jobs/job"]
    assert jobs(device) == [] and not (device.home / ".edgepack").exists()


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM; "])
def test_ctrl_c_leaves_nothing_running_there(device: SshDevice, client: Client, stubborn: str) -> None:
    script = f"{stubborn}sleep 400 & echo on >&2; sleep 401"
    process = client(f'remote.run("job", "{script}", progress=lambda *step: print("on", flush=True))')
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    assert eventually(lambda: len(jobs(device)) == 2)
    # As a terminal does it: to all of the client's process group.
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=6)
    assert error.strip().endswith("KeyboardInterrupt")
    assert jobs(device) == []
    # What asked for the job's end looks a last time, and leaves.
    assert eventually(lambda: not processes(device.home))


def test_ctrl_c_while_a_job_is_being_started(device: SshDevice, client: Client) -> None:
    for delay in (0.0, 0.03):
        process = client("remote.root; print('on', flush=True); remote.run('job', 'sleep 400')")
        assert process.stdout is not None and process.stdout.readline() == "on\n"
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=6)
        assert not eventually(lambda: jobs(device), 0.3)


def test_ctrl_c_with_no_way_to_the_board_says_so(device: SshDevice, host: Ssh) -> None:
    remote = Remote(host)

    def progress(line: str, done: int, total: int) -> None:
        device.stop()
        raise KeyboardInterrupt

    remote.start("job", "echo started >&2; sleep 400")
    with pytest.raises(Interrupted, match="job may still run") as caught:
        remote.wait("job", progress=progress)
    assert one_line(caught.value)


def test_a_board_that_restarts(host: Ssh, device: SshDevice) -> None:
    remote = Remote(host)
    remote.start("job", "sleep 400")
    record = device.home / ".edgepack" / "jobs" / "job" / "pid"
    pid, start, _ = record.read_text().split()
    os.killpg(int(pid), signal.SIGKILL)
    record.write_text(f"{pid} {start} 00000000-0000-0000-0000-000000000000\n")
    with pytest.raises(HostLost, match="job was lost: the board restarted") as caught:
        remote.wait("job")
    assert one_line(caught.value)
    remote.start("job", "echo again")
    assert remote.wait("job").stdout == b"again\n"


def test_a_board_whose_home_does_not_outlive_a_restart(host: Ssh, device: SshDevice) -> None:
    remote = Remote(host)
    remote.start("job", "sleep 400")
    remote._boots["job"] = "00000000-0000-0000-0000-000000000000"
    os.killpg(int((device.home / ".edgepack" / "jobs" / "job" / "pid").read_text().split()[0]), signal.SIGKILL)
    shutil.rmtree(device.home / ".edgepack")
    with pytest.raises(HostLost, match="the board restarted"):
        remote.wait("job")


# --- a full disk ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(device: SshDevice) -> Iterator[SshDevice]:
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(device.home)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"this user may not mount a small disk: {mount.stderr.strip().splitlines()[0]}")
    yield device
    device.stop()
    device.kill_all()
    subprocess.run(["umount", "--lazy", str(device.home)], check=True)


def test_a_full_disk(small_disk: SshDevice, host: Ssh, tmp_path: Path) -> None:
    remote = Remote(host)
    small = a_file(tmp_path / "small", MEGABYTE)
    with pytest.raises(WriteFailed, match="no space left on device") as caught:
        remote.put(a_file(tmp_path / "big", 4 * MEGABYTE), "big")
    assert one_line(caught.value) and caught.value.message.startswith(small_disk.url)
    assert [path.name for path in (small_disk.home / ".edgepack").iterdir()] == []
    assert Path(remote.put(small, "small")).read_bytes() == small.read_bytes()


def test_a_job_that_fills_the_disk(small_disk: SshDevice, host: Ssh) -> None:
    remote = Remote(host)
    remote.start("job", "cat /dev/zero >filler; exit 9")
    assert remote.wait("job").returncode == 9
    with pytest.raises(WriteFailed, match="no space left on device while starting second"):
        remote.start("second", "true")
    remote.remove("filler")
    remote.start("second", "true")
    assert remote.wait("second").returncode == 0


# --- the cable is pulled ----------------------------------------------------------------------------------


def test_a_link_cut_during_an_upload(linked: tuple[SshDevice, Link], tmp_path: Path) -> None:
    device, link = linked
    host = Ssh(device.url)
    source = a_file(tmp_path / "source", 64 * MEGABYTE)
    timers: list[threading.Timer] = []
    steps: list[int] = []

    def progress(what: str, done: int, total: int) -> None:
        steps.append(done)
        if done > total / 2 and not timers:
            timers.extend([threading.Timer(0.03, link.cut), threading.Timer(5.0, link.mend)])
            for timer in timers:
                timer.start()

    before, began = link.sent(), time.monotonic()
    path = Remote(host).put(source, "file", progress)
    took, sent = time.monotonic() - began, link.sent() - before
    assert Path(path).read_bytes() == source.read_bytes()
    assert len(timers) == 2 and took > 5 and device.log.count("Accepted publickey") == 2
    # Starting over would have taken another half of it at the least.
    assert sent < 1.4 * source.stat().st_size
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] == source.stat().st_size
    host.close()


def test_a_link_cut_during_a_job(linked: tuple[SshDevice, Link]) -> None:
    device, link = linked
    host = Ssh(device.url)
    remote = Remote(host)
    remote.start("job", "for i in 1 2 3; do sleep 1; echo $i >&2; done; echo done; exit 4")
    threading.Timer(0.5, link.cut).start()
    threading.Timer(5.5, link.mend).start()
    lines: list[str] = []
    began = time.monotonic()
    done = remote.wait("job", progress=lambda line, done, total: lines.append(line))
    assert (done.returncode, done.stdout, lines) == (4, b"done\n", ["1", "2", "3"])
    assert 5 < time.monotonic() - began < 15 and device.log.count("Accepted publickey") == 2
    host.close()


def test_a_link_that_stays_cut(linked: tuple[SshDevice, Link]) -> None:
    device, link = linked
    host = Ssh(device.url)
    remote = Remote(host, patience=1.0)
    remote.start("job", "sleep 400")
    link.cut()
    began = time.monotonic()
    with pytest.raises(HostLost) as caught:
        remote.wait("job")
    assert time.monotonic() - began < 12 and one_line(caught.value)
    link.mend()
    patient = Remote(host)
    patient.stop("job")
    assert jobs(device) == []
    host.close()
