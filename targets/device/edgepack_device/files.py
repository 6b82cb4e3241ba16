"""A bundle's files: the manifest, the checksums, the golden arrays, and loading the model. Python 3.8."""

import hashlib
import importlib.util
import json
import os

from edgepack_device.state import Stateful

FORMAT = 1
SUMS = "SHA256SUMS"
# What may lie beside the listed files: the float original for comparison, wheels unpacked for the device, engines
# built on it.
UNLISTED = {SUMS, "baseline", "lib", "lib.partial", "engines", "__pycache__"}


class HarnessError(Exception):
    def __init__(self, code, message, hint=""):
        super(HarnessError, self).__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def read_manifest(folder):
    try:
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
            manifest = json.load(file)
    except FileNotFoundError:
        raise HarnessError(50, "%s is no bundle: manifest.json is missing" % folder, "copy the whole bundle")
    except (ValueError, OSError) as error:
        raise HarnessError(50, "manifest.json cannot be read: %s" % error, "copy the bundle again")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise HarnessError(50, "manifest.json is not a bundle's manifest", "copy the bundle again")
    if manifest["format"] > FORMAT:
        raise HarnessError(
            50,
            "the bundle has format %d, this harness reads up to %d" % (manifest["format"], FORMAT),
            "use the harness.py that came with the bundle",
        )
    return manifest


def verify_files(folder):
    """Compare every file with SHA256SUMS; an unlisted file is refused too, since Python would import it."""
    try:
        with open(os.path.join(folder, SUMS), encoding="utf-8") as file:
            lines = [line.rstrip("\n").split("  ", 1) for line in file if line.strip()]
        listed = {name: digest for digest, name in lines}
    except FileNotFoundError:
        raise HarnessError(50, "the bundle is incomplete: %s is missing" % SUMS, "copy the bundle again")
    except (ValueError, OSError):
        raise HarnessError(50, "%s cannot be read" % SUMS, "copy the bundle again")
    for name in sorted(listed):
        path = os.path.join(folder, *name.split("/"))
        if not os.path.isfile(path):
            raise HarnessError(50, "the bundle is incomplete: %s is missing" % name, "copy the bundle again")
        if sha256(path) != listed[name]:
            raise HarnessError(50, "%s has been altered or damaged" % name, "copy the bundle again")
    for name in sorted(unlisted(folder)):
        if name not in listed:
            raise HarnessError(50, "%s does not belong to the bundle" % name, "move it elsewhere")


def unlisted(folder):
    """The bundle's files by their names in SHA256SUMS, but for those that are never listed."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in UNLISTED]
        for name in files:
            path = os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")
            if path not in UNLISTED:
                yield path


def damage(folder):
    """What verify_files finds wrong, in words; empty if nothing."""
    try:
        verify_files(folder)
    except HarnessError as error:
        return error.message
    return ""


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def load_module(folder, name):
    spec = importlib.util.spec_from_file_location("edgepack_" + name, os.path.join(folder, name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_runner(folder, manifest, fallback=None):
    """The bundle's runner, which may answer by another runtime where `fallback` names one."""
    runner = load_module(folder, "runner")
    if fallback is not None:
        if not hasattr(runner, "allow_fallback"):
            raise HarnessError(2, "%s has no fallback" % manifest["target"], "leave --allow-fallback out")
        try:
            runner.allow_fallback(fallback)
        except ValueError as error:
            raise HarnessError(2, "--allow-fallback: %s" % error, "leave it out to run in %s" % manifest["target"])
    return runner


def remarks_of(runner):
    """What a runner has to say of its answers: that they are another runtime's, for one."""
    return runner.remarks() if hasattr(runner, "remarks") else []


def load_model(folder, manifest, part, threads, how="load", fallback=None):
    """Load the bundle's model ("model") or the float original beside it ("baseline") in the runtime.

    `how` is the runner's function, `fallback` what `--allow-fallback` named.

    A model with states keeps them between calls.
    """
    try:
        runner = load_runner(folder, manifest, fallback)
        path = os.path.join(folder, *manifest[part]["file"].split("/"))
        model = getattr(runner, how)(path, threads)
        states = manifest.get("state")
        return runner, Stateful(model, states, manifest["inputs"]) if states else model
    except HarnessError:
        raise
    except ImportError as error:
        raise HarnessError(52, "%s" % error, "python3 -m pip install -r requirements.txt")
    except Exception as error:
        words = "%s cannot load the model: %s" % (manifest["target"], first_line(error))
        raise told(error, 52, words, "install the versions in requirements.txt")


def told(error, code, message, hint):
    """A runner's own words where it has some (an error with a code and a hint), else these."""
    if hasattr(error, "code") and hasattr(error, "hint"):
        return HarnessError(error.code, first_line(error), error.hint)
    return HarnessError(code, message, hint)


def golden(folder, which):
    """The golden arrays, one dict a sample; the file holds them as <sample>/<name>."""
    samples = {}
    for key, array in golden_arrays(folder, which).items():
        index, name = key.split("/", 1)
        samples.setdefault(int(index), {})[name] = array
    return [samples[index] for index in sorted(samples)]


def golden_arrays(folder, which):
    """The arrays of golden/<which>.npz by name."""
    import numpy as np

    name = "golden/%s.npz" % which
    try:
        with np.load(os.path.join(folder, *name.split("/")), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except Exception as error:  # zipfile, zlib and numpy have many
        raise HarnessError(50, "%s cannot be read: %s" % (name, first_line(error)), "copy the bundle again")


def default_threads(manifest):
    """Threads as asked for at build time, but no more than the cores that are here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(manifest.get("threads") or cores, cores))


def first_line(error):
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
