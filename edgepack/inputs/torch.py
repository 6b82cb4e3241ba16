"""PyTorch programs exported with torch.export (.pt2)."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from edgepack.errors import NotAModel, UnsupportedOperator, needs
from edgepack.inputs import onnx as onnx_file
from edgepack.model import Model


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """torch.export.load falls back to unpickling whatever an archive holds, unless this is set."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def load(path: Path) -> Model:
    """Read a torch.export archive and convert it by torch.onnx (TorchDynamo exporter).

    Raises:
        MissingExtra: torch is not installed.
        NotAModel: the archive cannot be read.
        UnsupportedOperator: an operator has no ONNX form.
    """
    if not zipfile.is_zipfile(path):
        raise NotAModel(f"{path} is not a torch.export archive", "save it with torch.export.save")
    torch = needs("torch")
    needs("onnxscript")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _weights_only():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.load(path)
        except Exception as error:
            text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise NotAModel(
                f"{path} cannot be read by torch {torch.__version__}: {text}", "export it again with this torch"
            ) from error
        try:
            exported = torch.onnx.export(program, dynamo=True, verbose=False)
            proto = exported.model_proto
        except Exception as error:
            text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UnsupportedOperator(
                f"{path} has no ONNX form: {text}", "export it with torch.onnx.export and look at its report"
            ) from error
    onnx_file.check_operators(proto)
    return Model.from_proto(proto, source=str(path))
