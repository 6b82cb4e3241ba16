"""Run a bundle's model with TensorRT: the engine that `harness.py prepare` built on this board. Python 3.8 and numpy.

TensorRT comes with JetPack: its Python API is used where it imports, else trtexec. `edgepack_tensorrt`, which lies
beside this file in a bundle, has the parts.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# Beside this file in a bundle, in the folder `bundle` in the sources.
for place in (HERE, os.path.join(HERE, "bundle")):
    if os.path.isdir(os.path.join(place, "edgepack_tensorrt")) and place not in sys.path:
        sys.path.append(place)

from edgepack_tensorrt import engine_runner, engines, fallback, trtexec  # noqa: E402
from edgepack_tensorrt import prepare as preparation  # noqa: E402
from edgepack_tensorrt.errors import Missing  # noqa: E402
from edgepack_tensorrt.installed import find  # noqa: E402
from edgepack_tensorrt.model_file import ModelFile  # noqa: E402
from edgepack_tensorrt.settings import check_shapes, read  # noqa: E402

load_other = None
# What `--allow-fallback` may name, and the distributions that each needs.
FALLBACKS = fallback.FALLBACKS

_state = {"allowed": None, "versions": {}, "remarks": []}


def allow_fallback(name):
    """Let ONNX Runtime answer where TensorRT is not there; None takes that back.

    Raises:
        ValueError: there is no such fallback.
    """
    if name is not None and name not in FALLBACKS:
        raise ValueError("no fallback %s: there are %s" % (name, ", ".join(FALLBACKS)))
    _state["allowed"] = name


def load(path, threads):
    """Load the engine of a model file; returns a callable from a dict of inputs to a dict of outputs.

    `threads` is for the fallback; a GPU has its own.

    Raises:
        Missing: TensorRT is not there, and no fallback was allowed.
        Unprepared: there is no engine for this model on this board.
    """
    try:
        installed = find()
    except Missing:
        if _state["allowed"] is None:
            raise
        model = fallback.load(path, threads, _state["allowed"])
        _state.update(versions=fallback.versions(), remarks=[not_tensorrt(_state["allowed"])])
        return model
    settings, file = read(path), ModelFile(path)
    engine = engines.prepared(path, engines.identity(path, settings, installed.version))

    def check(feeds):
        check_shapes(feeds, settings.profile)

    _state.update(versions={"tensorrt": installed.version}, remarks=[])
    if installed.program is None:
        return engine_runner.Model(engine, file, check)
    _state["remarks"] = [TRTEXEC]
    return trtexec.Model(installed, engine, file, check)


def prepare(path, again=False):
    """Build the engine on this board; `edgepack_tensorrt.prepare` has what it returns and raises."""
    return preparation.prepare(path, allowed=_state["allowed"], again=again)


def versions():
    """The runtime of the model that was loaded last."""
    return dict(_state["versions"])


def remarks():
    """What has to be said of the answers and times of the model that was loaded last."""
    return list(_state["remarks"])


def not_tensorrt(name):
    return {
        "name": "fallback",
        "severity": "invalid",
        "words": "TensorRT is not on this machine: %s answered instead" % fallback.CALLED[name],
        "advice": "run it on the board; these times say nothing of TensorRT",
        "figures": {},
    }


TRTEXEC = {
    "name": "trtexec",
    "severity": "note",
    "words": "run by trtexec: a run is its copies and computing; loading, the first run and memory are not measured, "
    "and numbers have six digits",
    "advice": "sudo apt-get install python3-libnvinfer brings TensorRT's Python API",
    "figures": {},
}
