"""The board that this is: L4T, GPU and memory. Python 3.8."""

import ctypes
import os
import re

# Where /etc, /proc and /usr/src are read; another folder in tests.
ROOT = os.environ.get("EDGEPACK_ROOT", "/")
# The systems of `--device BOARD@SYSTEM` by L4T, the longest name that fits.
SYSTEMS = {"32": "jp4.6", "35": "jp5.1", "36.3": "jp6.0", "36": "jp6.2", "38": "jp7.0", "39": "jp7.2"}
LIBCUDA = (
    "libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1",
)
# CUdevice_attribute of the CUDA driver API.
MAJOR, MINOR = 75, 76


def text(name):
    try:
        with open(os.path.join(ROOT, name.lstrip("/")), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def l4t():
    """The L4T release as in "36.4.3", None where this is no Jetson or its container does not say."""
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text("/etc/nv_tegra_release"))
    return "%s.%s" % found.groups() if found else None


def system(release):
    """What `--device BOARD@…` calls the JetPack of an L4T release, None where that is not known."""
    fitting = [name for name in SYSTEMS if release and within(release, name)]
    return SYSTEMS[max(fitting, key=len)] if fitting else None


def within(release, wanted):
    """Whether a release is the one that is wanted, as far as that says: "36.4.3" is "36.4"."""
    return (release + ".").startswith(wanted + ".")


def gpu():
    """The first GPU's `name` and `compute` capability; both None without a driver."""
    try:
        cuda = library(LIBCUDA)
        device, value, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
            return {"name": None, "compute": None}
        found = []
        for attribute in (MAJOR, MINOR):
            cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            found.append(value.value)
        cuda.cuDeviceGetName(name, len(name), device)
        return {"name": name.value.decode("utf-8", "replace"), "compute": "%d.%d" % tuple(found)}
    except (OSError, AttributeError):
        return {"name": None, "compute": None}


def library(names):
    """The first of these shared libraries that loads.

    Raises:
        OSError: none does.
    """
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError("none of %s loads" % ", ".join(names))


def free_memory():
    """Bytes that are free, and these with swap; CPU and GPU share them on a Jetson. None where /proc does not say."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text("/proc/meminfo"), re.MULTILINE))
    if "MemAvailable" not in found:
        return None, None
    free = 1024 * int(found["MemAvailable"])
    return free, free + 1024 * int(found.get("SwapFree", 0))
