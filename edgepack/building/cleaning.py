"""From the user's graph to the one that everything else works on: opset, shapes, clean-up, fusions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgepack.data.samples import Feed, Samples
from edgepack.errors import NotAModel, SamplesError, ShapeNeeded
from edgepack.model import Model, TensorSpec
from edgepack.passes import Step
from edgepack.passes.fix_shapes import fix_shapes
from edgepack.passes.raise_opset import raise_opset
from edgepack.passes.rewrite import rewrite
from edgepack.passes.simplify import simplify
from edgepack.reference import Session


def shaped(original: Model, shapes: Mapping[str, tuple[int | None, ...]], *, int8: bool) -> tuple[Model, list[Step]]:
    """The model with its open dimensions fixed, in an opset that int8 can be written in; and what was done.

    Raises:
        NotAModel, ShapeNeeded, UnsupportedOperator.
    """
    refuse_nan(original)
    steps = []
    if int8:
        raised = raise_opset(original)
        steps.append(raised.step("raise_opset", original))
        original = raised.model
    fixed = fix_shapes(original, shapes)
    return fixed.model, [*steps, fixed.step("fix_shapes", original)]


def shaped_as(model: Model, sets: Sequence[Samples], target: str) -> tuple[Model, list[Step]]:
    """The model with its open dimensions as long as in every sample, and what was done; the batch stays open.

    Raises:
        ShapeNeeded: samples differ in one, and the target's files hold one length for each.
    """
    first = next((samples.read(0) for samples in sets), {})
    lengths = {tensor.name: _open_lengths(tensor, first[tensor.name].shape) for tensor in model.inputs if first}
    wanted = {name: shape for name, shape in lengths.items() if any(size is not None for size in shape)}
    if not wanted:
        return model, []
    for samples in sets:
        for feed in samples:
            for tensor in model.inputs:
                _refuse_another(tensor, wanted.get(tensor.name, ()), feed[tensor.name].shape, target)
    fixed = fix_shapes(model, wanted)
    return fixed.model, [fixed.step("fix_shapes", model, ", as all samples are")]


def _open_lengths(tensor: TensorSpec, shape: Sequence[int]) -> tuple[int | None, ...]:
    """The lengths of its open dimensions; None for the others, and for a batch, which the first is where it is 1."""
    return tuple(
        None if isinstance(dim, int) or (axis == 0 and size == 1) else size
        for axis, (dim, size) in enumerate(zip(tensor.shape, shape, strict=True))
    )


def _refuse_another(tensor: TensorSpec, wanted: Sequence[int | None], shape: Sequence[int], target: str) -> None:
    for axis, (length, size) in enumerate(zip(wanted, shape, strict=False)):
        if length not in (None, size):
            text = "x".join(str(there if there is not None else dim) for there, dim in zip(wanted, shape, strict=True))
            raise ShapeNeeded(
                f"dimension {axis} of the input {tensor} is {length} in one sample and {size} in another, and a model "
                f"for {target} has one length",
                f"give it with --input-shape {tensor.name}={text}, and samples of that shape",
            )


def refuse_nan(model: Model) -> None:
    """A lone NaN may be a fill value; among weights it is what a diverged training or a damaged file leaves.

    Raises:
        NotAModel: naming the weights.
    """
    for tensor, array in _floats(model):
        if tensor.size > 1 and np.isnan(array.min()):  # which takes no memory
            count = int(np.isnan(array).sum())
            raise NotAModel(
                f"the weights {tensor.name!r} hold NaN in {count:,} of {tensor.size:,} places",
                "did the training diverge? export a checkpoint from before",
            )


def _floats(model: Model) -> Iterator[tuple[ir.TensorProtocol, np.ndarray]]:
    for tensor in model.tensors():
        if tensor.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE) and tensor.size:
            yield tensor, tensor.numpy()


def refuse_undefined(model: Model, answers: Iterable[Feed]) -> None:
    """
    Raises:
        SamplesError: the model itself answers NaN or infinity, which nothing can be compared with.
    """
    for feed in answers:
        for name, array in feed.items():
            if isinstance(array, np.ndarray) and array.dtype.kind == "f" and not np.isfinite(array).all():
                held = [
                    tensor.name for tensor, weights in _floats(model) if np.isinf([weights.min(), weights.max()]).any()
                ]
                why = f"; its weights {held[0]!r} hold infinity" if held else ""
                raise SamplesError(
                    f"the original itself answers NaN or infinity in {name!r}{why}",
                    "look at the samples and their preprocessing; the model may overflow on them",
                )


def cleaned(model: Model, session: Session, feeds: Sequence[Feed], answer: Feed) -> tuple[Model, list[Step]]:
    """The model cleaned up and its activations fused, each kept only if it answers like the original; what was done.

    Args:
        session: the original.
        answer: what it answers to the first of the feeds.
    """
    model = _with_true_ranks(model, answer)
    clean = simplify(model, session, feeds)
    fused = rewrite(clean.model, session, feeds)
    return fused.model, [clean.step("simplify", model), *fused.steps]


def _with_true_ranks(model: Model, answers: Feed) -> Model:
    """The model with each output's shape left open that says another number of axes than the answers have.

    Runtimes do not mind; tools that infer shapes stop at it.
    """
    wrong = [
        value.name
        for value in model.ir.graph.outputs
        if value.shape is not None
        and isinstance(answer := answers.get(str(value.name)), np.ndarray)
        and len(value.shape) != answer.ndim
    ]
    if not wrong:
        return model
    result = model.clone()
    for value in result.ir.graph.outputs:
        if value.name in wrong:
            value.shape = ir.Shape([None] * answers[str(value.name)].ndim)
    return result
