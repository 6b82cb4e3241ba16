"""A device behind SSH: a real sshd with keys and a home folder of its own, and a link to it that can be cut."""

from __future__ import annotations

import ctypes
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgepack.hosts.ssh import OPTIONS_VARIABLE

_CLONE_NEWNET = 0x40000000
_SSHD = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
_DEVICE_ADDRESS, _CLIENT_ADDRESS = "10.77.0.2", "10.77.0.1"


def eventually(true: Callable[[], object], seconds: float = 5.0) -> bool:
    """Whether it becomes true in that time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)
    return path


def processes(home: Path) -> dict[int, str]:
    """What runs with this HOME: pid and command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


@dataclass
class SshDevice:
    """One sshd. Its sessions have `home` as HOME, so that tests tell what runs there from all else."""

    folder: Path
    address: str
    port: int
    prefix: list[str] = field(default_factory=list)
    extra: str = ""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def url(self) -> str:
        return f"ssh://{getpass.getuser()}@{self.address}:{self.port}"

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def prepare(self) -> None:
        self.home.mkdir()
        host, user = key(self.folder / "host_key"), key(self.folder / "user_key")
        self.known_hosts.write_text(f"[{self.address}]:{self.port} {host.with_suffix('.pub').read_text()}")
        (self.folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress {self.address}\nHostKey {host}\nPidFile none\n"
            f"AuthorizedKeysFile {user}.pub\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nSetEnv HOME={self.home}\n{self.extra}"
        )
        self.config.write_text(
            f"Host *\n  IdentityFile {user}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile none\n"
            # Quicker than what ssh would choose by itself.
            f"  KexAlgorithms curve25519-sha256\n"
        )

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            begun = self.log.count("Server listening")
            command = [*self.prefix, str(_SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        if not eventually(lambda: self.log.count("Server listening") > begun or self._process.poll() is not None):
            raise AssertionError(f"sshd does not listen: {self.log}")
        if self._process.poll() is not None:
            raise AssertionError(f"sshd ended: {self.log}")

    def stop(self) -> None:
        """End sshd and cut all its connections, as a board's shutdown does; what it started runs on."""
        if self._process is None:
            return
        for pid in [self._process.pid, *_sessions(self._process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        self._process = None

    def kill_all(self) -> None:
        for pid in processes(self.home):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _sessions(pid: int) -> list[int]:
    """The processes below sshd that are sshd themselves."""
    parents: dict[int, list[int]] = {}
    names = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = stat.read_text().rpartition(") ")
        except OSError:
            continue
        number, _, name = head.partition(" (")
        names[int(number)] = name
        parents.setdefault(int(rest.split()[1]), []).append(int(number))
    found, waiting = [], [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            if names[child].startswith("sshd"):
                found.append(child)
                waiting.append(child)
    return found


def _need_ssh() -> None:
    for program in ("ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if _SSHD is None:
        pytest.skip("OpenSSH's server is not installed")
    if os.geteuid() == 0:
        # As root, sshd wants an empty folder that the system's own service would make.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)


@contextmanager
def loopback(folder: Path, extra: str = "") -> Iterator[SshDevice]:
    """An sshd on 127.0.0.1, as any user may run one."""
    _need_ssh()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    device = SshDevice(folder, "127.0.0.1", port, extra=extra)
    with _running(device):
        yield device


@contextmanager
def _running(device: SshDevice) -> Iterator[None]:
    device.prepare()
    try:
        device.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(OPTIONS_VARIABLE, f"-F {device.config}")
            yield
    finally:
        device.stop()
        device.kill_all()


@dataclass(frozen=True)
class Link:
    """The cable between the client's network namespace and the device's."""

    client: str
    device: str

    def cut(self) -> None:
        self._ip("link", "set", "cable", "down")

    def mend(self) -> None:
        self._ip("link", "set", "cable", "up")

    def sent(self) -> int:
        """Bytes that have gone to the device."""
        return int(json.loads(self._ip("-s", "-j", "link", "show", "cable"))[0]["stats64"]["tx"]["bytes"])

    def _ip(self, *arguments: str) -> str:
        return _ip("-n", self.client, *arguments)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """This thread, and what it starts, in another network namespace."""
    library = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{namespace}") as there:  # noqa: PTH123
        if library.setns(there.fileno(), _CLONE_NEWNET):
            pytest.skip(f"this user may not enter network namespaces: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            assert library.setns(here.fileno(), _CLONE_NEWNET) == 0


@contextmanager
def behind_link(folder: Path, extra: str = "") -> Iterator[tuple[SshDevice, Link]]:
    """An sshd at the other end of a cable, with this test's process at this end."""
    _need_ssh()
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")
    link = Link(f"edgepack-{os.getpid()}-here", f"edgepack-{os.getpid()}-there")
    device = SshDevice(folder, _DEVICE_ADDRESS, 2222, prefix=["ip", "netns", "exec", link.device], extra=extra)
    try:
        try:
            for name in (link.client, link.device):
                _ip("netns", "add", name)
            _ip(
                "-n", link.client, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", link.device
            )
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
        for name, address in ((link.client, _CLIENT_ADDRESS), (link.device, _DEVICE_ADDRESS)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        with _running(device), _inside(link.client):
            yield device, link
    finally:
        for name in (link.client, link.device):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
