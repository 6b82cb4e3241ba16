"""The ways from an ONNX model to a .tflite file, and what each is held against."""

from __future__ import annotations

from comparison.methods import Method

TFLITE = {"tflite": "tflite"}
PYTHON = "python3.12"  # onnx2tf asks for it


def _built(name: str, words: str, precision: str, device: str) -> Method:
    options = {"precision": precision, "device": device, "threads": 1}
    return Method(name=name, words=words, script="with_edgepack.py", forms=TFLITE, options=options)


def _onnx2tf(name: str, words: str, needs: str, **options: object) -> Method:
    return Method(
        name=name, words=words, script="with_onnx2tf.py", needs=needs, python=PYTHON, forms=TFLITE, options=options
    )


def _quantizer(name: str, words: str) -> Method:
    return Method(name=name, words=words, script="with_litert_quantizer.py", needs="litert-quantizer", forms=TFLITE)


CONVERTERS = {
    method.name: method
    for method in (
        _built("edgepack-float", "edgepack build --target tflite --precision fp32 --device rpi4", "fp32", "rpi4"),
        _built("edgepack-float-rpi5", "the same for rpi5", "fp32", "rpi5"),
        _onnx2tf("onnx2tf", "onnx2tf, its own writer", "onnx2tf", backend="flatbuffer_direct"),
        _onnx2tf("tflite-converter", "TFLiteConverter over onnx2tf's TensorFlow", "tensorflow", backend="tf_converter"),
        Method(
            name="litert-torch",
            words="litert-torch over the graph as a torch module",
            script="with_litert_torch.py",
            needs="litert-torch",
            forms=TFLITE,
        ),
        _built("edgepack-int8", "edgepack build --target tflite --precision int8 --device rpi4", "int8", "rpi4"),
        _built("edgepack-int8-rpi5", "the same for rpi5", "int8", "rpi5"),
        _onnx2tf("onnx2tf-int8", "onnx2tf -oiqt", "onnx2tf", backend="flatbuffer_direct", int8=True),
        _quantizer("quantizer", "litert-quantizer's static int8 over edgepack-float's file"),
        _quantizer("quantizer-onnx2tf", "the same over onnx2tf's file"),
    )
}
# Whose file a method starts from.
FROM = {"quantizer": "edgepack-float", "quantizer-onnx2tf": "onnx2tf"}
# Boards for which the file should be that of the first.
SAME = {"edgepack-float-rpi5": "edgepack-float", "edgepack-int8-rpi5": "edgepack-int8"}
FLOATS = ("edgepack-float", "onnx2tf", "tflite-converter", "litert-torch")
QUANTIZERS = ("quantizer", "quantizer-onnx2tf")
