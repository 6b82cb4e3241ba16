"""NNCF's post-training quantization: the ONNX backend for ONNX Runtime, the OpenVINO backend for OpenVINO."""

from __future__ import annotations

import time
from pathlib import Path

import nncf
import samples


def main() -> None:
    asked = samples.request()
    folder = Path(asked["output"])
    options = dict(asked["options"])
    if asked["transformer"]:
        options["model_type"] = nncf.ModelType.TRANSFORMER
    start = time.perf_counter()
    dataset = nncf.Dataset(samples.feeds(asked["calibration"]))
    if asked["target"] == "openvino":
        import openvino
        from openvino._offline_transformations import apply_moc_transformations

        # What openvino.convert_model does, less its report over the network.
        model = openvino.Core().read_model(asked["model"])
        apply_moc_transformations(model, cf=False, smart_reshape=False)
        quantized = nncf.quantize(model, dataset, **options)
        file = folder / "model.xml"
        openvino.save_model(quantized, str(file))
    else:
        import onnx

        quantized = nncf.quantize(onnx.load(asked["model"]), dataset, **options)
        file = folder / "model.onnx"
        onnx.save(quantized, file)
    notes = ["model_type=TRANSFORMER"] if asked["transformer"] else []
    samples.answer(asked, start, file, notes=notes)


if __name__ == "__main__":
    main()
