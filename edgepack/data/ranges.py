"""Shapes as ranges: the smallest, the usual and the largest that a runtime is to be built for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgepack.data.samples import Samples
from edgepack.errors import SamplesError, ShapeNeeded
from edgepack.model import Model, TensorSpec

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ShapeRange:
    """An input's shapes; a fixed dimension has one length in all three."""

    least: Shape
    usual: Shape
    most: Shape

    @property
    def fixed(self) -> tuple[int | None, ...]:
        """The lengths that are one, None for those that are not."""
        return tuple(a if a == b else None for a, b in zip(self.least, self.most, strict=True))

    def holds(self, shape: Sequence[int]) -> bool:
        return len(shape) == len(self.least) and all(
            low <= size <= high for low, size, high in zip(self.least, shape, self.most, strict=True)
        )

    def to_json(self) -> dict[str, list[int]]:
        """By the names of TensorRT's optimization profiles."""
        return {"min": list(self.least), "opt": list(self.usual), "max": list(self.most)}

    def __str__(self) -> str:
        return "..".join("x".join(map(str, shape)) for shape in (self.least, self.usual, self.most))


Ranges = Mapping[str, ShapeRange]


@dataclass(frozen=True, kw_only=True)
class Spanned:
    """The ranges of all inputs with an open dimension, and the places of samples at their ends and in their middle."""

    ranges: Ranges = field(default_factory=dict)
    places: tuple[int, ...] = ()


def refuse_unfit(model: Model, ranges: Ranges) -> None:
    """
    Raises:
        ShapeNeeded: there is no such input, or a range does not fit it or another input's with the same dimension.
    """
    specs = {tensor.name: tensor for tensor in model.inputs}
    named: dict[str, tuple[int, int, int]] = {}
    for name, shapes in ranges.items():
        if name not in specs:
            raise ShapeNeeded(f"the model has no input {name!r}", f"its inputs: {', '.join(specs)}")
        tensor = specs[name]
        if len(shapes.least) != len(tensor.shape):
            raise ShapeNeeded(f"{shapes} does not fit the input {tensor}", f"it has {len(tensor.shape)} dimensions")
        for axis, dim in enumerate(tensor.shape):
            three = (shapes.least[axis], shapes.usual[axis], shapes.most[axis])
            if isinstance(dim, int) and set(three) != {dim}:
                raise ShapeNeeded(
                    f"dimension {axis} of the input {tensor} is {dim}, and {shapes} gives it another length",
                    "only open dimensions can be given a range",
                )
            if isinstance(dim, str) and named.setdefault(dim, three) != three:
                raise ShapeNeeded(
                    f"dimension {dim!r} has two ranges, {_text(named[dim])} and {_text(three)}",
                    "it has one length in all inputs, so give it the same range",
                )
        if not isinstance(tensor.shape[0] if tensor.shape else 1, int) and shapes.least[0] != 1:
            raise ShapeNeeded(
                f"the smallest batch of {name} is {shapes.least[0]}, and samples come one at a time",
                "let the range begin with 1",
            )


def spanned(model: Model, given: Ranges, sets: Sequence[Samples]) -> Spanned:
    """A range for every input that has an open dimension: as given, else from the samples; a batch is one.

    Args:
        sets: the samples, those that golden feeds are taken from first.

    Raises:
        ShapeNeeded: a dimension other than the batch is open, and there is neither a range nor a sample.
        SamplesError: a sample lies outside of a given range.
    """
    waiting = [tensor for tensor in model.inputs if not all(isinstance(dim, int) for dim in tensor.shape)]
    if not waiting:
        return Spanned()
    known = {
        dim: tuple(shape[axis] for shape in (shapes.least, shapes.usual, shapes.most))
        for name, shapes in given.items()
        for axis, dim in enumerate(next(tensor for tensor in waiting if tensor.name == name).shape)
        if isinstance(dim, str)
    }
    seen = [_shapes(samples, waiting) for samples in sets] if any(_beyond_batch(tensor) for tensor in waiting) else []
    ranges = {}
    for tensor in waiting:
        shapes = given.get(tensor.name) or _span(tensor, known, [one[tensor.name] for part in seen for one in part])
        ranges[tensor.name] = shapes
        for samples, part in zip(sets, seen, strict=False):
            for place, one in enumerate(part):
                if not shapes.holds(one[tensor.name]):
                    raise SamplesError(
                        f"sample {place} of {samples.source} has {'x'.join(map(str, one[tensor.name]))} for "
                        f"{tensor.name}, outside of {shapes}",
                        f"widen --input-shape {tensor.name}, or leave the sample out",
                    )
    return Spanned(ranges=ranges, places=_telling(seen[0], ranges) if seen else ())


def ends(ranges: Ranges) -> list[Mapping[str, Shape]]:
    """The shapes of seeded feeds: the usual ones, the smallest and the largest; nothing where none is open."""
    if not ranges:
        return []
    three: list[Mapping[str, Shape]] = [
        {name: shapes.usual for name, shapes in ranges.items()},
        {name: shapes.least for name, shapes in ranges.items()},
        {name: shapes.most for name, shapes in ranges.items()},
    ]
    return [end for index, end in enumerate(three) if end not in three[:index]]


def _beyond_batch(tensor: TensorSpec) -> bool:
    return any(not isinstance(dim, int) for dim in tensor.shape[1:])


def _shapes(samples: Samples, tensors: Sequence[TensorSpec]) -> list[dict[str, Shape]]:
    feeds = (samples.read(place) for place in range(samples.count))
    return [{tensor.name: feed[tensor.name].shape for tensor in tensors} for feed in feeds]


def _span(tensor: TensorSpec, known: Mapping[str, Sequence[int]], shapes: Sequence[Shape]) -> ShapeRange:
    three: list[Sequence[int]] = []
    for axis, dim in enumerate(tensor.shape):
        if isinstance(dim, int):
            three.append((dim, dim, dim))
        elif dim in known:
            three.append(known[str(dim)])
        elif shapes:
            lengths = sorted(shape[axis] for shape in shapes)
            three.append((lengths[0], lengths[len(lengths) // 2], lengths[-1]))
        elif axis == 0:
            three.append((1, 1, 1))
        else:
            text = "x".join(str(size) if isinstance(size, int) else "1" for size in tensor.shape)
            raise ShapeNeeded(
                f"the input {tensor} has an open dimension, and there are neither samples nor a range",
                f"add --input-shape {tensor.name}={text}..{text}..{text} with the smallest, usual and largest lengths",
            )
    least, usual, most = (tuple(int(one[index]) for one in three) for index in range(3))
    return ShapeRange(least=least, usual=usual, most=most)


def _telling(shapes: Sequence[Mapping[str, Shape]], ranges: Ranges) -> tuple[int, ...]:
    """The samples nearest to the usual shapes, and the smallest and the largest."""
    sizes = np.array([[np.prod(one[name]) for name in ranges] for one in shapes], float)
    usual = np.array([np.prod(shapes_.usual) for shapes_ in ranges.values()], float)
    total = sizes.sum(axis=1)
    found = [int(np.abs(sizes - usual).sum(axis=1).argmin()), int(total.argmin()), int(total.argmax())]
    return tuple(dict.fromkeys(found))


def _text(three: Sequence[int]) -> str:
    return "..".join(map(str, three))
