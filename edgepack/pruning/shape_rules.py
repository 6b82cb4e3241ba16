"""What operators that move, join, cut and reshape do to the places of axes (as edgepack/pruning/rules.py)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgepack.model import constant
from edgepack.pruning.rules import freeze_all, name, read, same, words
from edgepack.pruning.ties import Ties


def concat(node: ir.Node, ties: Ties) -> None:
    output = name(node.outputs[0])
    along = node.attributes.get_int("axis", 0) % ties.rank(output)
    start = 0
    for value in node.inputs:
        given = name(value)
        others = [axis for axis in range(ties.rank(output)) if axis != along]
        same(ties, given, output, others)
        stop = start + ties.size(given, along)
        ties.tie(ties.atoms(given, along), ties.atoms(output, along)[start:stop])
        start = stop


def split(node: ir.Node, ties: Ties) -> None:
    data = read(node, 0)
    along = node.attributes.get_int("axis", 0) % ties.rank(data)
    start = 0
    for value in node.outputs:
        part = name(value)
        same(ties, data, part, [axis for axis in range(ties.rank(data)) if axis != along])
        stop = start + ties.size(part, along)
        ties.tie(ties.atoms(part, along), ties.atoms(data, along)[start:stop])
        start = stop


def taken(node: ir.Node, shape: tuple[int, ...]) -> dict[int, np.ndarray] | None:
    """Which places a Slice takes, by axis; None where that is computed."""
    if len(node.inputs) < 2:
        starts, ends = node.attributes.get_ints("starts", []), node.attributes.get_ints("ends", [])
        axes, steps = list(node.attributes.get_ints("axes", [])) or list(range(len(starts))), [1] * len(starts)
    else:
        given = [constant(value) for value in node.inputs[1:]]
        if any(array is None and value is not None for array, value in zip(given, node.inputs[1:], strict=True)):
            return None
        lists = [[] if array is None else [int(number) for number in array.reshape(-1)] for array in given]
        starts, ends = lists[0], lists[1]
        axes = lists[2] if len(lists) > 2 and lists[2] else list(range(len(starts)))
        steps = lists[3] if len(lists) > 3 and lists[3] else [1] * len(starts)
    result = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        if step < 0 and end < -size:
            result[axis % len(shape)] = np.arange(size)[slice(start, None, step)]
        else:
            result[axis % len(shape)] = np.arange(size)[slice(start, end, step)]
    return result


def slice_(node: ir.Node, ties: Ties) -> None:
    data, output = read(node, 0), name(node.outputs[0])
    places = taken(node, ties.shapes[data])
    if places is None:
        freeze_all(node, ties)
        return
    for axis in range(ties.rank(data)):
        chosen = places.get(axis)
        if chosen is None or np.array_equal(chosen, np.arange(ties.size(data, axis))):
            ties.tie_axes((data, axis), (output, axis))
        elif len(chosen) > 1 and (np.diff(chosen) != 1).any():
            for value in (data, output):
                ties.freeze(value, f"{words(node)} takes every so many places of it", [axis])
        else:
            ties.tie(ties.atoms(data, axis)[chosen], ties.atoms(output, axis))


def gather(node: ir.Node, ties: Ties) -> None:
    data, indices, output = read(node, 0), read(node, 1), name(node.outputs[0])
    along = node.attributes.get_int("axis", 0) % ties.rank(data)
    wide = ties.rank(indices)
    for axis in range(ties.rank(data)):
        if axis != along:
            ties.tie_axes((data, axis), (output, axis if axis < along else axis + wide - 1))
    chosen = constant(node.inputs[1])
    if chosen is not None and chosen.ndim == 1:
        places = chosen.astype(np.int64) % ties.size(data, along)
        ties.tie(ties.atoms(data, along)[places], ties.atoms(output, along))
        return
    reason = f"{words(node)} looks places up along it"
    ties.freeze(data, reason, [along])
    ties.freeze(output, reason, list(range(along, along + wide)))
    ties.freeze(indices, reason)


def squeeze(node: ir.Node, ties: Ties) -> None:
    """Squeeze and Unsqueeze: axes of length 1 come and go, the others keep their order."""
    data, output = read(node, 0), name(node.outputs[0])
    long = [axis for axis in range(ties.rank(data)) if ties.size(data, axis) != 1]
    there = [axis for axis in range(ties.rank(output)) if ties.size(output, axis) != 1]
    for axis, place in zip(long, there, strict=True):
        ties.tie_axes((data, axis), (output, place))


def pad(node: ir.Node, ties: Ties) -> None:
    data, output = read(node, 0), name(node.outputs[0])
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else np.array(node.attributes.get_ints("pads", []))
    rank = ties.rank(data)
    if given is None or given.size != 2 * rank:
        freeze_all(node, ties)
        return
    for axis in range(rank):
        if given[axis] == 0 and given[axis + rank] == 0:
            ties.tie_axes((data, axis), (output, axis))
        else:
            for value in (data, output):
                ties.freeze(value, f"{words(node)} adds places to it", [axis])


def resize(node: ir.Node, ties: Ties) -> None:
    """Resize, Upsample, Expand and Tile: axes whose length stays are left as they are."""
    data, output = read(node, 0), name(node.outputs[0])
    offset = ties.rank(output) - ties.rank(data)
    fixed = any(value is not None and constant(value) is None for value in node.inputs[1:])
    for axis in range(ties.rank(output)):
        source = axis - offset
        if source >= 0 and not fixed and ties.size(data, source) == ties.size(output, axis):
            ties.tie_axes((data, source), (output, axis))
            continue
        ties.freeze(output, f"{words(node)} sets its length", [axis])
        if source >= 0:
            ties.freeze(data, f"{words(node)} sets its length", [source])


def depth_to_space(node: ir.Node, ties: Ties) -> None:
    """A channel there is a block's square of channels here; SpaceToDepth is the same the other way round."""
    data, output = read(node, 0), name(node.outputs[0])
    deep, flat = (data, output) if node.op_type == "DepthToSpace" else (output, data)
    square = node.attributes.get_int("blocksize", 1) ** 2
    many = ties.atoms(deep, 1)
    blocks_first = node.attributes.get_string("mode", "DCR") == "DCR" or node.op_type == "SpaceToDepth"
    ties.tie(ties.atoms(flat, 1)[:, None], many.reshape(square, -1).T if blocks_first else many.reshape(-1, square))
    ties.tie_axes((data, 0), (output, 0))
    for value in (data, output):
        ties.freeze(value, f"{words(node)} moves blocks of it", [2, 3])


def shape(node: ir.Node, ties: Ties) -> None:
    """What asks for a length is told the truth; so only axes whose length is used must keep it."""
    data = read(node, 0)
    rank = ties.rank(data)
    start = node.attributes.get_int("start", 0) % max(rank, 1)
    asked: set[int] = set()
    for user, index in node.outputs[0].uses():
        picked = constant(user.inputs[1]) if user.op_type == "Gather" and index == 0 else None
        if picked is None:
            asked = set(range(rank))
            break
        asked |= {start + int(place) % rank for place in picked.reshape(-1)}
    ties.freeze(data, f"{words(node)} reads its length", sorted(axis for axis in asked if axis < rank))


def runs(one: tuple[int, ...], other: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of two shapes that hold the same elements, as short as possible; axes of length 1 are left out."""
    left, right = ([axis for axis, size in enumerate(sizes) if size != 1] for sizes in (one, other))
    found = []
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        while (p := int(np.prod([one[axis] for axis in a]))) != (q := int(np.prod([other[axis] for axis in b]))):
            more = (a, left) if p < q else (b, right)
            if not more[1]:
                return []
            more[0].append(more[1].pop(0))
        found.append((a, b))
    return found


def reshape(node: ir.Node, ties: Ties) -> list[tuple[str, list[int], str, int]]:
    """Reshape and Flatten: axes that stay are tied here.

    Returns:
        Where several axes of a value become one of another's: (value, its axes, the other, its axis), for
        `carry` to decide once it is known what else is frozen.
    """
    data, output = read(node, 0), name(node.outputs[0])
    if node.op_type == "Reshape" and constant(node.inputs[1]) is None and not _follows(node, ties):
        freeze_all(node, ties)
        return []
    pending = []
    seen: tuple[set[int], set[int]] = (set(), set())
    for a, b in runs(ties.shapes[data], ties.shapes[output]):
        seen[0].update(a)
        seen[1].update(b)
        if len(a) == len(b) == 1:
            ties.tie_axes((data, a[0]), (output, b[0]))
        elif len(b) == 1:
            pending.append((data, a, output, b[0]))
        elif len(a) == 1:
            pending.append((output, b, data, a[0]))
        else:
            seen[0].difference_update(a)
            seen[1].difference_update(b)
    for value, known in ((data, seen[0]), (output, seen[1])):
        rest = [axis for axis in range(ties.rank(value)) if axis not in known and ties.size(value, axis) != 1]
        ties.freeze(value, f"{words(node)} cuts across it", rest)
    return pending


def _follows(node: ir.Node, ties: Ties) -> bool:
    """Whether a computed target is one number for a leading axis, and constants for all others."""
    target = node.inputs[1]
    producer = target.producer() if target is not None else None
    if producer is None or producer.op_type != "Concat":
        return False
    parts = [constant(value) for value in producer.inputs]
    sizes = [ties.shapes.get(name(value), (0,)) for value in producer.inputs]
    return parts[0] is None and all(size == (1,) for size in sizes) and all(part is not None for part in parts[1:])


def carry(node: str, ties: Ties, value: str, axes: list[int], other: str, axis: int, free: list[int]) -> None:
    """Of axes that become one, the first that can lose places takes its share of the one along; the others stay.

    So a Flatten removes whole maps, and attention whole heads.
    """
    chosen = free[0] if free else None
    for place in axes:
        if place != chosen:
            ties.freeze(value, f"{node} joins or splits it", [place])
    if chosen is None:
        ties.freeze(other, f"{node} joins or splits it", [axis])
        return
    grid = ties.atoms(other, axis).reshape([ties.size(value, place) for place in axes])
    own = ties.atoms(value, chosen)
    ties.tie(own[:, None], np.moveaxis(grid, axes.index(chosen), 0).reshape(len(own), -1))
