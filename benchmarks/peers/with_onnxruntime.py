"""ONNX Runtime's own quantizer, as its documentation says: pre-process, then quantize_static."""

from __future__ import annotations

import time
from pathlib import Path

import samples
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):
    def __init__(self, feeds: list) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict | None:
        return next(self.feeds, None)


def main() -> None:
    asked = samples.request()
    folder = Path(asked["output"])
    start = time.perf_counter()
    model, notes = asked["model"], []
    for options in ({}, {"skip_symbolic_shape": True}):
        try:
            quant_pre_process(asked["model"], str(folder / "preprocessed.onnx"), **options)
            model = str(folder / "preprocessed.onnx")
            break
        except Exception as error:  # its shape inference gives up with many exceptions
            notes.append(f"quant_pre_process({options or ''}) failed: {type(error).__name__}")
    per_channel = {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }
    # As near as its options come to what TensorRT takes.
    symmetric = {
        **per_channel,
        "activation_type": QuantType.QInt8,
        "extra_options": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
        },
    }
    chosen = (
        symmetric if asked["options"].get("symmetric") else per_channel if asked["options"].get("per_channel") else {}
    )
    quantize_static(model, str(folder / "model.onnx"), Reader(samples.feeds(asked["calibration"])), **chosen)
    samples.answer(asked, start, folder / "model.onnx", notes=notes)


if __name__ == "__main__":
    main()
