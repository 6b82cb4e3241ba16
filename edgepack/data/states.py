"""States of recurrent models: outputs that are the next call's inputs, and samples that are sequences."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgepack.data import archive, reading
from edgepack.data.preprocess import Spec
from edgepack.data.samples import Feed, Samples, digest
from edgepack.errors import SamplesError, UsageError
from edgepack.metrics.merit import harness
from edgepack.model import Model, TensorSpec
from edgepack.reference import Session

# The array of a .npz that numbers the sequence of each sample.
SEQUENCE = "sequence"


@dataclass(frozen=True, kw_only=True)
class State:
    """The input `input` is the output `output` of the call before."""

    input: TensorSpec
    output: str

    def entry(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return {
            "input": self.input.name,
            "output": self.output,
            "dtype": self.input.dtype,
            "shape": list(self.input.shape),
        }


def states_of(model: Model, pairs: Mapping[str, str]) -> tuple[State, ...]:
    """The states that `pairs` names, output by input.

    Raises:
        UsageError: there is no such input or output, or the one does not fit the other.
    """
    inputs = {tensor.name: tensor for tensor in model.inputs}
    outputs = {tensor.name: tensor for tensor in model.outputs}
    for name, output in pairs.items():
        for what, known, side in ((name, inputs, "input"), (output, outputs, "output")):
            if what not in known:
                near = difflib.get_close_matches(what, known, 1)
                raise UsageError(
                    f"--state {name}={output}: the model has no {side} {what!r}",
                    f"did you mean {near[0]}?" if near else f"its {side}s: {', '.join(known)}",
                )
        one, other = inputs[name], outputs[output]
        if one.dtype != other.dtype or not _alike(one.shape, other.shape):
            raise UsageError(f"--state {name}={output}: {other} does not fit {one}", "both have one type and shape")
    if len(set(pairs.values())) < len(pairs):
        raise UsageError("--state names one output for two inputs", "each state has an output of its own")
    if pairs and set(pairs) == set(inputs):
        raise UsageError("--state names every input", "something has to go in at each call")
    return tuple(State(input=inputs[name], output=output) for name, output in pairs.items())


def _alike(one: Sequence[int | str | None], other: Sequence[int | str | None]) -> bool:
    pairs = zip(one, other, strict=False)
    fixed = all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))
    return fixed and (len(one) == len(other) or not other)


def without_states(feed: Feed, states: Sequence[State]) -> Feed:
    """What a caller of the bundle gives."""
    names = {state.input.name for state in states}
    return {name: array for name, array in feed.items() if name not in names}


def unrolled(
    session: Session, model: Model, states: Sequence[State], feeds: Iterable[Feed], starts: Sequence[int] = ()
) -> Iterator[Feed]:
    """The feeds of a sequence with the states that the float model has there.

    Args:
        starts: the places at which a new sequence begins, the first apart.
    """
    inputs = [{"name": tensor.name, "shape": list(tensor.shape)} for tensor in model.inputs]
    loop = harness().Stateful(session.run, [state.entry() for state in states], inputs)
    for place, feed in enumerate(feeds):
        if place in starts:
            loop.reset()
        whole = loop.fed(without_states(feed, states))
        loop(whole)
        yield whole


def read(
    path: Path,
    model: Model,
    spec: Spec | None,
    classes: list[str] | None,
    truth: str,
    *,
    states: Sequence[State] = (),
    session: Session | None = None,
) -> Samples:
    """Open samples as `reading.read` does; where they hold no states, they are steps in order, and the float model
    says which states it has there. A .npz may number the sequence of each sample in an array `sequence`: where it
    changes, the states are zero again.

    Raises:
        NoSamples, SamplesError, UnreadableSample, LabelsError.
    """
    if not states or session is None or _holds(path, {state.input.name for state in states}):
        return reading.read(path, model, spec, classes, truth)
    steps = reading.read(path, without(model, states), spec, classes, truth)
    held = [
        {state.input.name: whole[state.input.name] for state in states}
        for whole in unrolled(session, model, states, steps, _starts(path, steps.count))
    ]

    def one(index: int) -> Feed:
        return {**steps.read(index), **held[index]}

    return replace(steps, read=one, digest=cache(lambda index: digest(one(index))), stackable=False, in_order=True)


def without(model: Model, states: Sequence[State]) -> Model:
    """What a caller sees of a model: no state inputs. Samples are read for it; it cannot be run."""
    if not states:
        return model
    rest = model.clone()
    names = {state.input.name for state in states}
    for value in [value for value in rest.ir.graph.inputs if value.name in names]:
        rest.ir.graph.inputs.remove(value)
    return rest


def _holds(path: Path, names: set[str]) -> bool:
    """Whether samples come with arrays of those names."""
    file = next(iter(sorted(path.rglob("*.npz"))), None) if path.is_dir() else path
    try:
        return file is not None and names <= set(archive.load(file))
    except Exception:  # reading.read says what is wrong with it
        return True


def _starts(path: Path, count: int) -> list[int]:
    """The places at which the array `sequence` changes.

    Raises:
        SamplesError: it has another length.
    """
    rows = archive.load(path).get(SEQUENCE) if path.is_file() else None
    if rows is None:
        return []
    numbers = np.asarray(rows[:])
    if numbers.shape != (count,):
        raise SamplesError(
            f"{path}: {SEQUENCE} has shape {list(numbers.shape)}, and there are {count} samples",
            "it numbers the sequence that each sample belongs to",
        )
    return [int(place) + 1 for place in np.flatnonzero(numbers[1:] != numbers[:-1])]
