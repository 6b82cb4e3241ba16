"""trtexec: its command lines by version, what it says when it fails, and its files. Python 3.8.

Flags are those that the trtexec of each release knows (samples/common/sampleOptions.cpp in NVIDIA/TensorRT).
"""

import json
import os
import re
import subprocess
import tempfile

from edgepack_tensorrt.errors import BoardError
from edgepack_tensorrt.python_builder import MEMORY

DTYPES = {"float64": "float32"}
# TensorRT has INT64 since 10; before, its ONNX parser makes INT32 of them.
NARROW = {"int64": "int32", "uint32": "int32", "uint64": "int32", "int16": "int32", "uint16": "int32"}


LAYERS_SINCE = (8, 4)


def build_command(installed, job):
    """
    Args:
        job: as `python_builder.main` takes it.
    """
    numbers = installed.numbers
    command = [installed.program, "--onnx=%s" % job["model"], "--saveEngine=%s" % job["output"], "--noTF32"]
    megabytes = max(1, job["workspace"] // 2**20)
    if numbers >= (8, 4):
        command.append("--memPoolSize=workspace:%d" % megabytes)
    else:
        command.append("--workspace=%d" % megabytes)
    if numbers[0] == 10:
        command.append("--stronglyTyped")
    elif numbers[0] < 10:
        if job["precision"] == "fp16" or job["half"]:
            command.append("--fp16")
        if job["precision"] == "int8" or job["quantized"]:
            command.append("--int8")
        if job["fp32_layers"] and numbers >= LAYERS_SINCE:
            wide = [name for name in job["fp32_layers"] if not set(name) & set(":,'*")]
            command.append("--precisionConstraints=prefer")
            command.append("--layerPrecisions=%s" % ",".join("%s:fp32" % name for name in wide))
    if job["sparse"]:
        command.append("--sparsity=enable")
    for which in ("min", "opt", "max"):
        if job["profile"]:
            ranges = {name: shapes[which] for name, shapes in job["profile"].items()}
            command.append("--%sShapes=%s" % (which, shapes_of(installed, ranges)))
    command.append("--timingCacheFile=%s" % job["timing"])
    command.append("--skipInference" if numbers >= (8, 6) else "--buildOnly")
    return command


def run_command(installed, engine, files, shapes, output=None, times=None, seconds=0):
    """
    Args:
        files: a file by input; shapes: a shape by input with an open dimension.
        output: a file for the outputs; times: one for the times of runs over so many seconds.
    """
    command = [installed.program, "--loadEngine=%s" % engine]
    command.append("--loadInputs=%s" % ",".join("%s:%s" % (called(installed, n), files[n]) for n in files))
    if shapes:
        command.append("--shapes=%s" % shapes_of(installed, shapes))
    if installed.numbers[0] >= 11:
        command.append("--includeDataTransfers")  # which 10 and 8 do unless told otherwise
    if output:
        command.append("--exportOutput=%s" % output)
    if times:
        command += ["--exportTimes=%s" % times, "--iterations=10", "--duration=%g" % seconds]
    else:
        command += ["--iterations=1", "--duration=0", "--warmUp=0"]
    return command


def shapes_of(installed, shapes):
    return ",".join("%s:%s" % (called(installed, name), "x".join(map(str, shapes[name]))) for name in shapes)


def called(installed, name):
    """An input's name as trtexec takes it: quoted where it holds a colon, which 8.6 and later understand."""
    if "," in name or "'" in name or (":" in name and installed.numbers < (8, 6)):
        raise BoardError(
            "trtexec of TensorRT %s does not take an input called %s" % (installed.version, name),
            "install TensorRT's Python API: sudo apt-get install python3-libnvinfer",
        )
    return "'%s'" % name if ":" in name else name


def reason(lines):
    """Why trtexec failed, in a line: the first error that says something."""
    errors = [re.sub(r"^.*?\[E\]\s*(\[TRT\]\s*)?", "", line).strip() for line in lines if "[E]" in line]
    for pattern in (r"UNSUPPORTED_NODE|Plugin not found|No importer", r"Unknown option", r"Error\[|Error Code|rror:"):
        found = [line for line in errors if re.search(pattern, line)]
        if found:
            return found[0]
    return errors[0] if errors else (lines[-1].strip() if lines else "it says nothing")


def operator_in(lines):
    """The operator that could not be imported, as far as trtexec says."""
    text = "\n".join(lines)
    for pattern in (r'op_type: "(\w+)"', r"operator: (\w+)", r"could not find plugin: (\w+)", r"for op: (\w+)"):
        found = re.findall(pattern, text)
        if found:
            return found[-1]
    return None


def short_of_memory(lines):
    return bool(MEMORY.search("\n".join(lines)))


class Model(object):
    """An engine that trtexec runs, anew for each call: right answers, slowly.

    Args:
        file: a ModelFile, which says what the inputs and outputs are.
    """

    def __init__(self, installed, engine, file, check):
        self._installed, self._engine, self._file, self._check = installed, engine, file, check

    def __call__(self, feeds):
        with tempfile.TemporaryDirectory(prefix="edgepack-") as scratch:
            output = os.path.join(scratch, "output.json")
            self._run(feeds, scratch, output=output)
            return self._answers(output)

    def timed(self, feeds, seconds):
        """The seconds of each run, as trtexec measured them: copies and computing, without starting it."""
        with tempfile.TemporaryDirectory(prefix="edgepack-") as scratch:
            times = os.path.join(scratch, "times.json")
            self._run(feeds, scratch, times=times, seconds=max(1.0, seconds))
            with open(times, encoding="utf-8") as file:
                return [entry["latencyMs"] / 1000 for entry in json.load(file)]

    def _run(self, feeds, scratch, **what):
        import numpy as np

        missing = [name for name in self._file.inputs if name not in feeds]
        if missing:
            raise BoardError("the input %s is missing" % missing[0], "its inputs are in manifest.json", code=22)
        self._check(feeds)
        files, shapes = {}, {}
        for index, (name, (dtype, shape)) in enumerate(sorted(self._file.inputs.items())):
            array = np.ascontiguousarray(feeds[name], self._stored(dtype))
            files[name] = os.path.join(scratch, "input%d.bin" % index)
            array.tofile(files[name])
            if None in shape:
                shapes[name] = np.shape(feeds[name])
        command = run_command(self._installed, self._engine, files, shapes, **what)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        if done.returncode:
            hint = "python3 harness.py prepare --again" if "erializ" in "\n".join(lines) else ""
            raise BoardError("trtexec fails: %s" % reason(lines), hint)

    def _stored(self, dtype):
        dtype = DTYPES.get(dtype, dtype)
        return NARROW.get(dtype, dtype) if self._installed.numbers[0] < 10 else dtype

    def _answers(self, output):
        import numpy as np

        with open(output, encoding="utf-8") as file:
            text = file.read()
        # A C++ stream writes what JSON has no word for.
        text = re.sub(r"(?<=[\s,\[])(-?)nan\b", "NaN", text)
        text = re.sub(r"(?<=[\s,\[])(-?)inf\b", r"\1Infinity", text)
        found = {}
        for entry in json.loads(text):
            dims = [int(part) for part in entry["dimensions"].split("x") if part]
            dtype = self._file.outputs[entry["name"]][0]
            found[entry["name"]] = np.asarray(entry["values"], dtype).reshape(dims)
        return {name: found[name] for name in self._file.outputs}
