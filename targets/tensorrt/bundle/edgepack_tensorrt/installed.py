"""The TensorRT that is on this board: its Python API, else trtexec. Python 3.8."""

import importlib
import os
import re
import shutil
import subprocess

from edgepack_tensorrt import board
from edgepack_tensorrt.errors import Missing

# Where JetPack, NVIDIA's containers and the tar archive keep it; PATH comes first.
PLACES = ("/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
# "python" or "trtexec", to have only that looked for.
ONLY = "EDGEPACK_TENSORRT"
# The Python API that the runner uses: tensors by name, execute_async_v3.
OLDEST_PYTHON_API = (8, 5)
OLDEST_TRTEXEC = (8, 2)
HINT = "it comes with JetPack: sudo apt-get install tensorrt python3-libnvinfer"


class Installed(object):
    """`version` as in "10.3.0", `numbers` the same as a tuple; `program` is trtexec, None for the Python API."""

    def __init__(self, version, program=None):
        self.numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        # The Python API says a fourth number, a build of the same release, and trtexec does not.
        self.version = ".".join(map(str, self.numbers))
        self.program = program


def find():
    """
    Raises:
        Missing: neither is here; it says what was found instead.
    """
    only = os.environ.get(ONLY, "")
    reasons = []
    if only in ("", "python"):
        found = python_api(reasons)
        if found is not None:
            return found
    if only in ("", "trtexec"):
        found = trtexec(reasons)
        if found is not None:
            return found
    words = "TensorRT is not on this machine"
    raise Missing("; ".join([words] + reasons), "%s; or --allow-fallback onnxruntime" % HINT)


def python_api(reasons):
    try:
        module = importlib.import_module("tensorrt")
        found = Installed(module.__version__)
    except ImportError as error:
        if getattr(error, "name", None) != "tensorrt":
            reasons.append("its Python API does not import: %s" % error)
        return None
    except Exception as error:  # a module of another kind, or one that is broken
        reasons.append("its Python API does not work: %s" % error)
        return None
    if found.numbers < OLDEST_PYTHON_API:
        return None
    return found


def trtexec(reasons):
    places = [shutil.which("trtexec")] + [os.path.join(board.ROOT, place.lstrip("/")) for place in PLACES]
    for program in places:
        if not program or not os.access(program, os.X_OK):
            continue
        version = version_of(program)
        if version is None:
            reasons.append("%s does not say its version" % program)
        elif Installed(version).numbers < OLDEST_TRTEXEC:
            reasons.append("%s is of TensorRT %s" % (program, version))
        else:
            return Installed(version, program)
    return None


def version_of(program):
    """What trtexec says of itself in its first line: [TensorRT v8502] is 8.5.2, [TensorRT v100300] is 10.3.0."""
    try:
        done = subprocess.run(
            [program, "--help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(rb"\[TensorRT v(\d+)\]", done.stdout)
    if not found:
        return None
    number = int(found.group(1))
    # NV_TENSORRT_VERSION has three digits behind the major one up to 9, four since 10.
    thousand, hundred = (10000, 100) if number >= 100000 else (1000, 100)
    return "%d.%d.%d" % (number // thousand, number % thousand // hundred, number % hundred)
