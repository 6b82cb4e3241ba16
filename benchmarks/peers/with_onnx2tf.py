"""onnx2tf's .tflite: by its own writer (flatbuffer_direct), or by TensorFlow's TFLiteConverter (tf_converter).

Pictures become channels last; other inputs keep their shape (-kat), as its manual advises. It writes over the file it
is given, so it gets a copy.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import onnx
import samples


def main() -> None:
    asked = samples.request()
    folder, options = Path(asked["output"]), asked["options"]
    shutil.copy(asked["model"], folder / "model.onnx")
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.input}
    kept = [name for name, rank in ranks.items() if rank != 4]
    told = {"tflite_backend": options["backend"], "non_verbose": True}
    if kept:
        told["keep_shape_absolutely_input_names"] = kept
    if options.get("int8"):
        told |= {"output_integer_quantized_tflite": True, "custom_input_op_name_np_data_path": _representative(asked)}
    start = time.perf_counter()
    import onnx2tf

    onnx2tf.convert(
        input_onnx_file_path=str(folder / "model.onnx"), output_folder_path=str(folder / "converted"), **told
    )
    name = "model_integer_quant" if options.get("int8") else "model_float32"
    # TensorFlow's converter leaves outputs as the ONNX model has them.
    layout = "tflite-nhwc-inputs" if options["backend"] == "tf_converter" else "tflite-nhwc"
    samples.answer(asked, start, folder / "converted" / f"{name}.tflite", layout=layout, notes=[])


def _representative(asked: dict) -> list[list]:
    """Calibration samples as -cind takes them: name, file, mean, standard deviation."""
    given = []
    with np.load(asked["calibration"]) as archive:
        for name in archive.files:
            rows = np.concatenate([*archive[name]])
            rows = rows.transpose(0, 2, 3, 1) if rows.ndim == 4 else rows
            path = str(Path(asked["output"]) / f"{len(given)}.npy")
            np.save(path, rows)
            around = [1] * rows.ndim
            given.append([name, path, np.zeros(around).tolist(), np.ones(around).tolist()])
    return given


if __name__ == "__main__":
    main()
