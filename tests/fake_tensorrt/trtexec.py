"""A stand-in for the program trtexec: `trtexec.py VERSION FAULT FLAGS-FILE ARGUMENT…`.

Faults: oom, killed (half of the engine written), slow, crash, and none.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

if "--help" not in sys.argv:  # which is asked for often, and needs none of these
    import numpy as np
    import onnx
    import onnxruntime

    sys.path.insert(0, str(Path(__file__).parent))
    import plan

GPU = "Orin"
UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def main() -> int:
    version, fault, known = sys.argv[1], sys.argv[2], set(Path(sys.argv[3]).read_text().split())
    arguments = sys.argv[4:]
    major, minor, patch = map(int, version.split("."))
    # NV_TENSORRT_VERSION: 8502 is 8.5.2, 100300 is 10.3.0.
    number = major * (10000 if major >= 10 else 1000) + minor * 100 + patch
    banner = f"TensorRT.trtexec [TensorRT v{number}] # {' '.join(['trtexec', *arguments])}"
    print(f"&&&& RUNNING {banner}", flush=True)
    options: dict[str, str] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        options[name.removeprefix("--")] = value
    if "help" in options:
        print("=== Model Options ===\n  --onnx=<file>               ONNX model\n" + "\n".join(sorted(known)))
        return 0
    return work(options, known, banner, version, fault)


def work(options: dict[str, str], known: set[str], banner: str, version: str, fault: str) -> int:
    try:
        unknown = [name for name in options if name not in known]
        if unknown:
            raise plan.Refused(*(f"Unknown option: --{name} {options[name]}" for name in unknown))
        print(f"[I] TensorRT version: {version}", flush=True)
        if "onnx" in options:
            build(options, version, fault)
        else:
            infer(options, version)
    except plan.Refused as refused:
        for line in refused.lines:
            print(f"[01/01/2026-00:00:00] [E] {line}", flush=True)
        print(f"&&&& FAILED {banner}", flush=True)
        return 1
    print(f"&&&& PASSED {banner}")
    return 0


def build(options: dict[str, str], version: str, fault: str) -> None:
    major = int(version.split(".")[0])
    workspace(options, version)
    proto = onnx.load(options["onnx"])
    refuse_unsupported(proto, version)
    flags = {name.upper() for name in ("fp16", "int8") if name in options}
    if "stronglyTyped" in options:
        flags.add("STRONGLY_TYPED")
    timing = Path(options.get("timingCacheFile", "none"))
    if timing.is_file() and not plan.cache_is_good(timing.read_bytes(), version):
        raise plan.Refused(
            "[TRT] Error Code 3: API Usage Error (Parameter check failed at: createTimingCache)",
            "TimingCache creation failed",
            "Engine could not be created from network",
        )
    plan.check_graph(proto, major, flags)
    profile = profile_of(options, proto)
    wide = [part.rsplit(":", 1) for part in options.get("layerPrecisions", "").split(",") if part]
    if wide and options.get("precisionConstraints") not in ("prefer", "obey"):
        raise plan.Refused("--layerPrecisions has no effect when --precisionConstraints is none")
    flags |= {f"wide:{name}" for name, kind in wide if kind == "fp32"}
    engine = plan.write(proto, version, GPU, profile, flags)
    output = Path(options["saveEngine"])
    if fault == "slow":
        time.sleep(3)
    if fault in ("killed", "hang"):
        output.write_bytes(engine[: len(engine) // 2])
        print("[I] half of it is written", flush=True)
        if fault == "hang":
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "oom":
        raise plan.Refused(
            "Error[1]: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
            "Error[10]: IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any "
            "implementation for node conv.)",
            "Engine could not be created from network",
        )
    output.write_bytes(engine)
    if "timingCacheFile" in options:
        timing.with_name(timing.name + ".lock").write_bytes(b"")  # which stays, as that of the real one
        timing.write_bytes(plan.CACHE + version.encode())
    if not {"skipInference", "buildOnly"} & options.keys():
        raise plan.Refused("the stand-in expects a build to skip inference")


def workspace(options: dict[str, str], version: str) -> None:
    """--memPoolSize as each version reads it: 8.5 takes a number of MiB, 10 a unit behind it as well."""
    if "memPoolSize" not in options:
        return
    pool, _, size = options["memPoolSize"].partition(":")
    if pool != "workspace":
        raise plan.Refused(f"Unknown memory pool: {pool}")
    if size[-1] in UNITS and int(version.split(".")[0]) >= 10:
        size = size[:-1]
    try:
        float(size)
    except ValueError:
        raise plan.Refused(f"Cannot convert {size} to a number") from None


def refuse_unsupported(proto: onnx.ModelProto, version: str) -> None:
    found = plan.unsupported(proto)
    if found is None:
        return
    index, node = found
    if version.startswith("8."):
        lines = [
            f"[TRT] 3: getPluginCreator could not find plugin: {node.op_type} version: 1",
            f'[TRT] ModelImporter.cpp:720: While parsing node number {index} [{node.op_type} -> "{node.output[0]}"]:',
            "[TRT] ModelImporter.cpp:726: ERROR: builtin_op_importers.cpp:4643 In function "
            'importFallbackPluginImporter:\n[8] Assertion failed: creator && "Plugin not found, are the plugin name, '
            'version, and namespace correct?"',
        ]
    else:
        lines = [
            f'[TRT] ModelImporter.cpp:963: While parsing node number {index} [{node.op_type} -> "{node.output[0]}"]:',
            f'[TRT] ModelImporter.cpp:964: --- Begin node ---\nname: "{node.name}"\nop_type: "{node.op_type}"',
            "[TRT] ModelImporter.cpp:968: ERROR: onnxOpCheckers.cpp:819 In function checkFallbackPluginImporter:\n"
            '[6] creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
        ]
    raise plan.Refused(*lines, "Failed to parse onnx file", "Parsing model failed", "Engine set up failed")


def profile_of(options: dict[str, str], proto: onnx.ModelProto) -> dict[str, Any]:
    """Where no range is given trtexec makes 1 of open dimensions, and says so."""
    given = {which: shapes(options.get(f"{which}Shapes", "")) for which in ("min", "opt", "max")}
    found = {}
    for name, dims in plan.open_inputs(proto).items():
        if name in given["opt"]:
            found[name] = {which: given[which][name] for which in given}
        else:
            once = [1 if dim < 0 else dim for dim in dims]
            print(f"[W] Dynamic dimensions required for input: {name}, but no shapes were provided.")
            found[name] = dict.fromkeys(given, once)
    return found


def shapes(text: str) -> dict[str, list[int]]:
    found = {}
    for part in text.split(",") if text else []:
        name, _, dims = part.rpartition(":")
        found[name.strip("'")] = [int(dim) for dim in dims.split("x")]
    return found


def infer(options: dict[str, str], version: str) -> None:
    major = int(version.split(".")[0])
    try:
        about, model = plan.read(Path(options["loadEngine"]).read_bytes(), version)
    except plan.Refused as refused:
        raise plan.Refused(*refused.lines, "Engine deserialization failed", "Engine set up failed") from None
    proto = onnx.load_model_from_string(model)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    files = dict(part.rsplit(":", 1) for part in options["loadInputs"].split(","))
    files = {name.strip("'"): file for name, file in files.items()}
    asked = shapes(options.get("shapes", ""))
    weights = {tensor.name for tensor in proto.graph.initializer}
    feeds = {}
    for entry in proto.graph.input:
        if entry.name in weights:
            continue
        shape = asked.get(entry.name, [dim.dim_value for dim in entry.type.tensor_type.shape.dim])
        if entry.name in about["profile"] and not plan.within(shape, about["profile"][entry.name]):
            raise plan.Refused(f"[TRT] IExecutionContext::setInputShape: Error Code 3: API Usage Error ({entry.name})")
        dtype = plan.stored(plan.dtype_of(entry), major)
        data = Path(files[entry.name]).read_bytes()
        wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if len(data) != wanted:
            raise plan.Refused(
                f"Unexpected file size for input file: {files[entry.name]}. Note: Input binding size is: {wanted} "
                f"bytes but the file size is {len(data)} bytes."
            )
        feeds[entry.name] = np.frombuffer(data, dtype).reshape(shape).astype(plan.dtype_of(entry))
    began = time.perf_counter()
    answers = session.run(None, feeds)
    took = 1000 * (time.perf_counter() - began)
    names = [output.name for output in session.get_outputs()]
    if major >= 11 and "includeDataTransfers" not in options:  # nothing is copied back
        answers = [np.zeros_like(answer) for answer in answers]
    if "exportOutput" in options:
        Path(options["exportOutput"]).write_text(exported(dict(zip(names, answers, strict=True))))
    if "exportTimes" in options:
        seconds = float(options.get("duration", 3))
        count = max(int(options.get("iterations", 10)), int(1000 * seconds / max(took, 5)))
        entries = [{"startComputeMs": n * took, "h2dMs": 0.1, "computeMs": took, "d2hMs": 0.1, "latencyMs": took + 0.2}
                   for n in range(count)]  # fmt: skip
        Path(options["exportTimes"]).write_text(json.dumps(entries))


def exported(answers: dict[str, np.ndarray]) -> str:
    """Numbers as a C++ stream prints them: six digits, nan and inf in words."""
    parts = []
    for name, array in answers.items():
        dims = "x".join(map(str, array.shape))
        values = ", ".join(f"{value:g}" if array.dtype.kind == "f" else str(int(value)) for value in array.ravel())
        parts.append(f'{{ "name" : "{name}"\n  , "dimensions" : "{dims}"\n  , "values" : [ {values} ]\n  }}\n')
    return "[\n  " + ", ".join(parts) + "]\n"


if __name__ == "__main__":
    sys.exit(main())
