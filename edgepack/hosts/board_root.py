"""Root file systems for emulated boards: made of Debian packages once, then kept in the cache.

mmdebstrap unpacks them and runs none of their programs, so neither docker nor any change to this machine is needed.
Packages come from where this machine's own apt takes them.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgepack.errors import HostError, writing

# Part of a root's name: a change to what goes into a root must raise it.
RECIPE = 1
SOURCES = "EDGEPACK_APT_SOURCES"
HOME = "home/edge"

_PACKAGES = (
    "python3", "libstdc++6", "zlib1g", "libatomic1", "libgomp1", "base-files", "libc-bin", "dash", "bash", "coreutils",
    "grep", "sed", "mawk", "findutils", "tar", "gzip", "util-linux", "procps",
    "usrmerge-",  # the minus keeps it out: it brings perl, and the directories are merged while unpacking
)  # fmt: skip
# PyPI has no numpy for 32-bit ARM.
_MORE_PACKAGES = {"armhf": ("python3-numpy",)}
_MERGED = ("bin", "sbin", "lib", "lib64")
_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", HOME)
# What packages leave to scripts that are not run here.
_LINKS = {"sh": "dash", "awk": "mawk", "which": "which.debianutils"}
_FILES = {
    "passwd": "root:x:0:0:root:/home/edge:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
}
_HINT = "apt-get install mmdebstrap qemu-user-static"
_NO_MODE_HINT = "apt-get install uidmap, and give this user a range in /etc/subuid and /etc/subgid; or do it as root"


def needed(command: str) -> str:
    """The path of `command`.

    Raises:
        HostError: it is not installed.
    """
    path = shutil.which(command)
    if path is None:
        raise HostError(f"an emulated board needs {command}, which is not installed", _HINT)
    return path


def boards_folder() -> Path:
    """Where roots and connections live; made if it is not there."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(cache) if cache.startswith("/") else Path.home() / ".cache") / "edgepack" / "boards"
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` as a lock against other processes."""
    with writing(path):
        file = path.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def board_root(architecture: str, suite: str) -> Path:
    """The root of a Debian architecture and suite, made now if the cache has none.

    Raises:
        HostError: a tool is missing, or the packages cannot be had.
    """
    root = boards_folder() / f"{architecture}-{suite}-{RECIPE}"
    if not root.is_dir():
        with locked(root.with_name(f"{root.name}.lock")):
            if not root.is_dir():
                with writing(root):
                    _build(root, architecture, suite)
    return root


def _build(root: Path, architecture: str, suite: str) -> None:
    prefix = f"build-{root.name}-"
    for left in root.parent.glob(f"{prefix}*"):  # by a build that was killed, since this one holds the lock
        remove(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=root.parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        archive, tree = folder / "root.tar", folder / "root"
        _download(archive, folder, architecture, suite)
        _unpack(archive, tree)
        _complete(tree)
        tree.rename(root)


def _download(archive: Path, folder: Path, architecture: str, suite: str) -> None:
    command = needed("mmdebstrap")
    sources, settings = folder / "apt.sources", folder / "apt.conf"
    sources.write_text(apt_sources(suite))
    settings.write_text(apt_settings())
    packages = ",".join((*_PACKAGES, *_MORE_PACKAGES.get(architecture, ())))
    _run(
        [
            command, f"--architectures={architecture}", "--variant=extract", "--skip=check/qemu",
            f"--include={packages}", f"--aptopt={settings}", suite, str(archive), str(sources),
        ],
        f"no root for {architecture} {suite}",
        f"check `apt-get update` here, or name a mirror in a sources file and set {SOURCES} to its path",
    )  # fmt: skip


def _unpack(archive: Path, tree: Path) -> None:
    tree.mkdir()
    for name in _MERGED:
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")
    # Device nodes need privileges; apt's settings and the resolver are this machine's business.
    unwanted = [f"--exclude=./{path}" for path in ("dev/*", "etc/apt", "etc/resolv.conf", "etc/hostname")]
    options = ["--no-same-owner", "--keep-directory-symlink", "-C", str(tree), *unwanted]
    _run(["tar", "-xf", str(archive), *options], "a board's root cannot be unpacked", "is the disk full?")


def _complete(tree: Path) -> None:
    for name in _FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (tree / "etc" / name).write_text(text)
    for name, program in _LINKS.items():
        link = tree / "usr/bin" / name
        if not link.is_symlink() and link.with_name(program).exists():
            link.symlink_to(program)
    for pattern in ("blas/libblas.so.3", "lapack/liblapack.so.3"):
        for library in (tree / "usr/lib").glob(f"*/{pattern}"):
            (library.parent.parent / library.name).symlink_to(pattern)


def _run(command: list[str], failure: str, hint: str) -> None:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _, said = process.communicate()
        except BaseException:
            process.terminate()  # and wait, so that it cleans up behind itself
            raise
    if process.returncode:
        lines = said.strip().splitlines() or [f"{command[0]} ended with exit code {process.returncode}"]
        why = next((line for line in lines if line.startswith("E: ")), lines[-1])
        raise HostError(f"{failure}: {why}", _NO_MODE_HINT if "chroot mode" in why else hint)


def remove(folder: Path) -> None:
    """Delete a folder, even where a board took away its own right to."""
    for parent, names, _ in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


# --- apt ------------------------------------------------------------------------------------------------------


def apt_settings() -> str:
    """This machine's settings for reaching a mirror: proxies, retries and the like."""
    wanted = re.compile(r"Acquire::(https?|Check-|Retries|ForceIPv)")
    dump = subprocess.run([needed("apt-config"), "dump"], capture_output=True, text=True, check=False).stdout
    return "".join(f"{line}\n" for line in dump.splitlines() if wanted.match(line) and not line.endswith(' "";'))


def apt_sources(suite: str, folder: Path = Path("/etc/apt")) -> str:
    """This machine's package sources that have `suite`, or might, as one deb822 file.

    Only the release itself, without updates: boards of the same name then hold the same packages everywhere.

    Raises:
        HostError: there are none.
    """
    stanzas = [stanza for path in _source_files(folder) for stanza in _stanzas(path) if _usable(stanza)]
    # A mirror of this machine's own release has the other releases too.
    here = {platform.freedesktop_os_release().get("VERSION_CODENAME"), "stable", "testing", "unstable"}
    chosen = [stanza for stanza in stanzas if suite in stanza["Suites"].split()]
    chosen = chosen or [stanza for stanza in stanzas if here.intersection(stanza["Suites"].split())]
    if not chosen:
        raise HostError(
            f"this machine has no package source for {suite}",
            f"name a mirror in a sources file and set {SOURCES} to its path",
        )
    fixed = {"Types": "deb", "Suites": suite, "Components": "main"}
    texts = []
    for stanza in chosen:
        fields = {key: value for key, value in stanza.items() if key != "Architectures"} | fixed
        texts.append("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return "\n".join(texts)


def _source_files(folder: Path) -> list[Path]:
    if os.environ.get(SOURCES):
        return [Path(os.environ[SOURCES])]
    parts = sorted((folder / "sources.list.d").glob("*"))
    return [folder / "sources.list", *(path for path in parts if path.suffix in (".list", ".sources"))]


def _usable(stanza: dict[str, str]) -> bool:
    has = {key: stanza.get(key, "").split() for key in ("Types", "Components", "Suites", "URIs")}
    enabled = stanza.get("Enabled", "yes").lower() not in ("no", "false", "0")
    return enabled and "deb" in has["Types"] and "main" in has["Components"] and bool(has["Suites"] and has["URIs"])


def _stanzas(path: Path) -> list[dict[str, str]]:
    """The entries of a sources file of either format, with the field names of deb822."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    if re.search(r"^types:", text, re.IGNORECASE | re.MULTILINE):
        return [_paragraph(paragraph) for paragraph in re.split(r"\n[ \t]*\n", text)]
    lines = (re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)([^#]*)", line) for line in text.splitlines())
    return [_one_line(*match.groups(default="")) for match in lines if match]


def _paragraph(paragraph: str) -> dict[str, str]:
    fields = re.findall(r"^([^\s:]+):[ \t]*(.*(?:\n[ \t].*)*)", paragraph, re.MULTILINE)
    return {_field(key): value for key, value in fields}


def _one_line(options: str, uri: str, suite: str, components: str) -> dict[str, str]:
    stanza = {"Types": "deb", "URIs": uri, "Suites": suite, "Components": components.strip()}
    for option in options.split():
        key, _, value = option.partition("=")
        stanza[{"arch": "Architectures"}.get(key.lower(), _field(key))] = value.replace(",", " ")
    return stanza


def _field(key: str) -> str:
    return {"uris": "URIs"}.get(key.lower(), key.title())
