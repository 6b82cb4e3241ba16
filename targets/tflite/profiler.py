"""What each operator takes in LiteRT, by its own profiler. Python 3.8, numpy and ai-edge-litert.

Its Python interface has no profiler, its C interface does (libLiteRt.so), and opens XNNPACK's partitions as well.
"""

import ctypes
import os
import struct
import time

INVOKED, IN_DELEGATE, WHOLE = 2, (4, 8), 1
# Layout of an event: name, kind, start, microseconds, two memory readings, two numbers of the kind's own, source.
EVENT = struct.Struct("<QI4xQQ48xQQI4x")
# What a kind of tensor needs to be described; larger than any version's structure.
ROOM = 1024
CPU, TO_WRITE = 1, 1


class Profile(object):
    """A compiled model with its profiler on."""

    def __init__(self, runner, path, threads, folder):
        if runner.distribution() != "ai-edge-litert":
            raise RuntimeError("tflite-runtime has no profiler that Python can reach; ai-edge-litert has")
        self.lib = library()
        self.operators_of_file = described(path)
        self.operators, self.turns, self.known = [], [], {}
        self.keep = []
        environment = self.made("LiteRtCreateEnvironment", ctypes.c_int(0), None)
        model = self.made("LiteRtCreateModelFromFile", environment, path.encode())
        options = self.made("LiteRtCreateOptions")
        self.call("LiteRtSetOptionsHardwareAccelerators", options, ctypes.c_int(CPU))
        self.add(options, b"runtime_options_string", b"enable_profiling = true\n")
        self.add(options, b"xnnpack", b"num_threads = %d\n" % threads)
        self.compiled = self.made("LiteRtCreateCompiledModel", environment, model, options)
        self.profiler = self.made("LiteRtCompiledModelGetProfiler", self.compiled)
        signature = self.made("LiteRtGetModelSignature", model, ctypes.c_size_t(0))
        self.inputs = self.buffers("Input", environment, signature)
        self.outputs = self.buffers("Output", environment, signature)
        self.filled = None
        self.runner, self.path, self.threads = runner, path, threads

    # --- the C interface --------------------------------------------------------------------------------------------

    def call(self, name, *arguments):
        function = getattr(self.lib, name)
        function.restype = ctypes.c_int
        status = function(*arguments)
        if status:
            raise RuntimeError("%s of this version of LiteRT answers %d" % (name, status))

    def made(self, name, *arguments):
        """The handle that a function returns in its last argument."""
        handle = ctypes.c_void_p()
        self.call(name, *(arguments + (ctypes.byref(handle),)))
        return handle

    def add(self, options, name, text):
        libc = ctypes.CDLL(None)
        libc.strdup.restype = ctypes.c_void_p
        copy = ctypes.c_void_p(libc.strdup(text))  # freed with the options
        more = self.made("LiteRtCreateOpaqueOptions", name, copy, ctypes.cast(libc.free, ctypes.c_void_p))
        self.call("LiteRtAddOpaqueOptions", options, more)

    def buffers(self, side, environment, signature):
        """A buffer for each input or output: names, and an array of handles."""
        count = ctypes.c_size_t()
        self.call("LiteRtGetNumSignature%ss" % side, signature, ctypes.byref(count))
        names, handles = [], (ctypes.c_void_p * count.value)()
        for index in range(count.value):
            place = ctypes.c_size_t(index)
            name = ctypes.c_char_p()
            self.call("LiteRtGetSignature%sName" % side, signature, place, ctypes.byref(name))
            names.append(name.value.decode())
            needs = self.made(
                "LiteRtGetCompiledModel%sBufferRequirements" % side, self.compiled, ctypes.c_size_t(0), place
            )
            tensor = self.made("LiteRtGetSignature%sTensorByIndex" % side, signature, place)
            kind = ctypes.create_string_buffer(ROOM)
            self.call("LiteRtGetRankedTensorType", tensor, kind)
            self.keep.append(kind)
            handles[index] = self.made("LiteRtCreateManagedTensorBufferFromRequirements", environment, kind, needs)
        return names, handles

    # --- turns ------------------------------------------------------------------------------------------------------

    def turn(self, feed, seconds):
        """One run."""
        if self.filled is not feed:
            self.fill(feed)
        self.call("LiteRtResetProfiler", self.profiler)
        self.call("LiteRtStartProfiler", self.profiler)
        names, handles = self.inputs
        answers, places = self.outputs
        self.call(
            "LiteRtRunCompiledModel", self.compiled, ctypes.c_size_t(0),
            ctypes.c_size_t(len(names)), handles, ctypes.c_size_t(len(answers)), places,
        )  # fmt: skip
        self.call("LiteRtStopProfiler", self.profiler)
        self.turns.append(self.read())

    def fill(self, feed):
        import numpy as np

        for name, handle in zip(*self.inputs):
            data = np.ascontiguousarray(feed[name])
            address = ctypes.c_void_p()
            self.call("LiteRtLockTensorBuffer", ctypes.c_void_p(handle), ctypes.byref(address), ctypes.c_int(TO_WRITE))
            ctypes.memmove(address, data.ctypes.data, data.nbytes)
            self.call("LiteRtUnlockTensorBuffer", ctypes.c_void_p(handle))
        self.filled = feed

    def read(self):
        """The times of the run before, by operator."""
        count = ctypes.c_int()
        self.call("LiteRtGetNumProfilerEvents", self.profiler, ctypes.byref(count))
        raw = ctypes.create_string_buffer(count.value * EVENT.size)
        self.call("LiteRtGetProfilerEvents", self.profiler, count, raw)
        whole, timed, seen = 0.0, [], {}
        for offset in range(0, count.value * EVENT.size, EVENT.size):
            address, kind, _, micros, first, second, _ = EVENT.unpack_from(raw, offset)
            name = ctypes.string_at(address).decode("utf-8", "replace")
            if kind == WHOLE and name == "Invoke":
                whole = max(whole, float(micros))
            elif kind in IN_DELEGATE:
                key = (name, kind, first, seen.get((name, first), 0))
                seen[(name, first)] = key[3] + 1
                timed.append((key, float(micros), None))
            elif kind == INVOKED and not name.endswith("Delegate") and not name.startswith("TfLiteXNNPack"):
                timed.append(((name, kind, first, second), float(micros), int(first)))
        for key, _, node in timed:
            if key not in self.known:
                self.known[key] = len(self.operators)
                self.operators.append({"name": key[0], "kind": key[0].split(" (")[0], "node": node})
        # Each is cut to whole microseconds; half of one is lost on average, and no more than the whole run has left.
        lost = whole - sum(micros for _, micros, _ in timed)
        share = min(0.5, max(0.0, lost / len(timed))) if timed else 0.0
        times = [0.0] * len(self.operators)
        for key, micros, _ in timed:
            times[self.known[key]] += micros + share
        return {"runs": 1, "wall_us": whole, "raw_us": sum(micros for _, micros, _ in timed), "us": times}

    def outside(self, feed, seconds):
        """Microseconds of a call that are not the run itself: what Python does, and copies of inputs and outputs."""
        made = self.runner.interpreter_class()
        call = self.runner.load(self.path, self.threads)
        call(feed)
        # Another one, since it cannot be invoked while someone holds it; its inputs stay as they were set here.
        interpreter = made(model_path=self.path, num_threads=self.threads)
        self.runner.loaded(interpreter)(feed)
        whole, inside, clock = [], [], time.perf_counter
        end = clock() + seconds
        while clock() < end or len(whole) < 8:
            before = clock()
            call(feed)
            between = clock()
            interpreter.invoke()
            whole.append(between - before)
            inside.append(clock() - between)
        quarter = len(whole) // 4
        return 1e6 * (sum(sorted(whole)[:quarter]) - sum(sorted(inside)[:quarter])) / quarter

    def result(self):
        """`operators`, `turns` and, as `graph`, the operators of the file."""
        turns = [dict(turn, us=turn["us"] + [0.0] * (len(self.operators) - len(turn["us"]))) for turn in self.turns]
        return {"operators": self.operators, "turns": turns, "graph": self.operators_of_file}


def library():
    import ai_edge_litert

    path = os.path.join(next(iter(ai_edge_litert.__path__)), "libLiteRt.so")
    lib = ctypes.CDLL(path) if os.path.isfile(path) else None
    if not hasattr(lib, "LiteRtGetProfilerEvents"):
        raise RuntimeError("this version of ai-edge-litert has no profiler; 2.3 has")
    return lib


def described(path):
    """The operators of the file, in order: kind, names of what they read and make, precision and bytes."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=path, experimental_op_resolver_type=plain)
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    found = []
    for operator in interpreter._get_ops_details():
        reads = [tensors[index] for index in operator["inputs"] if index in tensors]
        makes = [tensors[index] for index in operator["outputs"] if index in tensors]
        found.append(
            {
                "kind": operator["op_name"],
                "inputs": [tensor["name"] for tensor in reads],
                "outputs": [tensor["name"] for tensor in makes],
                "precision": precision((reads or makes)[0]) if reads or makes else "",
                "bytes": sum(size(tensor) for tensor in reads + makes),
            }
        )
    return found


def precision(tensor):
    import numpy as np

    name = np.dtype(tensor["dtype"]).name
    return {"float32": "fp32", "float16": "fp16"}.get(name, name)


def size(tensor):
    import numpy as np

    count = 1
    for length in tensor["shape"]:
        count *= max(1, int(length))
    return count * np.dtype(tensor["dtype"]).itemsize
