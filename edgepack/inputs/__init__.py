"""Model files in: a module a format, each with `load(path) -> Model`."""

from __future__ import annotations

from pathlib import Path

from edgepack.errors import NotAModel
from edgepack.model import Model


def load(path: Path) -> Model:
    """Read a trained model from a file.

    Raises:
        NotAModel: there is no such file, or it is of no known format.
    """
    if not path.exists():
        raise NotAModel(f"{path} does not exist", "give the path of an .onnx or .pt2 file")
    if path.is_dir():
        raise NotAModel(f"{path} is a folder", "give the path of an .onnx or .pt2 file")
    suffix = path.suffix.lower()
    if suffix == ".pt2":
        from edgepack.inputs import torch

        return torch.load(path)
    if suffix in (".pt", ".pth", ".ckpt", ".pkl"):
        raise NotAModel(
            f"{path} is a pickle, which can run any code when it is read",
            "export it with torch.export.save(torch.export.export(model, inputs), 'model.pt2') or torch.onnx.export",
        )
    if suffix in (".tflite", ".h5", ".keras", ".pb"):
        raise NotAModel(f"{suffix} files are not read yet", "convert it to ONNX first, for example with tf2onnx")
    from edgepack.inputs import onnx

    return onnx.load(path)
