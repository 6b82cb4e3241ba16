"""The clean model of a build in one of its precisions."""

from __future__ import annotations

from edgepack.building import on_board
from edgepack.building.ingredients import Ingredients
from edgepack.model import Model
from edgepack.passes import PassResult, Step, told
from edgepack.passes.blocks import Layout
from edgepack.passes.dynamic import dynamic
from edgepack.passes.fit_format import fit_format
from edgepack.passes.half import half
from edgepack.passes.quantize import quantize
from edgepack.passes.weight_only import store_in_4_bits, store_in_8_bits
from edgepack.progress import Progress
from edgepack.quantization.half_range import Wide, halved, wide_nodes
from edgepack.quantization.preparation import prepare
from edgepack.quantization.settle import Settled, hold_back, settle


def settled(given: Ingredients, progress: Progress) -> Settled:
    """Ranges and rounded weights of the clean model, made once."""
    if "int8" not in given.known:
        assert given.data is not None
        scheme = given.plan.scheme
        progress("calibrating", 0, 0)
        samples, held = hold_back(given.data)
        ready = prepare(
            given.clean,
            scheme,
            samples,
            held=held if held is not samples else None,
            progress=lambda done, total: progress("calibrating", done, total),
        )
        given.known["int8"] = settle(
            ready, scheme, samples, held, lambda done, total: progress("settling ranges and biases", done, total)
        )
    return given.known["int8"]


def fitted_form(
    given: Ingredients, precision: str, progress: Progress, keep_float: frozenset[str] = frozenset()
) -> tuple[Model, list[str], list[Step]]:
    """The model in the given precision, in a format that the device's runtime reads; notes; and what was done."""
    model, note, steps = lowered_form(given, precision, progress, keep_float)
    fitted = fit_format(model, given.plan.reads, given.plan.runtime[0])
    steps = [*steps, *told([fitted.step("fit_format", model)])]
    model = fitted.model
    if given.plan.stand_in:
        wide = given.wide.get("int8" if precision == "int8" else "fp16")
        model = on_board.told(model, given.plan, sparse=given.sparse, ranges=given.ranges, wide=wide)
    return model, [line for line in (note, fitted.note) if line], steps


def lowered_form(
    given: Ingredients, precision: str, progress: Progress, keep_float: frozenset[str] = frozenset()
) -> tuple[Model, str, list[Step]]:
    """The clean model in the given precision, a line on how it came about, and the steps to it.

    Args:
        keep_float: weighted nodes that int8 leaves float, by the name of their output.
    """
    scheme = given.plan.scheme
    if precision == "fp16" and given.plan.multiplies_half:
        wide = _kept_wide(given, "fp16", given.clean)
        return _alone(given, "half_arithmetic", halved(given.clean, wide, given.clean, given.golden))
    if precision == "fp16":
        return _alone(given, "half", half(given.clean))
    if precision == "w8":
        return _alone(given, "weight_only", store_in_8_bits(given.clean, scheme))
    if precision == "w4":
        layout = Layout(bits=4, block=given.plan.block, symmetric=False)
        result = store_in_4_bits(given.clean, scheme, layout, int8_activations=given.plan.int8_blocks)
        return _alone(given, "weight_only", result)
    if precision == "dynamic":
        return _alone(given, "dynamic", dynamic(given.clean, scheme))
    if precision == "int8":
        assert given.data is not None
        form = settled(given, progress)
        keep_float = keep_float | form.ready.unseen
        layers = form.layers(keep_float, lambda done, total: progress("correcting biases", done, total))
        result = quantize(form.ready.model, scheme, form.ready.ranges, layers, keep_float)
        bits = ", 7-bit weights since this CPU adds products with saturation" if scheme.weight_bits == 7 else ""
        notes = [f"{result.note}{bits}", *form.ready.notes, f"{form.name}, from {given.data.count} samples"]
        if form.ready.unseen:
            notes.append(f"no sample reaches {', '.join(sorted(form.ready.unseen))}, so float")
        more = f"{bits}; {form.name}"
        steps = [*form.ready.steps, result.step("quantize", form.ready.model, more)]
        if given.plan.multiplies_half:
            wide = _kept_wide(given, "int8", form.ready.model)
            if given.plan.mixes_half:
                mixed = on_board.mixed(result.model, wide, given.clean, given.golden)
                steps.append(mixed.step("half_arithmetic", result.model))
                result, notes = mixed, [*notes, f"beside int8: {mixed.note}"]
        return result.model, "; ".join(notes), steps
    return given.clean, "", []


def _kept_wide(given: Ingredients, precision: str, model: Model) -> Wide:
    """What stays float32 in the float model that a precision is made from, found once."""
    if precision not in given.wide:
        given.wide[precision] = wide_nodes(model, given.data)
    return given.wide[precision]


def _alone(given: Ingredients, name: str, result: PassResult) -> tuple[Model, str, list[Step]]:
    return result.model, result.note, [result.step(name, given.clean)]
