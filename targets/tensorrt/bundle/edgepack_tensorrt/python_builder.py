"""Build an engine through TensorRT's Python API; runs in a process of its own, which may be killed. Python 3.8.

Prints lines of JSON: `{"progress": …}`, `{"note": …}`, and at the end `{"done": …}` or `{"error": …, "memory": …}`.
"""

import json
import os
import re
import sys
import time

# What TensorRT and CUDA say where memory is short.
MEMORY = re.compile(r"out of memory|OutOfMemory|OUT_OF_MEMORY|bad_alloc|[Cc]annot allocate memory")
UNREADABLE = "TensorRT cannot read the model"
EVERY_S = 2.0


def main(job):
    """
    Args:
        job: `model`, `output`, `timing` (a cache to start from and write), `precision`, `half` (whether the graph
            holds fp16), `quantized`, `sparse`, `profile`, `workspace`, `fp32_layers`.
    """
    try:
        tell(done=build(job))
    except BuildFailed as error:
        tell(error=str(error), memory=error.memory)
    except MemoryError:
        tell(error="out of memory", memory=True)


class BuildFailed(Exception):
    def __init__(self, words, said=()):
        super(BuildFailed, self).__init__(words)
        self.memory = bool(MEMORY.search("\n".join([words] + list(said))))


def tell(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def build(job):
    import tensorrt

    major = int(tensorrt.__version__.split(".")[0])
    said = []
    logger = log(tensorrt, said)
    builder = tensorrt.Builder(logger)
    if builder is None:
        raise BuildFailed("TensorRT has no builder here", said)
    network = builder.create_network(network_flags(tensorrt, major))
    parse(tensorrt, network, logger, job["model"], said)
    config = configured(tensorrt, builder, major, job)
    if major < 10 and job["fp32_layers"]:
        keep_wide(tensorrt, network, config, set(job["fp32_layers"]))
    cache = start_cache(config, job["timing"])
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildFailed(why(said, "TensorRT built no engine and does not say why"), said)
    with open(job["output"], "wb") as file:
        file.write(memoryview(plan))
    if cache:
        written = config.get_timing_cache()
        if written is not None:
            with open(job["timing"], "wb") as file:
                file.write(memoryview(written.serialize()))
    return {"tensorrt": tensorrt.__version__}


def network_flags(tensorrt, major):
    """8 has to be told that the batch is a dimension, 10 that types are those of the graph; 11 knows both."""
    if major >= 11:
        return 0
    name = "STRONGLY_TYPED" if major >= 10 else "EXPLICIT_BATCH"
    return 1 << int(getattr(tensorrt.NetworkDefinitionCreationFlag, name))


def parse(tensorrt, network, logger, path, said):
    parser = tensorrt.OnnxParser(network, logger)
    if parser.parse_from_file(path):
        return
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        operator = error.node_operator() if hasattr(error, "node_operator") else ""
        name = error.node_name() if hasattr(error, "node_name") else ""
        where = " ".join(part for part in (operator, name) if part) or "node %d" % error.node()
        found.append("%s: %s" % (where, " ".join(error.desc().split())))
    raise BuildFailed("%s: %s" % (UNREADABLE, found[0] if found else why(said, "no reason given")), said)


def configured(tensorrt, builder, major, job):
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, job["workspace"])
    # fp32 is fp32: TF32 would round products to ten bits.
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    if major < 10:
        if job["precision"] == "fp16" or job["half"]:
            config.set_flag(tensorrt.BuilderFlag.FP16)
        if job["precision"] == "int8" or job["quantized"]:
            config.set_flag(tensorrt.BuilderFlag.INT8)
    if job["sparse"]:
        config.set_flag(tensorrt.BuilderFlag.SPARSE_WEIGHTS)
    if job["profile"]:
        profile = builder.create_optimization_profile()
        for name, ranges in job["profile"].items():
            profile.set_shape(name, tuple(ranges["min"]), tuple(ranges["opt"]), tuple(ranges["max"]))
        if config.add_optimization_profile(profile) < 0:
            raise BuildFailed("TensorRT does not take the range of shapes")
    if hasattr(tensorrt, "IProgressMonitor"):
        config.progress_monitor = monitor(tensorrt)
    return config


def keep_wide(tensorrt, network, config, names):
    """Ask for layers in fp32 where TensorRT takes types for hints; layers are called like the nodes they come from."""
    config.set_flag(tensorrt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.name in names:
            layer.precision = tensorrt.DataType.FLOAT


def start_cache(config, path):
    """Begin with what was timed before; a cache that TensorRT does not take is left out. False if it takes none."""
    before = b""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            before = file.read()
    for data in [before, b""] if before else [b""]:
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return True
        if data:
            tell(note="the timing cache is damaged or of another TensorRT: kernels are timed anew")
    return False


def why(said, otherwise):
    """The last error that TensorRT logged."""
    return said[-1] if said else otherwise


def log(tensorrt, said):
    class Log(tensorrt.ILogger):
        def __init__(self):
            tensorrt.ILogger.__init__(self)

        def log(self, severity, message):
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                said.append(" ".join(message.split()))

    return Log()


def monitor(tensorrt):
    """Where the build is: the outermost phase that has steps, not more often than every two seconds."""

    class Progress(tensorrt.IProgressMonitor):
        def __init__(self):
            tensorrt.IProgressMonitor.__init__(self)
            self.steps = {}
            self.last = 0.0

        def phase_start(self, phase_name, parent_phase, num_steps):
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name, step):
            now = time.monotonic()
            if now - self.last > EVERY_S:
                self.last = now
                tell(progress="%s: %d of %d" % (phase_name, step + 1, self.steps.get(phase_name, step + 1)))
            return True

        def phase_finish(self, phase_name):
            self.steps.pop(phase_name, None)

    return Progress()
