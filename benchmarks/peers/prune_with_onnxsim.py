"""onnxsim's structured pruning: the sparsity that leaves the wanted share of the multiply-accumulates, by halving."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxsim
from each_share import answer
from onnx import shape_inference


def macs(model: onnx.ModelProto) -> float:
    """Of Conv, Gemm and MatMul with constant weights, for one sample."""
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    for value in fixed.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del fixed.graph.value_info[:]
    fixed = shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*fixed.graph.value_info, *fixed.graph.output)
    }
    weights = {tensor.name: list(tensor.dims) for tensor in fixed.graph.initializer}
    total = 0.0
    for node in fixed.graph.node:
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        output = shapes.get(node.output[0])
        if weight and output and node.op_type == "Conv":
            total += float(np.prod(output)) * float(np.prod(weight[1:]))
        elif weight and node.op_type in ("Gemm", "MatMul"):
            total += float(np.prod(weight))
    return total


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    whole, _ = onnxsim.simplify(onnx.load(asked["model"]))
    with np.load(asked["calibration"]) as arrays:
        data = [{k: arrays[k][i : i + 1].astype(np.float32) for k in arrays.files if k != "y"} for i in range(32)]

    def smaller(name: str, sparsity: float) -> onnx.ModelProto:
        if name == "l2":
            return onnxsim.apply_structured_pruning(whole, sparsity=sparsity)
        return onnxsim.apply_structured_wanda_pruning(whole, calibration_data=data, sparsity=sparsity)

    def write(name: str, share: float, file: Path) -> None:
        low, high, best = 0.0, 0.95, None
        for _ in range(8):
            middle = (low + high) / 2
            found = smaller(name, middle)
            if macs(found) <= share * macs(whole):
                best, high = found, middle
            else:
                low = middle
        if best is None:
            raise RuntimeError("it does not get so small")
        onnx.checker.check_model(best)
        onnx.save(best, file)

    answer(asked, "onnxsim", write)


if __name__ == "__main__":
    main()
