"""NVIDIA's modelopt: its ONNX post-training quantization to int8, calibrated on the CPU."""

from __future__ import annotations

import time
from pathlib import Path

import samples
from modelopt.onnx.quantization import quantize
from onnxruntime.quantization import CalibrationDataReader


class Reader(CalibrationDataReader):
    """Feeds as modelopt wants them: it also looks at the first, and reads them more than once."""

    def __init__(self, feeds: list) -> None:
        self.list = feeds
        self.rewind()

    def get_next(self) -> dict | None:
        return next(self.feeds, None)

    def get_first(self) -> dict:
        return self.list[0]

    def rewind(self) -> None:
        self.feeds = iter(self.list)


def main() -> None:
    asked = samples.request()
    file = Path(asked["output"]) / "model.onnx"
    options = {"high_precision_dtype": "fp32", **asked["options"]}
    start = time.perf_counter()
    quantize(
        asked["model"],
        quantize_mode="int8",
        calibration_data_reader=Reader(samples.feeds(asked["calibration"])),
        calibration_eps=["cpu"],
        output_path=str(file),
        **options,
    )
    samples.answer(asked, start, file, notes=[f"{key}={value}" for key, value in options.items()])


if __name__ == "__main__":
    main()
