"""What keeps numbers as they are and gives them another shape, order or company."""

from __future__ import annotations

import numpy as np

from ..axes import Perm
from ..flatbuffer import Tensor
from ..formula import TABLES, Formula
from ..lowering import Lowering
from ..units import NoForm, Unit
from .arithmetic import joint
from .registry import always, ints, keeps_grid, operator


@operator("Reshape", "Flatten", "Squeeze", "Unsqueeze", int8=keeps_grid)
def _reshape(low: Lowering, unit: Unit) -> None:
    low.reshape(low.read(low.data(unit, 0)), low.result(unit))


@operator("Transpose", int8=keeps_grid)
def _transpose(low: Lowering, unit: Unit) -> None:
    """Nothing but another name for the axes; who needs them in order asks for it."""
    view = low.view(low.data(unit, 0))
    order = ints(unit, "perm", list(range(len(view.perm)))[::-1])
    # Axis j of the input is axis order.index(j) of the output.
    low.store(unit.output, view.tensor, tuple(order.index(axis) for axis in view.perm))


@operator("Identity", "Dropout", int8=keeps_grid)
def _identity(low: Lowering, unit: Unit) -> None:
    if len([name for name in unit.node.output if name and low.readers.get(name)]) > 1:
        raise NoForm("the mask as an output")
    view = low.view(low.data(unit, 0))
    low.store(unit.output, view.tensor, view.perm)


@operator("Concat", int8=always)
def _concat(low: Lowering, unit: Unit) -> None:
    names = [low.data(unit, index) for index in range(len(unit.node.input))]
    rank = len(low.shape(unit.output))
    perm = joint(low, names, rank)
    axis = perm.index(int(unit.attributes["axis"]) % rank)
    parts = [_regridded(low, unit, low.read(name, perm)) for name in names if 0 not in low.shape(name)]
    if len(parts) == 1:
        low.store(unit.output, parts[0], perm)
        return
    low.add("CONCATENATION", [*parts], [low.result(unit, perm)], "ConcatenationOptions", {"axis": axis})


def _regridded(low: Lowering, unit: Unit, x: Tensor) -> Tensor:
    """Integers on the grid of what they are joined to, which TFLite demands."""
    grid, own = unit.quantization, x.quantization
    if grid is None or own is None or own.equals(grid):
        return x
    if x.data is not None:
        real = (x.data.astype(np.float32) - own.zero_point.astype(np.float32)) * own.scale
        integers = np.clip(np.rint(real / grid.scale) + grid.zero_point.astype(np.float32), -128, 127)
        return low.constant(integers.astype(np.int8), f"{x.name}/regridded", grid)
    made = Tensor(name=f"{x.name}/regridded", shape=x.shape, dtype=x.dtype, quantization=grid)
    return low.add("QUANTIZE", [x], [made], "QuantizeOptions")


@operator("Split", int8=keeps_grid)
def _split(low: Lowering, unit: Unit) -> None:
    name, rank = low.data(unit, 0), len(low.shape(unit.node.input[0]))
    perm, axis = low.perm(name), int(unit.attributes.get("axis", 0)) % rank
    lengths = [low.shape(output)[axis] for output in unit.node.output]
    made = [low.result(unit, perm, _taken(low, unit, output)) for output in unit.node.output]
    place = low.numbers(np.array(perm.index(axis)), f"{name}/axis")
    x = low.read(name, perm)
    if len(set(lengths)) == 1:
        low.add("SPLIT", [place, x], made, "SplitOptions", {"numSplits": len(made)})
        return
    numbers = low.numbers(lengths, f"{name}/lengths")
    low.add("SPLIT_V", [x, numbers, place], made, "SplitVOptions", {"numSplits": len(made)})


def _taken(low: Lowering, unit: Unit, output: str) -> str:
    """The name under which an output is stored: in integers that behind its quantizer."""
    quantizer = low.only_reader(output)
    if not unit.int8 or quantizer is None:
        return output
    low.done.add(id(quantizer))
    target = quantizer.output[0]
    low.grids[target] = low.grid(quantizer)
    low.shapes.setdefault(target, low.shape(output))
    return target


@operator("Expand")
def _expand(low: Lowering, unit: Unit) -> None:
    make = Formula(low=low, unit=unit)
    shape = low.shape(unit.output)
    x = low.read(unit.node.input[0])
    make.answer(x if x.shape == shape else make("BROADCAST_TO", x, make.numbers(*shape), shape=shape))


@operator("Tile", int8=keeps_grid)
def _tile(low: Lowering, unit: Unit) -> None:
    times = low.value(unit.node.input[1])
    if times is None:
        raise NoForm("repeats that are computed")
    numbers = low.numbers(times, f"{unit.output}/times")
    low.add("TILE", [low.read(low.data(unit, 0)), numbers], [low.result(unit)], "TileOptions")


@operator("DepthToSpace", "SpaceToDepth", int8=keeps_grid)
def _blocks(low: Lowering, unit: Unit) -> None:
    """Channels and the pixels of blocks; where depth comes first (CRD), the channels are sorted before."""
    last: Perm = (0, 2, 3, 1)
    block = int(unit.attributes["blocksize"])
    x, made = low.read(low.data(unit, 0), last), low.result(unit, last)
    kind = "DEPTH_TO_SPACE" if unit.node.op_type == "DepthToSpace" else "SPACE_TO_DEPTH"
    if unit.attributes.get("mode", b"DCR") == b"CRD":
        order = np.arange(x.shape[3]).reshape(-1, block * block).T.reshape(-1)
        sorted_ = low.temporary(unit, x.shape, "sorted", x)
        places = low.numbers(order, f"{unit.output}/channels")
        x = low.add("GATHER", [x, places], [sorted_], "GatherOptions", {"axis": 3, "batchDims": 0})
    low.add(kind, [x], [made], TABLES[kind], {"blockSize": block})
