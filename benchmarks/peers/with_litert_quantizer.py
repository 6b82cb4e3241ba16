"""litert-quantizer's (once ai-edge-quantizer's) static int8 recipe over a float .tflite file."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import samples
from ai_edge_litert.interpreter import Interpreter
from litert_quantizer import Quantizer, recipe

SIGNATURE = "serving_default"


def main() -> None:
    asked = samples.request()
    file = Path(asked["output"]) / "model.tflite"
    details = _inputs(asked["model"])
    feeds = [
        {name: _fitted(array, details[name]) for name, array in feed.items()}
        for feed in samples.feeds(asked["calibration"])
    ]
    start = time.perf_counter()
    quantizer = Quantizer(asked["model"], recipe.static_wi8_ai8())
    ranges = quantizer.calibrate({SIGNATURE: feeds})
    quantizer.quantize(ranges).export_model(str(file), overwrite=True)
    samples.answer(asked, start, file, notes=[])


def _inputs(model: str) -> dict[str, dict]:
    interpreter = Interpreter(model_path=model)
    interpreter.allocate_tensors()
    return interpreter.get_signature_runner(SIGNATURE).get_input_details()


def _fitted(array: np.ndarray, details: dict) -> np.ndarray:
    """A sample as the file takes it, channels last where it wants them so."""
    if array.ndim == 4 and tuple(details["shape"]) != array.shape:
        array = array.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(array.astype(details["dtype"]))


if __name__ == "__main__":
    main()
