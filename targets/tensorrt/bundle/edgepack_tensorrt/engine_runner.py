"""Run an engine through TensorRT's Python API. Python 3.8, numpy, and memory on the GPU."""

import threading

from edgepack_tensorrt.cuda_memory import device_memory
from edgepack_tensorrt.errors import BoardError
from edgepack_tensorrt.python_builder import log

# By the names in tensorrt.DataType; INT64 since 10.
NUMPY = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
    "UINT8": "uint8",
}  # fmt: skip
PREPARE_AGAIN = "python3 harness.py prepare --again"


class Model(object):
    """A loaded engine: a callable from a dict of arrays to a dict of arrays.

    Args:
        file: a ModelFile, by whose dtypes is answered where TensorRT has others (INT32 for INT64 before 10).
        check: raises where feeds do not fit the engine's range of shapes.
    """

    def __init__(self, engine, file, check):
        import tensorrt

        self._said = []
        self._logger = log(tensorrt, self._said)
        self._runtime = tensorrt.Runtime(self._logger)
        with open(engine, "rb") as data:
            self._engine = self._runtime.deserialize_cuda_engine(data.read())
        if self._engine is None:
            raise BoardError("the engine does not load: %s" % self._last(), PREPARE_AGAIN)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BoardError("TensorRT cannot run the engine: %s" % self._last(), "close what else runs")
        self._memory = device_memory()
        self._file, self._check = file, check
        self._lock = threading.Lock()
        self._held = {}
        self._inputs, self._outputs = self._tensors(tensorrt)

    def _last(self):
        return self._said[-1] if self._said else "it does not say why"

    def _tensors(self, tensorrt):
        """Dtypes of the engine's inputs and outputs by name."""
        known = {getattr(tensorrt.DataType, name): NUMPY[name] for name in NUMPY if hasattr(tensorrt.DataType, name)}
        inputs, outputs = {}, {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            kind = self._engine.get_tensor_dtype(name)
            if kind not in known:
                raise BoardError("%s is %s, which numpy does not have" % (name, kind))
            if self._engine.get_tensor_location(name) != tensorrt.TensorLocation.DEVICE:
                raise BoardError("%s sets shapes, which this runner does not pass" % name, "fix its value in the model")
            is_input = self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
            (inputs if is_input else outputs)[name] = known[kind]
        return inputs, outputs

    def __call__(self, feeds):
        with self._lock:
            return self._run(feeds)

    def _run(self, feeds):
        import numpy as np

        missing = [name for name in self._inputs if name not in feeds]
        if missing:
            raise BoardError("the input %s is missing" % missing[0], "its inputs are in manifest.json", code=22)
        self._check(feeds)
        kept = []  # what is copied asynchronously has to outlive the call
        for name, dtype in self._inputs.items():
            array = np.ascontiguousarray(feeds[name], dtype).reshape(np.shape(feeds[name]))
            if not self._context.set_input_shape(name, tuple(array.shape)):
                raise BoardError(
                    "the engine does not take %s of shape %s" % (name, "x".join(map(str, array.shape))),
                    "its inputs are in manifest.json",
                    code=22,
                )
            self._memory.to_device(self._place(name, array.nbytes), array)
            kept.append(array)
        answers = {}
        for name, dtype in self._outputs.items():
            shape = tuple(self._context.get_tensor_shape(name))
            if any(length < 0 for length in shape):
                raise BoardError("the shape of %s depends on the values, which this runner does not follow" % name)
            answers[name] = np.empty(shape, dtype)
            self._place(name, answers[name].nbytes)
        if not self._context.execute_async_v3(self._memory.stream):
            raise BoardError("TensorRT fails to run the engine: %s" % self._last())
        for name, array in answers.items():
            self._memory.to_host(array, self._held[name][0])
        self._memory.wait()
        del kept
        return {name: answers[name].astype(self._file.outputs[name][0], copy=False) for name in self._file.outputs}

    def _place(self, name, count):
        """Memory for a tensor, made larger when that is needed; the engine is told where it is."""
        pointer, size = self._held.get(name, (None, -1))
        if size < count:
            if pointer is not None:
                self._memory.wait()
                self._memory.free(pointer)
                del self._held[name]
            pointer = self._memory.allocate(count)
            self._held[name] = (pointer, count)
            self._context.set_tensor_address(name, pointer)
        return pointer
