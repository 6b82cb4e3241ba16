"""The border of a bundle's file: in which layout its inputs and outputs lie, against the model's own.

Inside edgepack every feed and answer is the original model's. A Border says what the file takes instead; it writes
that into the graph, and its Ports translate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgepack.errors import UsageError
from edgepack.model import Model, TensorSpec
from edgepack.passes.public_layout import NCHW, NHWC, Perm, own_layout, public_layout
from edgepack.samples import Feed

LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input or output as the file has it: axis i is axis `perm[i]` of the model's own.

    `layout` is nchw or nhwc where there are four axes, else None.
    """

    tensor: TensorSpec
    layout: str | None = None
    perm: Perm | None = None

    def entry(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return {
            "name": self.tensor.name,
            "dtype": self.tensor.dtype,
            "shape": [self.tensor.shape[axis] for axis in self.perm] if self.perm else list(self.tensor.shape),
            "layout": self.layout,
        }

    def public(self, array: np.ndarray) -> np.ndarray:
        """The model's own array as the file takes or gives it."""
        return np.ascontiguousarray(self.turned(array))

    def turned(self, array: np.ndarray) -> np.ndarray:
        """In the file's order of axes, and real numbers still."""
        return array if self.perm is None else array.transpose(self.perm)

    def own(self, array: np.ndarray) -> np.ndarray:
        """What the file takes or gives as the model itself does."""
        return array if self.perm is None else np.ascontiguousarray(array.transpose(np.argsort(self.perm)))


@dataclass(frozen=True, kw_only=True)
class Ports:
    """All inputs and outputs of a file, by name."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]

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

    def entries(self, side: str) -> list[dict[str, Any]]:
        """The manifest's `inputs` or `outputs`."""
        ports: Mapping[str, Port] = getattr(self, side)
        return [port.entry() for port in ports.values()]


@dataclass(frozen=True, kw_only=True)
class Border:
    """What was asked for. `layout` is one of LAYOUTS, or None for the model's own."""

    layout: str | None = None
    ports: Ports = field(default_factory=lambda: Ports(inputs={}, outputs={}))

    def seen(self, model: Model, images: Mapping[str, str]) -> Border:
        """The border with its ports, of the float model after clean-up.

        Args:
            images: the layout in which preprocessing makes an image, by the input it feeds.
        """
        graph = model.ir.graph
        own = {str(value.name): own_layout(value) for value in (*graph.outputs, *graph.inputs)} | dict(images)
        both = {tensor.name for tensor in model.inputs} & {tensor.name for tensor in model.outputs}
        return replace(
            self,
            ports=Ports(
                inputs={tensor.name: self._port(tensor, own, both) for tensor in model.inputs},
                outputs={tensor.name: self._port(tensor, own, both) for tensor in model.outputs},
            ),
        )

    def _port(self, tensor: TensorSpec, own: Mapping[str, str], both: set[str]) -> Port:
        if len(tensor.shape) != 4 or tensor.name in both:
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

    def around(self, model: Model) -> tuple[Model, Ports]:
        """The graph of one precision with this border, and the ports of its file."""
        return self.floats(model), self.ports


def border(model: Model, *, layout: str | None) -> Border:
    """What was asked for, checked against the model.

    Raises:
        UsageError: it makes no sense for this model.
    """
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"no layout {layout!r}", f"one of {', '.join(LAYOUTS)}")
    if layout is not None and not any(len(tensor.shape) == 4 for tensor in (*model.inputs, *model.outputs)):
        raise UsageError(
            "--io-layout is about images, and no input or output has four axes",
            "leave it out: " + ", ".join(str(tensor) for tensor in model.inputs),
        )
    return Border(layout=layout)
