"""Can `edgepack bench` be believed? Against itself, against a model 5 % slower, against plain loops and others' tools.

    python benchmarks/measure.py [--parts same,slower,loop,app,litert,overhead] [--runs 100] [--seconds 2] [--json FILE]

    same       a bundle against itself, --runs times: how often it is called faster or slower
    slower     a net of 42 equal convolutions against one of 40, which is 5 % more work: how often it is called slower
    loop       p50 beside a loop over ONNX Runtime, OpenVINO and LiteRT, without anything of edgepack, turn by turn
    app        p50 beside OpenVINO's benchmark_app (latency hint, one request, same threads, f32), in alternation
    litert     p50 beside LiteRT's own litert-benchmark, which comes with ai-edge-litert 2.3, in alternation
    overhead   microseconds a run that the harness takes apart from the model, and inside what it times

The nets and bundles are made here, in a temporary folder. Everything runs on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import edgepack
from edgepack import _root

sys.path.insert(0, str(_root.TARGETS / "device"))
from edgepack_device.worker import Caller, Worker

BLOCKS, MORE = 40, 42
# What a direct loop does, as plainly as can be; it obeys the same commands as a worker of the harness.
LOOP = """
import json, sys, time
import numpy
path, runtime = sys.argv[1:3]
feed = {"x": numpy.load(sys.argv[3])}
if runtime == "onnxruntime":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    run = lambda: session.run(None, feed)
elif runtime == "tflite":
    from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(model_path=path, num_threads=1)
    call = interpreter.get_signature_runner("serving_default")
    run = lambda: call(**feed)
else:
    import openvino
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(path, "CPU", config).create_infer_request()
    run = lambda: request.infer(feed, share_inputs=True)
run()
for line in sys.stdin:
    end = time.perf_counter() + float(line)
    times = []
    while time.perf_counter() < end:
        before = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - before))
    print(json.dumps(times), flush=True)
"""


def net(blocks: int) -> onnx.ModelProto:
    """`blocks` equal convolutions of 16 channels on 28x28, all with the same weights."""
    random = np.random.default_rng(0)
    weights = (random.standard_normal((16, 16, 3, 3)) / 12).astype(np.float32)
    nodes = []
    for index in range(blocks):
        before = "x" if index == 0 else f"r{index - 1}"
        nodes.append(helper.make_node("Conv", [before, "w"], [f"c{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], ["y" if index == blocks - 1 else f"r{index}"]))
    kind = onnx.TensorProto.FLOAT
    tensors = [helper.make_tensor_value_info(name, kind, [1, 16, 28, 28]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", tensors[:1], tensors[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def bundle_of(blocks: int, folder: Path, target: str) -> Path:
    name = f"{target}{blocks}"
    if (folder / name).is_dir():
        return folder / name
    onnx.save(net(blocks), folder / f"{name}.onnx")
    built = edgepack.build(
        folder / f"{name}.onnx", folder / name, target=target, precision="fp32", threads=1, seconds=0.2, name="net"
    )
    return built.bundle


def verdicts(folder: Path, blocks: int, asked: argparse.Namespace) -> dict[str, Any]:
    """--runs comparisons of a net with the net of 40 blocks, and their verdicts."""
    base, other = bundle_of(BLOCKS, folder, "onnxruntime"), bundle_of(blocks, folder, "onnxruntime")
    ratios: list[dict[str, Any]] = []
    began = time.monotonic()
    for index in range(asked.runs):
        result = edgepack.bench(other, against=base, threads=1, seconds=asked.seconds, processes=asked.processes)
        ratios.append(result["ratio"])
        found = Counter(ratio["verdict"] for ratio in ratios)
        progress(f"{blocks} blocks against {BLOCKS}: {index + 1} runs, {dict(found)}")
    took = (time.monotonic() - began) / asked.runs
    middles = [ratio["median"] for ratio in ratios]
    widths = [(ratio["high"] - ratio["low"]) / 2 for ratio in ratios]
    truth = statistics.median(middles)
    held = sum(ratio["low"] <= truth <= ratio["high"] for ratio in ratios)
    print(
        f"{blocks} blocks against {BLOCKS}: {dict(found)} of {asked.runs}; {100 * (1 / truth - 1):+.2f} % time, "
        f"the typical interval is ±{100 * statistics.median(widths):.2f} %, {held} hold it; {took:.1f} s a run"
    )
    return {"blocks": blocks, "verdicts": dict(found), "ratios": ratios, "seconds_a_run": took}


def loop(folder: Path, asked: argparse.Namespace, runtime: str) -> dict[str, Any]:
    """The harness's worker and a plain loop in turn: the ratio of their medians, a pair of processes at a time."""
    bundle = bundle_of(BLOCKS, folder, runtime)
    path, feed, _ = plain(bundle, folder)
    ratios, middles = [], []
    for _ in range(asked.processes):
        job = {
            "folder": str(bundle), "entry": "model", "threads": 1, "batch": 1, "shapes": {}, "concurrency": 1,
            "fallback": None,
        }  # fmt: skip
        worker = Worker("model", job)
        worker.load()
        other = subprocess.Popen(
            [sys.executable, "-c", LOOP, path, runtime, feed], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdin is not None and other.stdout is not None
        rounds = []
        for index in range(24):
            ours: list[float] = []
            theirs: list[float] = []
            for who in ("ours", "theirs") if index % 2 else ("theirs", "ours"):
                if who == "ours":
                    ours = worker.run(0.02)[0]
                else:
                    other.stdin.write("0.02\n")
                    other.stdin.flush()
                    theirs = json.loads(other.stdout.readline())
            if index >= 4:  # warm
                rounds.append(statistics.median(ours) / statistics.median(theirs))
                middles.append(statistics.median(ours))
        ratios.append(statistics.median(rounds))
        worker.stop()
        other.stdin.close()
        other.wait()
    difference = 100 * (statistics.median(ratios) - 1)
    print(f"loop over {runtime}: p50 {statistics.median(middles):.3f} ms is {difference:+.2f} % beside the loop's")
    return {"runtime": runtime, "p50_ms": statistics.median(middles), "difference_percent": difference}


def app(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """benchmark_app and the harness one after the other."""
    command = command_of("benchmark_app", "openvino")
    # It times the call alone, the harness what a Python program waits for, so the net should not be too small.
    bundle = bundle_of(5 * BLOCKS, folder, "openvino")
    path, _, raw = plain(bundle, folder)
    seconds = max(1, round(asked.seconds))
    # Beside -hint it takes -nthreads in no other way.
    config = folder / "config.json"
    config.write_text(json.dumps({"CPU": {"INFERENCE_NUM_THREADS": 1}}))
    flags = f"-hint latency -nireq 1 -infer_precision f32 -load_config {config} -d CPU -t {seconds} -api sync -i {raw}"
    return in_pairs(
        "benchmark_app", [command, "-m", path, *flags.split()], r"Median:\s+([\d.]+) (ms|us)", bundle, asked
    )


def litert(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """litert-benchmark and the harness one after the other; it runs a CompiledModel, the harness an Interpreter."""
    command = command_of("litert-benchmark", "'ai-edge-litert>=2.3'")
    # It says hundredths of milliseconds, and as above it times the call alone.
    bundle = bundle_of(5 * BLOCKS, folder, "tflite")
    path, _, _ = plain(bundle, folder)
    once = edgepack.bench(archive(bundle), threads=1, seconds=0.2, processes=1)["models"]["model"]["p50_ms"]
    runs = max(50, round(1000 * asked.seconds / once))
    flags = f"--num_threads=1 --warmup_runs={max(5, runs // 4)} --num_runs={runs}"
    found = r"Inference \(median\):\s+([\d.]+) (ms)"
    return in_pairs("litert-benchmark", [command, f"--model={path}", *flags.split()], found, bundle, asked)


def in_pairs(name: str, command: list[str], median: str, bundle: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """A tool's median and the harness's p50 of the same file, alternating which is first.

    Args:
        median: what finds the tool's median in what it prints: a number, and ms or us.
    """

    def theirs() -> float:
        done = subprocess.run(command, capture_output=True, text=True)
        found = re.search(median, done.stdout)
        if found is None:
            sys.exit(f"{name}: {done.stdout[-500:]} {done.stderr[-500:]}")
        return float(found[1]) / (1000 if found[2] == "us" else 1)

    def ours() -> float:
        result = edgepack.bench(archive(bundle), threads=1, seconds=asked.seconds, processes=1)
        return float(result["models"]["model"]["p50_ms"])

    pairs: list[tuple[float, float]] = []
    for index in range(max(5, asked.processes)):
        order: list[Callable[[], float]] = [ours, theirs] if index % 2 else [theirs, ours]
        pair = [look() for look in order]
        pairs.append((pair[0], pair[1]) if index % 2 else (pair[1], pair[0]))
        progress(f"{name}: {index + 1} pairs")
    difference = 100 * (statistics.median(ours / theirs for ours, theirs in pairs) - 1)
    print(f"{name}: p50 is {difference:+.2f} % beside its median, {len(pairs)} pairs")
    return {"difference_percent": difference, "pairs_ms": pairs}


def command_of(name: str, package: str) -> str:
    command = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        sys.exit(f"{name} comes with {package}: pip install {package}")
    return command


def archive(bundle: Path) -> Path:
    """What holds no float original, so that it is timed alone."""
    return bundle.with_name(bundle.name + ".tar.gz")


def overhead(folder: Path) -> dict[str, Any]:
    """Of the loop around a model that does nothing: microseconds a run in all, and inside what is timed."""
    feeds = [{"x": np.zeros((1, 4), np.float32)}] * 8
    caller = Caller(lambda feed: feed, feeds, 0)
    caller.run(0.1)
    began = time.perf_counter()
    times = caller.run(1.0)
    whole, inside = 1e6 * (time.perf_counter() - began) / len(times), 1e6 * statistics.median(times)
    print(f"overhead: {whole:.2f} us a run, of which {inside:.2f} us are inside what is timed")
    return {"microseconds_a_run": whole, "microseconds_timed": inside}


def plain(bundle: Path, folder: Path) -> tuple[str, str, str]:
    """What others get: the bundle's model file, and its first golden input as .npy and for benchmark_app."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    feed = folder / "x.npy"
    with np.load(bundle / "golden" / "inputs.npz") as arrays:
        np.save(feed, arrays["0/x"])
    return str(bundle / manifest["model"]["file"]), str(feed), f"x:{feed}"


def progress(words: str) -> None:
    if sys.stderr.isatty():
        print(words, file=sys.stderr)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--parts", default="same,slower,loop,app,litert,overhead")
    parse.add_argument("--runs", type=int, default=100)
    parse.add_argument("--seconds", type=float, default=2.0, help="time for each model, as `bench --seconds`")
    parse.add_argument("--processes", type=int, default=10)
    parse.add_argument("--json", type=Path, help="write all figures there")
    asked = parse.parse_args()
    found: dict[str, Any] = {"seconds": asked.seconds, "processes": asked.processes}
    for part in asked.parts.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if part == "same":
                found[part] = verdicts(folder, BLOCKS, asked)
            elif part == "slower":
                found[part] = verdicts(folder, MORE, asked)
            elif part == "loop":
                found[part] = [loop(folder, asked, runtime) for runtime in ("onnxruntime", "openvino", "tflite")]
            elif part == "app":
                found[part] = app(folder, asked)
            elif part == "litert":
                found[part] = litert(folder, asked)
            elif part == "overhead":
                found[part] = overhead(folder)
            else:
                sys.exit(f"unknown part {part}")
        sys.stdout.flush()
    found["load_average"] = os.getloadavg()
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
