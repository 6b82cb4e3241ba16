"""A stand-in for the Python module `tensorrt`. `install` in tests/jetson.py writes the constants above this text.

A name that this version does not declare is not there; one that it declares and the stand-in lacks says so. Faults come
in the environment, as FAKE_TENSORRT_FAULT: oom, killed, bad_alloc.
"""

# ruff: noqa
# mypy: ignore-errors

import ctypes as _ctypes
import os as _os
import signal as _signal
import sys as _sys

_VERSION = ".".join(__version__.split(".")[:3])
_MAJOR = int(__version__.split(".")[0])
_FAULT = _os.environ.get("FAKE_TENSORRT_FAULT", "")


def _documented(kind):
    """Hold a class against what this version declares of it."""
    names = set(NAMES.get(kind.__name__, ()))
    for name in [name for name in vars(kind) if not name.startswith("_")]:
        if name not in names:
            delattr(kind, name)

    def missing(self, name):
        if name in names:
            raise NotImplementedError("the stand-in for %s has no %s" % (kind.__name__, name))
        raise AttributeError("%r object has no attribute %r" % (kind.__name__, name))

    def put(self, name, value):
        if not name.startswith("_") and name not in names:
            raise AttributeError("%r object has no attribute %r" % (kind.__name__, name))
        object.__setattr__(self, name, value)

    kind.__getattr__ = missing
    # Python code may subclass an interface and keep what it likes there.
    if kind.__name__ not in ("ILogger", "IProgressMonitor"):
        kind.__setattr__ = put
    return kind


class _Value(int):
    def __new__(cls, kind, name, number):
        made = int.__new__(cls, number)
        made._kind, made.name = kind, name
        return made

    def __repr__(self):
        return "<%s.%s: %d>" % (self._kind, self.name, self)

    __str__ = __repr__

    def __hash__(self):
        return hash((self._kind, self.name))

    def __eq__(self, other):
        return isinstance(other, _Value) and (self._kind, self.name) == (other._kind, other.name)


def _enum(kind):
    values = {name: _Value(kind, name, number) for number, name in enumerate(NAMES[kind])}
    if kind == "NetworkDefinitionCreationFlag" and "EXPLICIT_BATCH" in values:
        values["EXPLICIT_BATCH"] = _Value(kind, "EXPLICIT_BATCH", 0)
        values.update({name: _Value(kind, name, 1) for name in values if name == "STRONGLY_TYPED"})
    return type(kind, (), dict(values))


BuilderFlag = _enum("BuilderFlag")
NetworkDefinitionCreationFlag = _enum("NetworkDefinitionCreationFlag")
MemoryPoolType = _enum("MemoryPoolType")
TensorIOMode = _enum("TensorIOMode")
TensorLocation = _enum("TensorLocation")
DataType = _enum("DataType")
_TYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "int32": "INT32",
    "int64": "INT64",
    "int8": "INT8",
    "bool": "BOOL",
    "uint8": "UINT8",
}


class _Interface(object):
    """What Python may subclass: its __init__ must have been called, as pybind11 demands."""

    def __init__(self):
        self._made = True


@_documented
class ILogger(_Interface):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = (
        _Value("Severity", name, n) for n, name in enumerate(("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"))
    )

    def log(self, severity, message):
        raise NotImplementedError


if "IProgressMonitor" in NAMES:

    @_documented
    class IProgressMonitor(_Interface):
        def phase_start(self, phase_name, parent_phase, num_steps):
            raise NotImplementedError

        def step_complete(self, phase_name, step):
            raise NotImplementedError

        def phase_finish(self, phase_name):
            raise NotImplementedError


def _made(thing, kind):
    if not isinstance(thing, kind) or not getattr(thing, "_made", False):
        raise TypeError("%s.__init__() must be called when overriding __init__" % kind.__name__)
    return thing


def _onnx():
    """Packages of the machine that tests run on, of which the board knows nothing."""
    if BEHIND not in _sys.path:
        _sys.path.append(BEHIND)
        _sys.path.append(FOLDER)
    import onnx
    import onnxruntime
    import plan

    return onnx, onnxruntime, plan


@_documented
class IHostMemory(bytes):
    @property
    def nbytes(self):
        return len(self)


@_documented
class ITimingCache(object):
    def __init__(self, data):
        self._data = data

    def serialize(self):
        return IHostMemory(self._data)


@_documented
class IOptimizationProfile(object):
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        self._shapes[input] = {"min": list(min), "opt": list(opt), "max": list(max)}


@_documented
class ILayer(object):
    def __init__(self, name):
        self._name, self._precision = name, None

    @property
    def name(self):
        return self._name

    @property
    def precision(self):
        return self._precision

    @precision.setter
    def precision(self, kind):
        if kind._kind != "DataType":
            raise TypeError("precision: incompatible function arguments")
        self._precision = kind


@_documented
class INetworkDefinition(object):
    def __init__(self, flags):
        self._flags, self._proto, self._layers = flags, None, []

    @property
    def num_layers(self):
        return len(self._layers)

    def get_layer(self, index):
        return self._layers[index]


@_documented
class IBuilderConfig(object):
    def __init__(self):
        self._flags, self._limits, self._profiles, self._cache, self._monitor = {"TF32"}, {}, [], None, None

    def set_memory_pool_limit(self, pool, pool_size):
        if pool._kind != "MemoryPoolType" or not isinstance(pool_size, int):
            raise TypeError("set_memory_pool_limit(): incompatible function arguments")
        self._limits[pool.name] = pool_size

    def set_flag(self, flag):
        self._flags.add(flag.name)

    def clear_flag(self, flag):
        self._flags.discard(flag.name)

    def add_optimization_profile(self, profile):
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        data = bytes(memoryview(serialized_timing_cache))
        good = not data or data == CACHE + _VERSION.encode()
        return ITimingCache(data) if good else None

    def set_timing_cache(self, cache, ignore_mismatch):
        if not isinstance(cache, ITimingCache):
            raise TypeError("set_timing_cache(): incompatible function arguments")
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache

    @property
    def progress_monitor(self):
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor):
        self._monitor = _made(monitor, IProgressMonitor)


@_documented
class Builder(object):
    def __init__(self, logger):
        self._logger = _made(logger, ILogger)

    def create_network(self, flags=0):
        return INetworkDefinition(flags)

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        onnx, onnxruntime, plan = _onnx()
        flags = {name for name in config._flags if name in ("FP16", "INT8", "SPARSE_WEIGHTS", "TF32")}
        if _MAJOR >= 10 and network._flags & 2:
            flags.add("STRONGLY_TYPED")
        if config._monitor is not None:
            config._monitor.phase_start("Building Engine", None, 4)
            for step in range(4):
                if not config._monitor.step_complete("Building Engine", step):
                    return None
            config._monitor.phase_finish("Building Engine")
        if _FAULT == "killed":
            _os.kill(_os.getpid(), _signal.SIGKILL)
        if _FAULT == "oom":
            return self._say(
                "[virtualMemoryBuffer.cpp::resizePhysical::160] Error Code 2: OutOfMemory (no further information)",
                "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation.)",
            )
        if _FAULT == "bad_alloc":
            raise MemoryError("std::bad_alloc")
        try:
            plan.check_graph(network._proto, _MAJOR, flags - {"TF32", "SPARSE_WEIGHTS"})
        except plan.Refused as refused:
            return self._say(*refused.lines)
        profile = config._profiles[0] if config._profiles else {}
        missing = [name for name in plan.open_inputs(network._proto) if name not in profile]
        if missing:
            return self._say(
                "Error Code 4: Internal Error (Network has dynamic or shape inputs, but no optimization profile has been "
                "defined.)"
            )
        if config._cache is not None:
            config._cache = ITimingCache(CACHE + _VERSION.encode())
        wide = {"wide:" + layer._name for layer in network._layers if layer._precision is not None}
        if wide and "PREFER_PRECISION_CONSTRAINTS" not in config._flags:
            return self._say("layer precisions without precision constraints have no effect")
        about = flags | wide | {"workspace:%d" % config._limits.get("WORKSPACE", 0)}
        return IHostMemory(plan.write(network._proto, _VERSION, "Orin", profile, about))

    def _say(self, *lines):
        for line in lines:
            self._logger.log(ILogger.ERROR, line)
        return None


@_documented
class ParserError(object):
    def __init__(self, index, node):
        self._index, self._node = index, node

    def desc(self):
        return 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'

    def node(self):
        return self._index

    def node_name(self):
        return self._node.name

    def node_operator(self):
        return self._node.op_type


@_documented
class OnnxParser(object):
    def __init__(self, network, logger):
        self._network, self._logger, self._errors = network, _made(logger, ILogger), []

    def parse_from_file(self, model):
        onnx, onnxruntime, plan = _onnx()
        if _MAJOR < 10 and not self._network._flags & 1:
            self._logger.log(
                ILogger.ERROR, "This version of the ONNX parser only supports networks with an explicit batch"
            )
            return False
        proto = onnx.load(model)
        found = plan.unsupported(proto)
        if found is not None:
            self._errors = [ParserError(*found)]
            self._logger.log(ILogger.ERROR, "ModelImporter.cpp:963: While parsing node number %d" % found[0])
            return False
        self._network._proto = proto
        self._network._layers = [ILayer(node.name) for node in proto.graph.node]
        return True

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]


@_documented
class IExecutionContext(object):
    def __init__(self, engine, logger):
        self._engine, self._logger, self._shapes, self._places = engine, logger, {}, {}

    def set_input_shape(self, name, shape):
        wanted = self._engine._about["profile"].get(name)
        onnx, onnxruntime, plan = _onnx()
        fixed = [dim if isinstance(dim, int) else -1 for dim in self._engine._inputs[name].shape]
        fits = plan.within(list(shape), wanted) if wanted else list(shape) == fixed
        if not fits:
            self._logger.log(
                ILogger.ERROR, "IExecutionContext::setInputShape: Error Code 3: API Usage Error (%s)" % name
            )
            return False
        self._shapes[name] = list(shape)
        return True

    def get_tensor_shape(self, name):
        if name in self._engine._inputs:
            return tuple(self._shapes.get(name, [-1]))
        return tuple(self._run(zeros=True)[name].shape)

    def set_tensor_address(self, name, memory):
        if not isinstance(memory, int):
            raise TypeError("set_tensor_address(): incompatible function arguments")
        if name not in self._engine._inputs and name not in self._engine._outputs:
            return False
        self._places[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        if not isinstance(stream_handle, int):
            raise TypeError("execute_async_v3(): incompatible function arguments")
        missing = [
            name for name in list(self._engine._inputs) + list(self._engine._outputs) if name not in self._places
        ]
        if missing:
            self._logger.log(ILogger.ERROR, "Error Code 3: API Usage Error (no address for %s)" % missing[0])
            return False
        for name, array in self._run().items():
            _ctypes.memmove(self._places[name], array.ctypes.data, array.nbytes)
        return True

    def _run(self, zeros=False):
        import numpy

        feeds = {}
        for name, entry in self._engine._inputs.items():
            shape, dtype = self._shapes[name], numpy.dtype(self._engine._dtypes[name])
            if zeros:
                array = numpy.zeros(shape, dtype)
            else:
                count = int(numpy.prod(shape)) * dtype.itemsize
                array = numpy.frombuffer(_ctypes.string_at(self._places[name], count), dtype).reshape(shape)
            feeds[name] = array.astype(self._engine._own[name])
        answers = self._engine._session.run(list(self._engine._outputs), feeds)
        return {
            name: numpy.ascontiguousarray(array, self._engine._dtypes[name]).reshape(array.shape)
            for name, array in zip(self._engine._outputs, answers)
        }


@_documented
class ICudaEngine(object):
    def __init__(self, about, model, logger):
        onnx, onnxruntime, plan = _onnx()
        self._about, self._logger = about, logger
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._inputs = {entry.name: entry for entry in self._session.get_inputs()}
        self._outputs = {entry.name: entry for entry in self._session.get_outputs()}
        words = {"float": "float32", "float16": "float16", "double": "float64"}
        both = list(self._inputs.values()) + list(self._outputs.values())
        self._own = {entry.name: words.get(entry.type[7:-1], entry.type[7:-1]) for entry in both}
        self._dtypes = {name: plan.stored(dtype, _MAJOR) for name, dtype in self._own.items()}

    def create_execution_context(self):
        return IExecutionContext(self, self._logger)

    @property
    def num_io_tensors(self):
        return len(self._dtypes)

    def get_tensor_name(self, index):
        return list(self._dtypes)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return getattr(DataType, _TYPES[self._dtypes[name]])

    def get_tensor_location(self, name):
        return TensorLocation.DEVICE


@_documented
class Runtime(object):
    def __init__(self, logger):
        self._logger = _made(logger, ILogger)

    def deserialize_cuda_engine(self, serialized_engine):
        onnx, onnxruntime, plan = _onnx()
        try:
            about, model = plan.read(bytes(memoryview(serialized_engine)), _VERSION)
        except plan.Refused as refused:
            self._logger.log(ILogger.ERROR, refused.lines[0])
            return None
        return ICudaEngine(about, model, self._logger)
