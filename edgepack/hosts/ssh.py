"""A host behind SSH, reached with the system's own `ssh`: the user's configuration, agent and jump hosts hold.

One connection serves all commands. `EDGEPACK_SSH_OPTIONS` holds further options for `ssh`, quoted as in a shell:
`EDGEPACK_SSH_OPTIONS="-F other_config -o ConnectTimeout=30"`.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from edgepack.errors import HostError, HostLost, UsageError
from edgepack.hosts import Completed

OPTIONS_VARIABLE = "EDGEPACK_SSH_OPTIONS"

_URL = re.compile(
    r"ssh://(?:(?P<user>[\w.+\\][\w.+\\@-]*)@)?(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>\w[\w.-]*))"
    r"(?::(?P<port>\d{1,5}))?/?"
)
# ssh appends a dot and 16 characters to a control socket's path while it makes it; a socket's path ends at 103.
_LONGEST_FOLDER = 80
# A dead link is noticed after three unanswered seconds. What the user gives comes first, and ssh takes the first.
_DEFAULTS = ("ServerAliveInterval=1", "ServerAliveCountMax=3", "ConnectTimeout=8", "LogLevel=ERROR")
# Neither forwardings nor a command from the user's configuration: they would clash, or run instead of ours.
_FIXED = ("-T", "-a", "-x", "-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none")
# Longer than any ConnectTimeout should take, with a jump host and a slow board.
_CONNECT_SECONDS = 40.0
# Linux lets no argument be longer than this, and sshd gives its command to the login shell as one.
_LONGEST_COMMAND = 128 * 1024 - 1

_OWN_FAULT = re.compile(r"Bad (configuration|owner)|config(uration)? file|(illegal|unknown) option|Unable to negotiate")

# ssh ends with 255 when it fails, but so may a command; and login shells print what nobody asked for. So the
# script's own output and exit code stand between marks.
_WRAPPER = r"""mark=$1 script=$2; shift 2
echo "$mark"; echo "$mark" >&2
sh -c "$script" sh "$@"
code=$?; echo >&2; echo "$mark $code" >&2"""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where ssh shall go: `target` is its argument, [user@]host."""

    target: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, url: str) -> Address:
        """
        Raises:
            UsageError: it is not ssh://[user@]host[:port].
        """
        match = _URL.fullmatch(url)
        if match is None or int(match["port"] or 22) not in range(1, 65536):
            raise UsageError(f"--on {url} is not understood", "ssh://user@host or ssh://user@host:port")
        host = match["v6"] or match["host"]
        return cls(
            target=f"{match['user']}@{host}" if match["user"] else host,
            host=host,
            port=int(match["port"]) if match["port"] else None,
        )


class Ssh:
    """Runs commands on ssh://[user@]host[:port]. Connects when made, and again after the connection broke.

    Raises:
        UsageError: the address or EDGEPACK_SSH_OPTIONS cannot be read.
        HostError: there is no way to the host, or it refuses us.
    """

    emulated = False

    def __init__(self, where: str) -> None:
        self.name = where
        self._address = Address.parse(where)
        self._options = _user_options()
        self._connected_before = False
        self._folder = _short_folder()
        self._socket = self._folder / "s"
        # Also at the interpreter's end, for those who forget to close.
        self._finalizer = weakref.finalize(self, _tear_down, self._folder, self._ssh("-O", "exit"))
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def run(
        self, script: str, arguments: Sequence[str] = (), *, stdin: BinaryIO | None = None, timeout: float = 60.0
    ) -> Completed:
        mark = secrets.token_hex(12)
        command = "exec " + " ".join(map(quote, ["sh", "-c", _WRAPPER, "sh", mark, script, *arguments]))
        if len(os.fsencode(command)) > _LONGEST_COMMAND:
            raise ValueError("the script and its arguments are too long for one command")
        if not self._socket.exists():
            self._connect()
        # A master that is gone must fail the command, not have it connect alone and wait for a dead host.
        ssh = self._ssh("-o", "ProxyCommand=false", command=command)
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            try:
                code = _execute(ssh, stdin=stdin, stdout=stdout, stderr=stderr, timeout=timeout)
            except subprocess.TimeoutExpired as error:
                self._drop()
                raise HostLost(
                    f"{self.name}: no answer in {timeout:.0f} s", "is the board overloaded, or the network slow?"
                ) from error
            return self._completed(code, mark.encode(), _contents(stdout), _contents(stderr))

    def close(self) -> None:
        """Give up the connection. Nothing may be run afterwards."""
        self._finalizer()

    def _completed(self, code: int, mark: bytes, stdout: bytes, stderr: bytes) -> Completed:
        """What the script left, out of what ssh left."""
        start = mark + b"\n"
        end = re.search(b"\n" + mark + rb" (\d+)\n", stderr)
        if end and start in stdout:
            return Completed(
                returncode=int(end[1]),
                stdout=stdout.partition(start)[2],
                stderr=stderr[: end.start()].partition(start)[2],
            )
        self._drop()
        if code in range(1, 255) and start not in stdout:
            raise HostError(
                f"{self.name} runs no commands: {_last_line(stdout + stderr) or f'exit code {code}'}",
                "the account there needs a login shell such as sh or bash",
            )
        raise HostLost(f"{self.name}: the connection broke", "is the board on, and in the network?")

    def _connect(self) -> None:
        """Start the process that holds the connection. It leaves by itself once nobody has used it for a minute."""
        with tempfile.TemporaryFile() as stderr:
            command = self._ssh("-f", "-N", "-M", "-o", "ControlPersist=60")
            try:
                code = _execute(command, stdin=None, stdout=subprocess.DEVNULL, stderr=stderr, timeout=_CONNECT_SECONDS)
            except FileNotFoundError as error:
                raise HostError(
                    "ssh is not installed on this machine", "install OpenSSH's client (apt install openssh-client)"
                ) from error
            except subprocess.TimeoutExpired as error:
                self._drop()
                raise self._unreachable(f"no answer in {_CONNECT_SECONDS:.0f} s") from error
            if code != 0 or not self._socket.exists():
                self._drop()
                raise self._refusal(_contents(stderr).decode(errors="replace"))
        self._connected_before = True

    def _drop(self) -> None:
        """Forget a connection that may be dead, so that the next command makes a new one."""
        _leave(self._ssh("-O", "exit"))
        self._socket.unlink(missing_ok=True)

    def _ssh(self, *options: str, command: str | None = None) -> list[str]:
        port = ("-p", str(self._address.port)) if self._address.port else ()
        defaults = [part for option in _DEFAULTS for part in ("-o", option)]
        own = ("-S", str(self._socket), *_FIXED, *options, *port)
        return ["ssh", *own, *self._options, *defaults, "--", self._address.target, *([command] if command else [])]

    def _unreachable(self, why: str) -> HostError:
        """There may be a way later: whoever was connected before may try again."""
        if self._connected_before:
            return HostLost(f"{self.name} cannot be reached: {why}", "is the board on, and in the network?")
        return HostError(
            f"{self.name} cannot be reached: {why}", "is the board on, in the network, and does it run an SSH server?"
        )

    def _refusal(self, text: str) -> HostError:
        """The error for what ssh said when it could not connect."""
        target, port = self._address.target, self._address.port
        by_hand = f"ssh {f'-p {port} ' if port else ''}{target}"
        if "HOST IDENTIFICATION HAS CHANGED" in text:
            # ssh knows better than we do under which name, and in which file, the old key is kept.
            remedy = re.search(r"^\s*(ssh-keygen .*-R .*)$", text, re.MULTILINE)
            entry = f"'[{self._address.host}]:{port}'" if port else self._address.host
            return HostError(
                f"{self.name}: its host key has changed: another machine, or a new system",
                f"if that is as it should be: {remedy[1] if remedy else f'ssh-keygen -R {entry}'}, then {by_hand}",
            )
        if "Host key verification failed" in text or "host key is known" in text:
            return HostError(f"{self.name}: its host key is not known here", f"connect once by hand: {by_hand}")
        if "Permission denied" in text or "Too many authentication failures" in text:
            return HostError(
                f"{self.name} refuses the key: {_last_line(text.encode())}",
                f"ssh-copy-id {f'-p {port} ' if port else ''}{target}; a key with a passphrase needs ssh-add first",
            )
        if "Could not resolve hostname" in text and not self._connected_before:
            return HostError(f"{self.name}: there is no host {self._address.host}", f"does this work: {by_hand}")
        if _OWN_FAULT.search(text):
            return HostError(f"{self.name}: ssh gives up: {_last_line(text.encode())}", f"does this work: {by_hand}")
        return self._unreachable(_reason(text))


def quote(text: str) -> str:
    """Quote for the login shell there: any Bourne shell, and fish, where a backslash escapes even in quotes."""
    return "'" + re.sub(r"(['\\])", r"'\\\1'", text) + "'"


def _user_options() -> list[str]:
    try:
        return shlex.split(os.environ.get(OPTIONS_VARIABLE, ""))
    except ValueError as error:
        raise UsageError(f"{OPTIONS_VARIABLE} cannot be read: {error}", "quote it as in a shell") from error


def _short_folder() -> Path:
    """A private folder with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="edgepack-"))
    if len(os.fsencode(folder)) <= _LONGEST_FOLDER:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="edgepack-", dir="/tmp"))


def _execute(
    command: list[str], *, stdin: BinaryIO | None, stdout: IO[bytes] | int, stderr: IO[bytes], timeout: float
) -> int:
    """Run ssh to its end and return its exit code.

    In a session of its own: Ctrl-C is ours to handle, and must not end the connection. Output goes to files, not
    pipes, since ssh hands them on to the process that holds the connection, which may keep them open.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        return process.wait(timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _leave(command: list[str]) -> None:
    """End the process that holds the connection, if there is one."""
    try:
        with tempfile.TemporaryFile() as ignored:
            _execute(command, stdin=None, stdout=ignored, stderr=ignored, timeout=2.0)
    except (OSError, subprocess.TimeoutExpired):
        pass


def _tear_down(folder: Path, leave: list[str]) -> None:
    if (folder / "s").exists():
        _leave(leave)
    shutil.rmtree(folder, ignore_errors=True)


def _contents(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _last_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _reason(text: str) -> str:
    """Why ssh could not connect, in its words, without the address that the error names anyway."""
    line = _last_line(text.encode())
    match = re.fullmatch(r"ssh: (?:connect to host \S+ port \d+|Could not resolve hostname \S+): (.*)", line)
    return (match[1] if match else line) or "ssh says nothing"
