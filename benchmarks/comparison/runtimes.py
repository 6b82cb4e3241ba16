"""Models loaded as their users would: peers' files with default settings, bundles by the runner they carry."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, np.ndarray]
Run = Callable[[Feed], list[np.ndarray]]
# LiteRT with inputs and outputs as the ONNX model has them, and with the channels of some pictures last.
LAYOUTS: dict[str, frozenset[str]] = {
    "tflite": frozenset(),
    "tflite-nhwc": frozenset({"inputs", "outputs"}),
    "tflite-nhwc-inputs": frozenset({"inputs"}),
}
INTEGERS = (np.int8, np.uint8)
# ONNX Runtime with every operator as the file has it: a Q/DQ graph then answers by its own rounding alone, not by that
# of CPU kernels, and float layers stay float.
UNOPTIMIZED = "onnxruntime-unoptimized"


def load(
    target: str, file: str, threads: int, outputs: list[str], runner: str | None = None, hint: str | None = None
) -> Run:
    """A callable from a feed to the named outputs.

    Args:
        runner: the bundle's runner.py; without it all settings but the number of threads are the runtime's defaults.
        hint: OpenVINO's INFERENCE_PRECISION_HINT for files without a runner; by default it calculates in bf16 where
            the CPU can.
    """
    if runner is not None:
        run = _by_runner(Path(runner), file, threads)

        def by_name(feed: Feed) -> list[np.ndarray]:
            answers = run(feed)
            return [answers[name] for name in outputs]

        return by_name
    if target in ("onnxruntime", UNOPTIMIZED):
        return _onnxruntime(file, threads, outputs, optimized=target == "onnxruntime")
    if target in LAYOUTS:
        return LiteRT(file, threads, outputs, channels_last=LAYOUTS[target])
    return _openvino(file, threads, outputs, hint)


class LiteRT:
    """A .tflite file in ai-edge-litert with XNNPACK, whoever wrote it.

    Inputs and outputs are found by name, else by their place. `arranged` is what `infer` takes: it is done before the
    time is taken, since the layout and the integers that a file wants are the business of who feeds it; and `restored`
    is done after.
    """

    def __init__(self, file: str, threads: int, outputs: list[str], channels_last: frozenset[str]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=file, num_threads=threads)
        self.interpreter.allocate_tensors()
        self.inputs = self.interpreter.get_input_details()
        self.outputs = _ordered(self.interpreter.get_output_details(), outputs)
        self.channels_last = channels_last

    def arranged(self, feed: Feed) -> list[tuple[int, np.ndarray]]:
        found = []
        for name, details in zip(feed, _ordered(self.inputs, list(feed)), strict=True):
            array = feed[name]
            if "inputs" in self.channels_last and array.ndim == 4:
                array = array.transpose(0, 2, 3, 1)
            if array.dtype == np.float32 and details["dtype"] in INTEGERS:
                scale, zero = details["quantization"]
                limits = np.iinfo(details["dtype"])
                array = np.clip(np.rint(array / np.float32(scale)) + zero, limits.min, limits.max)
            found.append((details["index"], np.ascontiguousarray(array.astype(details["dtype"], copy=False))))
        return found

    def infer(self, arranged: list[tuple[int, np.ndarray]]) -> list[np.ndarray]:
        for index, array in arranged:
            self.interpreter.set_tensor(index, array)
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(details["index"]) for details in self.outputs]

    def restored(self, answers: list[np.ndarray]) -> list[np.ndarray]:
        found = []
        for details, answer in zip(self.outputs, answers, strict=True):
            scale, zero = details["quantization"]
            real = details["dtype"] in INTEGERS and scale
            found.append((answer.astype(np.float32) - zero) * np.float32(scale) if real else answer)
        return found

    def __call__(self, feed: Feed) -> list[np.ndarray]:
        # Some converters' LSTMs keep their state between calls, which no ONNX model means.
        self.interpreter.reset_all_variables()
        answers = self.restored(self.infer(self.arranged(feed)))
        turned = "outputs" in self.channels_last
        return [answer.transpose(0, 3, 1, 2) if turned and answer.ndim == 4 else answer for answer in answers]


def _ordered(details: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """By the names of the ONNX model where all have one, else as they come."""
    known = {entry["name"].removeprefix("serving_default_").partition(":")[0]: entry for entry in details}
    return [known[name] for name in names] if set(names) <= set(known) else details


def output_names(file: str) -> list[str]:
    import onnx

    return [output.name for output in onnx.load(file, load_external_data=False).graph.output]


def _by_runner(runner: Path, file: str, threads: int) -> Any:
    spec = importlib.util.spec_from_file_location("bundle_runner", runner)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(file, threads)


def _onnxruntime(file: str, threads: int, outputs: list[str], *, optimized: bool = True) -> Run:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(outputs, feed)


def _openvino(file: str, threads: int, outputs: list[str], hint: str | None) -> Run:
    import openvino

    core = openvino.Core()
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if hint:
        settings["INFERENCE_PRECISION_HINT"] = hint
    compiled = core.compile_model(core.read_model(file), "CPU", settings)
    by_name = {name: index for index, output in enumerate(compiled.outputs) for name in output.get_names()}
    # A quantizer may rename the outputs, not reorder them.
    order = [by_name.get(name, index) for index, name in enumerate(outputs)]
    request = compiled.create_infer_request()

    def run(feed: Feed) -> list[np.ndarray]:
        results = request.infer(feed, share_inputs=True, share_outputs=False)
        return [results[index] for index in order]

    return run
