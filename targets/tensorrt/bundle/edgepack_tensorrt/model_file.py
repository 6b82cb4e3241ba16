"""What an ONNX file takes and gives, without the onnx package: the few fields that matter, off the wire. Python 3.8.

The numbers of fields are those of onnx.proto. Nothing is believed but lengths and names; weights are skipped.
"""

import hashlib
import mmap
import os

from edgepack_tensorrt.errors import BoardError

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
FLOAT16 = 10
# ModelProto.graph; GraphProto.node, initializer, input, output; NodeProto.op_type, attribute.
GRAPH, NODE, INITIALIZER, INPUT, OUTPUT, OP_TYPE, ATTRIBUTE = 7, 1, 5, 11, 12, 4, 5


class ModelFile(object):
    """`inputs` and `outputs` by name, each a dtype and a shape (a number, or None where it is open).

    `half` says whether the graph holds fp16, `quantized` whether it holds QuantizeLinear.
    """

    def __init__(self, path):
        self.path = path
        self.inputs, self.outputs, self.half, self.quantized = {}, {}, False, False
        try:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                self._read(data)
        except (OSError, ValueError, IndexError, UnicodeDecodeError):
            raise BoardError("%s cannot be read as an ONNX model" % path, "copy the bundle again", code=50)

    def _read(self, data):
        weights, inputs = set(), {}
        graphs = [span for number, span in fields(data, 0, len(data)) if number == GRAPH]
        if not graphs:
            raise ValueError("no graph")
        for number, span in fields(data, *graphs[-1]):
            if number == INPUT:
                inputs.update([value_info(data, span)])
            elif number == OUTPUT:
                self.outputs.update([value_info(data, span)])
            elif number == INITIALIZER:
                name, kind = initializer(data, span)
                weights.add(name)
                self.half = self.half or kind == FLOAT16
            elif number == NODE:
                self._look_at(data, span)
        # Before IR 4 weights are listed among the inputs.
        self.inputs = {name: entry for name, entry in inputs.items() if name not in weights}

    def _look_at(self, data, span):
        kind, casts = "", False
        for number, value in fields(data, *span):
            if number == OP_TYPE:
                kind = string(data, value)
            elif number == ATTRIBUTE:
                casts = casts or dict(attribute(data, value)) == {"name": "to", "i": FLOAT16}
        self.half = self.half or (kind == "Cast" and casts)
        self.quantized = self.quantized or kind == "QuantizeLinear"


def open_inputs(inputs):
    return [name for name, (_, shape) in inputs.items() if None in shape]


def fields(data, start, end):
    """The fields of a message as (number, value): a number, or the (start, end) of bytes.

    Raises:
        ValueError, IndexError: these bytes are no message.
    """
    at = start
    while at < end:
        tag, at = varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = varint(data, at)
        elif wire == 2:
            size, at = varint(data, at)
            value = (at, at + size)
            at += size
        elif wire in (1, 5):
            value, at = None, at + (8 if wire == 1 else 4)
        else:
            raise ValueError("wire type %d" % wire)
        if at > end:
            raise ValueError("cut off")
        yield number, value


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number without end")


def string(data, span):
    return bytes(data[span[0] : span[1]]).decode("utf-8")


def value_info(data, span):
    """A ValueInfoProto: its name, and (dtype, shape)."""
    name, kind, shape = "", 1, []
    for number, value in fields(data, *span):
        if number == 1:
            name = string(data, value)
        elif number == 2:
            # TypeProto.tensor_type, then TypeProto.Tensor.elem_type and shape
            for tensor in (v for n, v in fields(data, *value) if n == 1):
                for inner, content in fields(data, *tensor):
                    if inner == 1:
                        kind = content
                    elif inner == 2:
                        shape = [dimension(data, dim) for n, dim in fields(data, *content) if n == 1]
    return name, (DTYPES.get(kind, "float32"), tuple(shape))


def dimension(data, span):
    """A length, or None where it is open; -1 says so in the files of some exporters."""
    length = next((value for number, value in fields(data, *span) if number == 1), 0)
    return length if 0 < length < 1 << 63 else None


def initializer(data, span):
    name, kind = "", 0
    for number, value in fields(data, *span):
        if number == 8:
            name = string(data, value)
        elif number == 2:
            kind = value
    return name, kind


def attribute(data, span):
    for number, value in fields(data, *span):
        if number == 1:
            yield "name", string(data, value)
        elif number == 3:
            yield "i", value


def digest(path):
    """SHA-256 of a model and of the weight files beside it."""
    found = hashlib.sha256()
    folder, own = os.path.split(path)
    stem = os.path.splitext(own)[0]
    others = [name for name in sorted(os.listdir(folder or ".")) if name != own and name.startswith(stem + ".")]
    for name in [own] + [name for name in others if os.path.isfile(os.path.join(folder, name))]:
        with open(os.path.join(folder, name), "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                found.update(block)
    return found.hexdigest()
