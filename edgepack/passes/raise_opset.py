"""Raise an old opset to one that has per-channel Q/DQ."""

from __future__ import annotations

from onnx import GraphProto, helper, version_converter

from edgepack.errors import UnsupportedOperator
from edgepack.inputs.onnx import graphs
from edgepack.model import Model
from edgepack.passes import PassResult

# Per-channel Q/DQ exists from 13 on, HardSwish from 14 on; 17 is read by every runtime edgepack packages for.
RAISE_BELOW, RAISE_TO = 14, 17
# Upsample, and Resize up to opset 10, measure from the corner; the converter leaves Resize its newer default.
_OLD_RESIZE = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def raise_opset(model: Model) -> PassResult:
    """Convert the model to opset RAISE_TO where it is below RAISE_BELOW (onnx's version converter).

    Raises:
        UnsupportedOperator: an operator has no newer form.
    """
    if model.opset >= RAISE_BELOW:
        return PassResult(model=model, note="")
    proto = model.proto()
    # Files from before IR 4 list initializers as inputs too, and the converter then wants all of them listed.
    listed = {value.name for value in proto.graph.input}
    if proto.ir_version < 4:
        initializers = {tensor.name for tensor in proto.graph.initializer}
        kept = [value for value in proto.graph.input if value.name not in initializers]
        if initializers <= listed:
            del proto.graph.input[:]
            proto.graph.input.extend(kept)
        proto.ir_version = 7
    try:
        raised = version_converter.convert_version(proto, RAISE_TO)
    except Exception as error:  # RuntimeError and others, from C++
        text = str(error).strip().splitlines()[-1]
        raise UnsupportedOperator(
            f"opset {model.opset} cannot be raised to {RAISE_TO}: {text}",
            f"export the model with opset {RAISE_BELOW} or newer",
        ) from error
    if model.opset < 11:
        for graph in graphs(raised.graph):
            _keep_old_resize(graph)
    del raised.metadata_props[:]
    raised.metadata_props.extend(proto.metadata_props)
    result = Model.from_proto(raised, source=model.source)
    return PassResult(model=result, note=f"opset raised from {model.opset} to {result.opset}")


def _keep_old_resize(graph: GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Resize":
            present = {attribute.name for attribute in node.attribute}
            node.attribute.extend(
                helper.make_attribute(name, value) for name, value in _OLD_RESIZE.items() if name not in present
            )
