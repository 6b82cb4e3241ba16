"""How far one rounding carries in an int8 network: its Q/DQ graph in ONNX Runtime beside the same graph run otherwise.

    python benchmarks/rounding.py GRAPH.onnx FILE.tflite SAMPLES.npz [--samples 200]

GRAPH is the Q/DQ graph that FILE was written from (benchmarks/convert.py keeps both in its cache), for one float input.
A line each, in dB to GRAPH in ONNX Runtime with its defaults: without graph optimizations; cut in two behind the first
convolution; with one integer there one step up, drawn anew for each sample; and FILE in LiteRT.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from comparison.runtimes import load
from onnx import helper

Run = Callable[[np.ndarray], np.ndarray]


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parse.add_argument("graph", type=Path)
    parse.add_argument("file", type=Path)
    parse.add_argument("data", type=Path)
    parse.add_argument("--samples", type=int, default=200)
    return parse


def session(model: onnx.ModelProto, optimized: bool = True) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    read = {entry.name for entry in made.get_inputs()}
    return lambda feed: made.run(None, {name: array for name, array in feed.items() if name in read})


def halves(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto, str]:
    """The graph as far as the first layer's integers, the graph from there on, and the name of these."""
    front, back = (onnx.ModelProto.FromString(model.SerializeToString()) for _ in range(2))
    # The first quantizer is the input's.
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    name = quantizers[1].output[0]
    del front.graph.output[:]
    front.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None))
    back.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None))
    kept = [node for node in model.graph.node if name not in node.output]
    del back.graph.node[:]
    back.graph.node.extend(kept)
    del back.graph.value_info[:]
    return front, back, name


def one_step_up(integers: np.ndarray, random: np.random.Generator) -> np.ndarray:
    moved = integers.copy()
    place = int(random.integers(moved.size))
    moved.flat[place] += 1 if moved.flat[place] < 127 else -1
    return moved


def main() -> None:
    arguments = parser().parse_args()
    model = onnx.load(arguments.graph)
    name, outputs = model.graph.input[0].name, [output.name for output in model.graph.output]
    front_model, back_model, between = halves(model)
    whole, plain = session(model), session(model, optimized=False)
    front, back, litert = session(front_model), session(back_model), load("tflite", str(arguments.file), 1, outputs)
    random = np.random.default_rng(0)

    def moved(x: np.ndarray) -> np.ndarray:
        return back({name: x, between: one_step_up(front({name: x})[0], random)})[0]

    ways: dict[str, Run] = {
        "ONNX Runtime, not optimized": lambda x: plain({name: x})[0],
        "ONNX Runtime, cut in two": lambda x: back({name: x, between: front({name: x})[0]})[0],
        "ONNX Runtime, one integer one step up": moved,
        "LiteRT": lambda x: litert({name: x})[0],
    }
    signal, noise = 0.0, dict.fromkeys(ways, 0.0)
    with np.load(arguments.data) as archive:
        samples = archive[name][: arguments.samples]
    for x in samples:
        wanted = whole({name: x})[0].astype(np.float64)
        signal += float(np.square(wanted).sum())
        for way, run in ways.items():
            noise[way] += float(np.square(run(x) - wanted).sum())
    for way, lost in noise.items():
        print(f"{way:40s}{10 * np.log10(signal / lost):6.1f} dB" if lost else f"{way:40s} exact")


if __name__ == "__main__":
    main()
