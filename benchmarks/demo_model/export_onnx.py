"""Export the trained network to ONNX and check the file against PyTorch with ONNX Runtime.

    python export_onnx.py --data /usr/share/datasets/fashion-mnist --weights model.pt

Writes one file (opset 17, dynamic batch, BatchNorm folded into Conv, no external data), then
prints what the demo's README states: size, parameters, MACs, agreement, accuracy, latency.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from train import FashionResNet, load, normalise


def export(model: FashionResNet, path: Path) -> None:
    """Write the network with input "image" [N,1,28,28] and output "logits" [N,10]."""
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, 28, 28),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        opset_version=17,
        dynamo=False,
    )
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    if any(node.op_type == "BatchNormalization" for node in proto.graph.node):
        raise RuntimeError("a BatchNormalization is left in the graph")
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer):
        raise RuntimeError("the graph has external data")


def count(path: Path) -> tuple[Counter[str], int, int]:
    """Return the nodes per operator, the parameters and the MACs (Conv, Gemm) per image."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    weights = {t.name: list(t.dims) for t in graph.initializer}
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.output]}
    macs = 0
    for node in graph.node:
        if node.op_type == "Conv":  # output pixels times the size of the weight
            height, width = shapes[node.output[0]][2:]
            macs += height * width * int(np.prod(weights[node.input[1]]))
        elif node.op_type == "Gemm":
            macs += int(np.prod(weights[node.input[1]]))
    nodes = Counter(node.op_type for node in graph.node)
    return nodes, sum(int(np.prod(dims)) for dims in weights.values()), macs


def session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(net: ort.InferenceSession, x: NDArray[np.float32], batch: int = 500) -> NDArray[np.float32]:
    parts = [net.run(None, {"image": x[i : i + batch]})[0] for i in range(0, len(x), batch)]
    return np.concatenate(parts)


def latency(path: Path, x: NDArray[np.float32], runs: int) -> list[float]:
    """Return the 0th, 50th and 90th percentile of one-thread run times, in milliseconds."""
    net = session(path, threads=1)
    times = []
    for i in range(runs + 50):
        start = time.perf_counter()
        net.run(None, {"image": x})
        if i >= 50:
            times.append((time.perf_counter() - start) * 1e3)
    return [round(float(t), 3) for t in np.percentile(times, [0, 50, 90])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the idx gz files")
    parser.add_argument("--weights", type=Path, default=Path("model.pt"))
    parser.add_argument("--out", type=Path, default=Path("fashion_resnet.onnx"))
    args = parser.parse_args()

    torch.set_num_threads(2)
    model = FashionResNet()
    model.load_state_dict(torch.load(args.weights, weights_only=True))
    model.eval()
    export(model, args.out)
    nodes, parameters, macs = count(args.out)
    trained = sum(p.numel() for p in model.parameters())
    print(f"{args.out}: {args.out.stat().st_size} bytes, {dict(nodes)}")
    print(f"parameters {parameters} folded, {trained} in training; {macs / 1e6:.2f} M MACs")

    images, labels = load(args.data, "t10k")
    x = normalise(torch.from_numpy(images.copy()))
    with torch.inference_mode():
        expected = torch.cat([model(part) for part in torch.split(x, 500)]).numpy()
    found = run(session(args.out, threads=2), x.numpy())
    single = run(session(args.out, threads=1), x.numpy()[:100], batch=1)
    hits = found.argmax(1) == labels
    print(f"max |onnx - torch| {np.abs(found - expected).max():.2e} of {np.abs(expected).max():.2f}")
    print(f"max |batch 1 - batch 500| {np.abs(single - found[:100]).max():.2e}")
    print(f"same class as torch: {(found.argmax(1) == expected.argmax(1)).sum()} of {len(found)}")
    print(f"accuracy: 10,000 {hits.mean():.4f}, first 2,000 {hits[:2000].mean():.4f}")
    print("latency, one thread, ms [min, median, p90]:", latency(args.out, x[:1].numpy(), 2000))


if __name__ == "__main__":
    main()
