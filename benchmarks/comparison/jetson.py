"""The ways to a typed graph for TensorRT, and what each is held against."""

from __future__ import annotations

from typing import Any

from comparison.methods import Method

BOARD = "orin-nano@jp6.2"
TENSORRT = {"tensorrt": "onnx"}
FLOAT, ASYMMETRIC = "float", "edgepack-asymmetric"


def _built(name: str, words: str, target: str, **options: Any) -> Method:
    options = {"device": BOARD, "threads": 1, **options}
    return Method(name=name, words=words, script="with_edgepack.py", forms={target: "onnx"}, options=options)


def _modelopt(name: str, words: str, dtype: str) -> Method:
    options = {"high_precision_dtype": dtype}
    return Method(name=name, words=words, script="with_modelopt.py", needs="modelopt", forms=TENSORRT, options=options)


QUANTIZERS = {
    method.name: method
    for method in (
        Method(name=FLOAT, words="the model as it is, inputs fixed to one sample", forms=TENSORRT),
        _built("edgepack-fp16", f"edgepack build --target tensorrt --device {BOARD} --precision fp16", "tensorrt",
               precision="fp16"),
        _built("edgepack-int8", "the same with --precision int8", "tensorrt", precision="int8"),
        _built(ASYMMETRIC, "the same for that board's CPU: --target onnxruntime --precision int8", "onnxruntime",
               precision="int8"),
        _modelopt("modelopt", "modelopt.onnx.quantization.quantize(quantize_mode='int8'), the rest in fp32", "fp32"),
        _modelopt("modelopt-fp16", "the same, the rest in fp16, as it does by default", "fp16"),
        Method(
            name="ort-symmetric",
            words="onnxruntime.quantization.quantize_static: QDQ, per channel, symmetric int8, float biases",
            script="with_onnxruntime.py",
            forms=TENSORRT,
            options={"symmetric": True},
        ),
    )
}  # fmt: skip
