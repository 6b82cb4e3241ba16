"""The machine a bundle finds itself on: does it fit, what is it, and installing wheels. Python 3.8."""

import os
import platform
import shutil
import sys
import zipfile

from edgepack_device.files import HarnessError, read_manifest, verify_files


def refuse_wrong_machine(manifest):
    """Say by name what about this machine does not fit the bundle."""
    needed = manifest.get("requires", {})
    here = architecture()
    board = manifest.get("device")
    if needed.get("arch") and here != needed["arch"]:
        raise HarnessError(
            55,
            "this bundle was built for %s (%s), and this machine is %s" % (board, needed["arch"], here),
            "build it with --device for this board",
        )
    if needed.get("python") and sys.version_info[:2] < version(needed["python"]):
        raise HarnessError(
            55,
            "this bundle needs Python %s, and this is %s" % (needed["python"], platform.python_version()),
            "run it with a newer python3",
        )
    libc, there = platform.libc_ver()
    if needed.get("glibc") and libc == "glibc" and version(there) < version(needed["glibc"]):
        raise HarnessError(
            55,
            "this bundle's wheels need glibc %s, and this system has %s" % (needed["glibc"], there),
            "build it with --device %s@SYSTEM for this system" % str(board).partition("@")[0],
        )
    if needed.get("int8_dot_product") and here == "x86_64" and not has_dot_product():
        raise HarnessError(
            55,
            "this CPU adds int8 products with saturation, and this bundle (for %s) would answer wrongly on it" % board,
            "build it with --device intel-avx2",
        )


def architecture():
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}.get(machine, machine)


def version(text):
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def has_dot_product():
    try:
        with open("/proc/cpuinfo") as file:
            flags = set(file.read().split())
    except OSError:
        return True
    return bool(flags & {"avx_vnni", "avx512_vnni", "amx_int8"})


def install(folder):
    """Unpack the bundle's wheels into its own lib/: no pip, no root, no network, nothing outside the bundle."""
    manifest = read_manifest(folder)
    verify_files(folder)
    refuse_wrong_machine(manifest)
    source = os.path.join(folder, "wheels")
    wheels = sorted(name for name in os.listdir(source) if name.endswith(".whl")) if os.path.isdir(source) else []
    if not wheels:
        raise HarnessError(
            52,
            "this bundle holds no wheels",
            "build it with --wheels, or python3 -m pip install -r requirements.txt",
        )
    library, fresh = os.path.join(folder, "lib"), os.path.join(folder, "lib.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        for name in wheels:
            with zipfile.ZipFile(os.path.join(source, name)) as wheel:
                for entry in wheel.namelist():
                    # A wheel's own .data folder holds scripts and headers; what is imported lies beside it.
                    if ".data/" in entry and "/purelib/" not in entry and "/platlib/" not in entry:
                        continue
                    target = os.path.realpath(os.path.join(fresh, entry))
                    if not target.startswith(os.path.realpath(fresh) + os.sep):
                        raise HarnessError(
                            50, "%s holds a path that leads outside: %s" % (name, entry), "build the bundle again"
                        )
                    wheel.extract(entry, fresh)
        hoist_data_folders(fresh)
        shutil.rmtree(library, ignore_errors=True)
        os.rename(fresh, library)
    except zipfile.BadZipFile:
        raise HarnessError(50, "%s is damaged" % name, "copy the bundle again")
    except OSError as error:
        raise HarnessError(61, "the wheels cannot be unpacked: %s" % error.strerror, "free some space")
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return {"ok": True, "wheels": wheels, "folder": library}


def hoist_data_folders(library):
    """Move what wheels keep under NAME.data/purelib and /platlib to where it is imported from."""
    for name in os.listdir(library):
        if not name.endswith(".data"):
            continue
        for kind in ("purelib", "platlib"):
            part = os.path.join(library, name, kind)
            for entry in os.listdir(part) if os.path.isdir(part) else []:
                shutil.move(os.path.join(part, entry), os.path.join(library, entry))
        shutil.rmtree(os.path.join(library, name))


def peak_memory_mb():
    """Peak resident memory of this process; VmHWM, since getrusage may report the parent's."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024.0
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024.0 if sys.platform != "darwin" else 2.0**20)
