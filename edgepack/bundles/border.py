"""The border of a bundle's file: in which layout its inputs and outputs lie and of which type, against the model's own.

Inside edgepack every feed and answer is the original model's. A Border says what the file takes instead; it writes
that into the graph, and its Ports translate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgepack import target as targets
from edgepack.building.plan import AS_IS, Plan
from edgepack.data.samples import Feed
from edgepack.data.states import State, states_of, without_states
from edgepack.errors import UnsupportedOperator, UsageError
from edgepack.metrics.merit import Loop, harness
from edgepack.model import Model, TensorSpec
from edgepack.passes.integer_border import Grid, input_grid, integer_border, output_grid
from edgepack.passes.public_layout import NCHW, NHWC, Perm, own_layout, public_layout
from edgepack.target import UNSIGNED_BORDER

LAYOUTS = ("nchw", "nhwc")
DTYPES = ("float", "int8", "uint8")
Extents = Callable[[list[str]], Mapping[str, tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input or output as the file has it: axis i is axis `perm[i]` of the model's own.

    `layout` is nchw or nhwc where there are four axes, else None; `grid` is that of an input or output of integers.
    """

    tensor: TensorSpec
    layout: str | None = None
    perm: Perm | None = None
    grid: Grid | None = None

    def entry(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return {
            "name": self.tensor.name,
            "dtype": self.tensor.dtype if self.grid is None else self.grid.dtype,
            "shape": [self.tensor.shape[axis] for axis in self.perm] if self.perm else list(self.tensor.shape),
            "layout": self.layout,
            "quantization": None
            if self.grid is None
            else {"scale": self.grid.scale, "zero_point": self.grid.zero_point},
        }

    def public(self, array: np.ndarray) -> np.ndarray:
        """The model's own array as the file takes or gives it."""
        turned = np.ascontiguousarray(self.turned(array))
        return turned if self.grid is None else harness().encoded(self.entry(), turned)

    def turned(self, array: np.ndarray) -> np.ndarray:
        """In the file's order of axes, and real numbers still."""
        return array if self.perm is None else array.transpose(self.perm)

    def own(self, array: np.ndarray) -> np.ndarray:
        """What the file takes or gives as the model itself does."""
        real = array if self.grid is None else harness().restored(self.entry(), array)
        return real if self.perm is None else np.ascontiguousarray(real.transpose(np.argsort(self.perm)))


@dataclass(frozen=True, kw_only=True)
class Ports:
    """All inputs and outputs of a file, by name."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    states: tuple[State, ...] = ()

    def public(self, feed: Feed) -> Feed:
        """A feed of the model's own as the file takes it."""
        return {name: self.inputs[name].public(array) for name, array in feed.items()}

    def turned(self, answers: Feed) -> Feed:
        """Answers of the model's own in the file's order of axes, and real numbers still."""
        return {name: self.outputs[name].turned(array) for name, array in answers.items()}

    def own(self, answers: Feed) -> Feed:
        """The file's answers as the model itself gives them."""
        return {name: self.outputs[name].own(array) for name, array in answers.items() if name in self.outputs}

    def behind(self, run: Callable[[Feed], Feed]) -> Callable[[Feed], Feed]:
        """A loaded file that takes and gives what the model itself does."""
        return lambda feed: self.own(run(self.public(feed)))

    def loop(self, run: Callable[[Feed], Feed]) -> Loop:
        """A loaded file that keeps its states between calls."""
        return harness().Stateful(run, [state.entry() for state in self.states], self.entries("inputs"))

    def looped(self, run: Callable[[Feed], Feed]) -> Callable[[Feed], Feed]:
        """Like `behind`, but with states of its own in place of the feeds'; where those are zero, a sequence begins."""
        loop = self.loop(run)

        def answer(feed: Feed) -> Feed:
            if not any(feed[state.input.name].any() for state in self.states):
                loop.reset()
            return self.own(loop(self.public(without_states(feed, self.states))))

        return answer

    def entries(self, side: str) -> list[dict[str, Any]]:
        """The manifest's `inputs`, states apart, or `outputs`."""
        ports: Mapping[str, Port] = getattr(self, side)
        held = {state.input.name for state in self.states} if side == "inputs" else set()
        return [port.entry() for name, port in ports.items() if name not in held]


@dataclass(frozen=True, kw_only=True)
class Border:
    """What was asked for. `layout` is one of LAYOUTS, or None for the model's own; `dtype` one of DTYPES.

    Both leave `states` as they are, which no caller sees. `ports` are those of a float file; `around` gives the ones of
    a file with integers at its border.
    """

    layout: str | None = None
    dtype: str = "float"
    states: tuple[State, ...] = ()
    ports: Ports = field(default_factory=lambda: Ports(inputs={}, outputs={}))

    def seen(self, model: Model, images: Mapping[str, str]) -> Border:
        """The border with its ports, of the float model after clean-up.

        Args:
            images: the layout in which preprocessing makes an image, by the input it feeds.
        """
        graph = model.ir.graph
        own = {str(value.name): own_layout(value) for value in (*graph.outputs, *graph.inputs)} | dict(images)
        kept = {tensor.name for tensor in model.inputs} & {tensor.name for tensor in model.outputs} | self._held
        specs = {tensor.name: tensor for tensor in model.inputs}
        return replace(
            self,
            ports=Ports(
                inputs={tensor.name: self._port(tensor, own, kept) for tensor in model.inputs},
                outputs={tensor.name: self._port(tensor, own, kept) for tensor in model.outputs},
                states=tuple(replace(state, input=specs[state.input.name]) for state in self.states),
            ),
        )

    @property
    def _held(self) -> set[str]:
        """The names of states, going in and coming out."""
        return {name for state in self.states for name in (state.input.name, state.output)}

    def _port(self, tensor: TensorSpec, own: Mapping[str, str], kept: set[str]) -> Port:
        if len(tensor.shape) != 4 or tensor.name in kept:
            return Port(tensor=tensor)
        layout = self.layout or own[tensor.name]
        perm = None if layout == own[tensor.name] else NHWC if layout == "nhwc" else NCHW
        return Port(tensor=tensor, layout=layout, perm=perm)

    def floats(self, model: Model) -> Model:
        """The graph of a float model with this border: what is timed beside."""
        perms = {
            port.tensor.name: port.perm
            for port in (*self.ports.inputs.values(), *self.ports.outputs.values())
            if port.perm is not None
        }
        return public_layout(model, perms).model

    def around(self, model: Model, extents: Extents) -> tuple[Model, Ports]:
        """The graph of one precision with this border, and the ports of its file.

        Args:
            extents: the smallest and largest values of float outputs, by name; asked where they need a grid.

        Raises:
            UnsupportedOperator: integers were asked for, and a float operator reads an input.
        """
        if self.dtype == "float":
            return self.floats(model), self.ports
        values = {str(value.name): value for value in (*model.ir.graph.outputs, *model.ir.graph.inputs)}
        given, answered = (
            [name for name, port in ports.items() if port.tensor.is_float and name not in self._held]
            for ports in (self.ports.inputs, self.ports.outputs)
        )
        inputs = {name: input_grid(values[name]) for name in given}
        known = {name: output_grid(values[name]) for name in answered}
        open_ones = [name for name, grid in known.items() if grid is None]
        found = {name: _grid_of(*ends) for name, ends in extents(open_ones).items()} if open_ones else {}
        outputs = {name: grid if grid is not None else found[name] for name, grid in known.items()}
        _refuse_other_integers({**inputs, **outputs})
        made = self.floats(integer_border(model, {**inputs, **outputs}).model)
        if self.dtype == "uint8":
            made.ir.metadata_props[UNSIGNED_BORDER] = "1"
        return made, Ports(
            inputs={name: self._in_integers(port, inputs.get(name)) for name, port in self.ports.inputs.items()},
            outputs={name: self._in_integers(port, outputs.get(name)) for name, port in self.ports.outputs.items()},
            states=self.ports.states,
        )

    def _in_integers(self, port: Port, grid: Grid | None) -> Port:
        if grid is not None and self.dtype == "uint8":
            grid = replace(grid, zero_point=grid.zero_point + 128, dtype="uint8")
        return replace(port, grid=grid)


def _grid_of(low: float, high: float) -> Grid:
    """The int8 grid from the one to the other, zero included."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255)) or 1.0
    return Grid(scale=scale, zero_point=int(np.clip(np.rint(-128 - low / scale), -128, 127)), dtype="int8")


def _refuse_other_integers(grids: Mapping[str, Grid]) -> None:
    for name, grid in grids.items():
        if grid.dtype != "int8":
            raise UnsupportedOperator(f"{name!r} is quantized to {grid.dtype}, not int8", "leave --io-dtype out")


def border(
    model: Model, plan: Plan, *, layout: str | None, dtype: str, state: Mapping[str, str] | None = None
) -> Border:
    """What was asked for, checked against the model and the plan.

    Raises:
        UsageError: it makes no sense for this model, target or precision.
    """
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"no layout {layout!r}", f"one of {', '.join(LAYOUTS)}")
    if layout is not None and not any(len(tensor.shape) == 4 for tensor in (*model.inputs, *model.outputs)):
        raise UsageError(
            "--io-layout is about images, and no input or output has four axes",
            "leave it out: " + ", ".join(str(tensor) for tensor in model.inputs),
        )
    if dtype not in DTYPES:
        raise UsageError(f"no type {dtype!r} for inputs and outputs", f"one of {', '.join(DTYPES)}")
    if dtype != "float":
        _refuse_integers(plan, dtype)
    return Border(layout=layout, dtype=dtype, states=states_of(model, state or {}))


def _refuse_integers(plan: Plan, dtype: str) -> None:
    if dtype not in plan.target.IO_DTYPES:
        able = [name for name in targets.names() if dtype in targets.load(name).IO_DTYPES]
        raise UsageError(
            f"a bundle for {plan.target_name} takes and gives float, not {dtype}",
            f"leave --io-dtype out, or add --target {' or '.join(able)}",
        )
    if plan.precision not in ("int8", AS_IS) or plan.on_trial:
        raise UsageError(
            f"--io-dtype {dtype} is for int8, and "
            + ("int8 is not sure with --precision auto" if plan.on_trial else f"the precision is {plan.precision}"),
            "add --precision int8, or leave --io-dtype out",
        )
