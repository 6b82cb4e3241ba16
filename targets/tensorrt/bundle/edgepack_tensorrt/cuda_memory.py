"""Memory on the GPU and a stream, through what is there: cuda-python, PyCUDA, or libcudart itself. Python 3.8.

Each has `allocate(count)`, `free(pointer)`, `to_device(pointer, array)`, `to_host(array, pointer)`, `wait()` and
`stream`, a number. Pointers are numbers; copies are queued on the stream, so `wait` before reading.
"""

import ctypes
import importlib

from edgepack_tensorrt import board
from edgepack_tensorrt.errors import BoardError

LIBCUDART = (
    "libcudart.so",
    "libcudart.so.13",
    "libcudart.so.12",
    "libcudart.so.11.0",
    "libcudart.so.10.2",
    "/usr/local/cuda/lib64/libcudart.so",
)
TO_DEVICE, TO_HOST = 1, 2


class FromLibrary(object):
    """Plain calls into libcudart."""

    def __init__(self):
        self._cuda = board.library(LIBCUDART)
        self._cuda.cudaGetErrorString.restype = ctypes.c_char_p
        self._cuda.cudaMalloc.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t]
        self._cuda.cudaFree.argtypes = [ctypes.c_void_p]
        self._cuda.cudaMemcpyAsync.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p,
        ]  # fmt: skip
        self._cuda.cudaStreamCreate.argtypes = [ctypes.POINTER(ctypes.c_void_p)]
        self._cuda.cudaStreamSynchronize.argtypes = [ctypes.c_void_p]
        stream = ctypes.c_void_p()
        self._check(self._cuda.cudaStreamCreate(ctypes.byref(stream)))
        self.stream = stream.value or 0

    def _check(self, code):
        if code:
            said = self._cuda.cudaGetErrorString(code)
            refuse(said.decode("utf-8", "replace") if said else "error %d" % code)

    def allocate(self, count):
        pointer = ctypes.c_void_p()
        self._check(self._cuda.cudaMalloc(ctypes.byref(pointer), max(1, count)))
        return pointer.value

    def free(self, pointer):
        self._cuda.cudaFree(pointer)

    def to_device(self, pointer, array):
        code = self._cuda.cudaMemcpyAsync(pointer, array.ctypes.data, array.nbytes, TO_DEVICE, self.stream)
        self._check(code)

    def to_host(self, array, pointer):
        self._check(self._cuda.cudaMemcpyAsync(array.ctypes.data, pointer, array.nbytes, TO_HOST, self.stream))

    def wait(self):
        self._check(self._cuda.cudaStreamSynchronize(self.stream))


class FromCudaPython(object):
    """NVIDIA's cuda-python: cuda.bindings.runtime since 12.6, cuda.cudart before."""

    def __init__(self):
        try:
            self._cuda = importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            self._cuda = importlib.import_module("cuda.cudart")
        self._stream = self._ask(self._cuda.cudaStreamCreate())
        self.stream = int(self._stream)

    def _ask(self, answer):
        code, rest = answer[0], answer[1:]
        if int(code):
            refuse(str(code))
        return rest[0] if rest else None

    def allocate(self, count):
        return int(self._ask(self._cuda.cudaMalloc(max(1, count))))

    def free(self, pointer):
        self._cuda.cudaFree(pointer)

    def to_device(self, pointer, array):
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._ask(self._cuda.cudaMemcpyAsync(pointer, array.ctypes.data, array.nbytes, kind, self._stream))

    def to_host(self, array, pointer):
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._ask(self._cuda.cudaMemcpyAsync(array.ctypes.data, pointer, array.nbytes, kind, self._stream))

    def wait(self):
        self._ask(self._cuda.cudaStreamSynchronize(self._stream))


class FromPyCuda(object):
    """PyCUDA on the context that TensorRT uses, the device's primary one."""

    def __init__(self):
        importlib.import_module("pycuda.autoprimaryctx")
        self._driver = importlib.import_module("pycuda.driver")
        self._stream = self._driver.Stream()
        self.stream = self._stream.handle
        self._held = {}

    def allocate(self, count):
        held = self._driver.mem_alloc(max(1, count))
        self._held[int(held)] = held
        return int(held)

    def free(self, pointer):
        self._held.pop(pointer).free()

    def to_device(self, pointer, array):
        self._driver.memcpy_htod_async(pointer, array, self._stream)

    def to_host(self, array, pointer):
        self._driver.memcpy_dtoh_async(array, pointer, self._stream)

    def wait(self):
        self._stream.synchronize()


def device_memory():
    """The first of the three that works here.

    Raises:
        BoardError: none does.
    """
    reasons = []
    for kind in (FromCudaPython, FromPyCuda, FromLibrary):
        try:
            return kind()
        except BoardError as error:
            reasons.append(error.message)
        except Exception as error:  # each has exceptions of its own
            if not isinstance(error, ImportError):
                reasons.append(str(error))
    raise BoardError("CUDA does not work here: %s" % "; ".join(reasons), "does the driver run? /dev/nvhost-gpu")


def refuse(said):
    memory = "memory" in said.lower()
    hint = "close what else runs" if memory else "does the driver run? sudo tegrastats shows the GPU"
    raise BoardError("CUDA says: %s" % said, hint)
