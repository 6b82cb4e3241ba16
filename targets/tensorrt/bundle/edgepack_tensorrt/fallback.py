"""The same model in ONNX Runtime, where that was allowed and TensorRT is not there. Python 3.8."""

import os

from edgepack_tensorrt.errors import BoardError

# What `--allow-fallback` takes, and the distributions that each needs.
FALLBACKS = {"onnxruntime": ("onnxruntime",), "onnxruntime-cuda": ("onnxruntime-gpu",)}
CALLED = {"onnxruntime": "ONNX Runtime on the CPU", "onnxruntime-cuda": "ONNX Runtime with CUDA"}
PROVIDERS = {"onnxruntime": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}


def load(path, threads, name):
    """A callable from a dict of arrays to a dict of arrays."""
    # Its Linux builds send telemetry unless told not to before the import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError:
        raise BoardError("%s is not installed" % FALLBACKS[name][0], "python3 -m pip install %s" % FALLBACKS[name][0])
    if PROVIDERS[name] not in onnxruntime.get_available_providers():
        raise BoardError(
            "this ONNX Runtime has no %s" % PROVIDERS[name],
            "jetpack/*.txt say which wheel has it; --allow-fallback onnxruntime takes the CPU",
        )
    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Exact products on CPUs that add u8*s8 with saturation.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        path, options, providers=[PROVIDERS[name]], disabled_optimizers=["WeightBiasQuantization"]
    )
    if session.get_providers()[0] != PROVIDERS[name]:
        raise BoardError("ONNX Runtime does not start %s here" % PROVIDERS[name], "is CUDA installed?")
    names = [output.name for output in session.get_outputs()]

    def model(feeds):
        return dict(zip(names, session.run(names, feeds)))

    return model


def versions():
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__}
