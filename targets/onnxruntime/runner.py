"""Run a bundle's model with ONNX Runtime. Python 3.8, numpy and onnxruntime."""

import os

# Its Linux builds send telemetry unless told not to before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

load_other = None


def load(path, threads):
    """Load a model file; returns a callable from a dict of inputs to a dict of outputs."""
    session = opened(path, threads)
    names = [output.name for output in session.get_outputs()]

    def model(feeds):
        return dict(zip(names, session.run(names, feeds)))

    return model


def opened(path, threads, settle=None):
    """The session; `settle` may add to its options."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if adds_with_saturation():
        # Weights beyond 7 bits are then multiplied unsigned, which is slower and adds in 32 bits, as other CPUs do.
        options.add_session_config_entry("session.x64quantprecision", "1")
    if settle is not None:
        settle(options)
    return onnxruntime.InferenceSession(
        path,
        options,
        providers=["CPUExecutionProvider"],
        # It would give float layers between int8 ones int8 weights of its own, per tensor (docs/architecture.md).
        disabled_optimizers=["WeightBiasQuantization"],
    )


def adds_with_saturation():
    """True on an x86 CPU without an int8 dot product."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = set(file.read().split())
    except OSError:
        return False
    return "avx2" in flags and not flags & {"avx_vnni", "avx512_vnni", "amx_int8"}


def versions():
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__}
