"""Build the engine of a model for this board, unless that is done already. Python 3.8."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time

from edgepack_tensorrt import board, engines, trtexec
from edgepack_tensorrt.errors import SWAP, BoardError, Missing, megabytes, out_of_memory
from edgepack_tensorrt.installed import find
from edgepack_tensorrt.model_file import ModelFile
from edgepack_tensorrt.python_builder import UNREADABLE
from edgepack_tensorrt.settings import check_profile, read

PLACE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QUIET_S = 20.0
# The first major version that takes types as they stand in the graph.
TYPED = 10
LEAST_WORKSPACE = 64 * 2**20
# TensorRT and CUDA take about half a gigabyte before the first weight; timing kernels needs a few copies of those.
ALWAYS, COPIES = 512 * 2**20, 4


def prepare(path, allowed=None, again=False, say=engines.say):
    """
    Args:
        path: the ONNX file.
        allowed: what `--allow-fallback` said; without TensorRT nothing is then to be done.
        again: build even if there is an engine.

    Returns:
        `engine` (its file, None if there is no TensorRT), `built`, `seconds`, `warnings`, and what it was built for.

    Raises:
        BoardError: 52 TensorRT is missing or does not build it, 55 the bundle is for another TensorRT, 61 no space.
    """
    settings, file = read(path), ModelFile(path)
    try:
        installed = find()
    except Missing as error:
        if allowed is None:
            raise
        return {"engine": None, "built": False, "warnings": [error.message], "fallback": allowed}
    warnings = differences(settings.built_for, installed)
    for warning in warnings:
        say("warning: %s" % warning)
    check_profile(file, settings)
    entries = engines.identity(path, settings, installed.version)
    engine = engines.engine_path(path, entries)
    report = dict(entries, engine=engine, warnings=warnings, via="trtexec" if installed.program else "python")
    with engines.alone(engines.folder_for(path), say) as lock:
        if not again and engines.is_whole(engine):
            return dict(report, built=False, seconds=0.0)
        began = time.monotonic()
        job = job_for(path, engine, file, settings, say)
        timing = engines.timing_path(path, entries)
        try:
            build(installed, job, timing, lock, say)
            record = {"entries": entries, "part": engines.part_of(path), "via": report["via"]}
            engines.keep(job["output"], engine, record)
        except OSError as error:
            words = "the engine cannot be written: %s" % error.strerror
            raise BoardError(words, "free some space, or let %s name another folder" % engines.PLACE, code=61)
        finally:
            engines.forget(job["output"], job["timing"], job["timing"] + ".lock")
        engines.sweep(path, entries)
    return dict(report, built=True, seconds=time.monotonic() - began)


def differences(built_for, installed):
    """What about the board is not what the bundle was built for, in words.

    Raises:
        BoardError: 55, this TensorRT reads other graphs: 8 chooses types, 10 and 11 take those of the graph.
    """
    wanted, found = built_for.get("tensorrt"), []
    release = board.l4t()
    if wanted:
        if (int(wanted.split(".")[0]) >= TYPED) != (installed.numbers[0] >= TYPED):
            there = board.system(release)
            raise BoardError(
                "this bundle was built for TensorRT %s (JetPack %s), and this board has %s"
                % (wanted, built_for.get("jetpack", "unknown"), installed.version),
                "build it with --device BOARD@%s" % (there or "SYSTEM for this JetPack (edgepack devices show BOARD)"),
                code=55,
            )
        if not board.within(installed.version, wanted):
            found.append("it was built for TensorRT %s, and this board has %s" % (wanted, installed.version))
    for name, title, here in (
        ("l4t", "L4T", release),
        ("compute", "compute capability", board.gpu()["compute"]),
    ):
        if built_for.get(name) and not (here and board.within(here, built_for[name])):
            where = "this board has %s" % here if here else "this machine does not say which it has"
            found.append("it was built for %s %s, and %s" % (title, built_for[name], where))
    return found


def job_for(path, engine, file, settings, say):
    """All that a builder needs to know; warns where memory is short."""
    free, with_swap = board.free_memory()
    workspace = settings.workspace
    if free is not None:
        workspace = min(workspace, max(LEAST_WORKSPACE, free // 2))
        needed = ALWAYS + COPIES * os.path.getsize(path)
        if with_swap < needed:
            words = "warning: %s of memory and swap are free, and building may take %s: %s"
            say(words % (megabytes(with_swap), megabytes(needed), SWAP))
    return {
        "model": os.path.abspath(path),
        "output": engine + ".partial",
        "timing": engine + ".timing.partial",
        "precision": settings.precision,
        "half": file.half,
        "quantized": file.quantized,
        "sparse": settings.sparse,
        "profile": settings.profile,
        "fp32_layers": settings.fp32_layers,
        "workspace": workspace,
        "free": with_swap,
    }


def build(installed, job, timing, lock, say):
    """Build, and once more without the timing cache if that might be to blame; a cache that was written is kept."""
    if os.path.isfile(timing):
        shutil.copyfile(timing, job["timing"])
    started_with_cache = os.path.isfile(job["timing"])
    say("building the engine with TensorRT %s; this takes minutes" % installed.version)
    try:
        build_once(installed, job, lock, say)
    except Failed as failure:
        if not started_with_cache or failure.final:
            raise failure.error
        say("that failed (%s): once more without the timing cache" % failure.error.message)
        engines.forget(job["timing"], timing)
        try:
            build_once(installed, job, lock, say)
        except Failed as second:
            raise second.error
    if os.path.isfile(job["timing"]):
        os.replace(job["timing"], timing)


class Failed(Exception):
    """A build that failed; `final` if another try would not help."""

    def __init__(self, error, final):
        super(Failed, self).__init__(error.message)
        self.error, self.final = error, final


def build_once(installed, job, lock, say):
    command = trtexec.build_command(installed, job) if installed.program else python_command(job)
    code, lines = followed(command, lock, say)
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        raise Failed(out_of_memory(job["free"], job["workspace"], killed=True), True)
    if installed.program:
        error, short = trtexec_error(code, lines), trtexec.short_of_memory(lines)
    else:
        error, short = python_error(code, lines)
    if error is None and not (os.path.isfile(job["output"]) and os.path.getsize(job["output"])):
        error = BoardError("TensorRT wrote no engine")
    if error is not None:
        if short:
            error = out_of_memory(job["free"], job["workspace"])
        raise Failed(error, short or UNREADABLE in error.message)


def python_command(job):
    code = (
        "import json, sys; sys.path[:] = [entry for entry in sys.path if entry] + [sys.argv[1]]; "
        "from edgepack_tensorrt.python_builder import main; main(json.loads(sys.argv[2]))"
    )
    flags = ["-B"] + (["-S", "-s"] if sys.flags.no_site else [])
    return [sys.executable] + flags + ["-c", code, PLACE, json.dumps(job)]


def python_error(code, lines):
    """The error of a Python build, None if it went well; and whether memory was short."""
    for line in reversed(lines):
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if "done" in told:
            return None, False
        if "error" in told:
            return BoardError(told["error"], hint_for(told["error"])), told["memory"]
    said = lines[-1].strip() if lines else "it says nothing"
    return BoardError("the build ended with code %d: %s" % (code, said)), trtexec.short_of_memory(lines)


def trtexec_error(code, lines):
    if code == 0:
        return None
    operator = trtexec.operator_in(lines) if any("lugin" in line for line in lines) else None
    if operator:
        words = "%s: it does not know the operator %s" % (UNREADABLE, operator)
        return BoardError(words, hint_for(words))
    if code < 0:
        return BoardError("trtexec crashed (signal %d): %s" % (-code, trtexec.reason(lines)))
    return BoardError("trtexec builds no engine: %s" % trtexec.reason(lines), hint_for(" ".join(lines)))


def hint_for(words):
    if UNREADABLE in words:
        return "edgepack inspect MODEL --device BOARD names what TensorRT does not take"
    if "Unknown option" in words:
        return "this trtexec is of another TensorRT than it says: reinstall JetPack's tensorrt package"
    return "the lines above it: python3 harness.py prepare 2>&1 | tail -50"


def followed(command, lock, say):
    """Run a build: its exit code and the last lines that it printed. It says now and then that it goes on.

    The child keeps the lock open: should this process be killed, nobody else builds until it has ended too.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(lock,)
    )
    lines, arriving, began = [], queue.Queue(), time.monotonic()
    reader = threading.Thread(target=read_lines, args=(process.stdout, arriving))
    reader.daemon = True
    reader.start()
    try:
        while True:
            try:
                line = arriving.get(timeout=QUIET_S)
            except queue.Empty:
                say("still building (%d s)" % (time.monotonic() - began))
                continue
            if line is None:
                return process.wait(), lines
            lines = lines[-500:] + [line]
            report_progress(line, say)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(1)
        process.stdout.close()


def read_lines(stream, arriving):
    for line in stream:
        arriving.put(line.decode("utf-8", "replace").rstrip("\n"))
    arriving.put(None)


def report_progress(line, say):
    if not line.startswith("{"):
        return
    try:
        told = json.loads(line)
    except ValueError:
        return
    if "progress" in told or "note" in told:
        say(told.get("progress") or told["note"])
