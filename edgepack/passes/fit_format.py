"""Write the model in the IR version and opset that the device's runtime loads."""

from __future__ import annotations

from onnx import version_converter

from edgepack.bundles.pins import Reads
from edgepack.errors import UnfitDevice
from edgepack.model import Model
from edgepack.passes import PassResult


def fit_format(model: Model, reads: Reads | None, runtime: str) -> PassResult:
    """Lower the IR version, which the operators used here do not depend on, and convert a newer opset down.

    Raises:
        UnfitDevice: the opset is too new for the runtime and cannot be lowered.
    """
    if reads is None or (model.ir.ir_version <= reads.ir and model.opset <= reads.opset):
        return PassResult(model=model, note="")
    notes = []
    fitted = model.clone()
    if fitted.opset > reads.opset:
        try:
            converted = version_converter.convert_version(fitted.proto(), reads.opset)
        except Exception as error:  # RuntimeError and others, from C++
            raise UnfitDevice(
                f"the model has opset {model.opset}, and {runtime} on the device reads {reads.opset} at most",
                f"export it with opset {reads.opset} or older",
            ) from error
        fitted = Model.from_proto(converted, source=model.source)
        notes.append(f"opset lowered from {model.opset} to {reads.opset}")
    if fitted.ir.ir_version > reads.ir:
        notes.append(f"IR lowered from {fitted.ir.ir_version} to {reads.ir}")
        fitted.ir.ir_version = reads.ir
    return PassResult(model=fitted, note=f"{', '.join(notes)} for {runtime}")
