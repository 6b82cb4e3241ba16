"""Targets: what a runtime's folder under targets/ must say, and how it is found.

The contract is on one page in targets/README.md. A target is a module; the folder is the registry.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from packaging.requirements import Requirement

from edgepack import _root
from edgepack.data.samples import Feed
from edgepack.device import Device
from edgepack.errors import UnknownTarget
from edgepack.lint import Finding
from edgepack.model import Model

# Metadata of a model with compressed weights: how many activations share a scale where the runtime quantizes them
# itself before it multiplies; 0 where it should multiply in float.
ACTIVATION_GROUP = "edgepack.activation_group"
# Metadata of a model whose int8 inputs and outputs the file should take and give as uint8.
UNSIGNED_BORDER = "edgepack.unsigned_border"
# Metadata of a model for a runtime that builds on the device: JSON of what the build knows of that device and of the
# graph (edgepack/building/on_board.py).
BUILT_FOR = "edgepack.built_for"


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a runtime computes in int8, as data for the quantizer. Operators are ONNX names.

    `weighted` operators are quantized wherever their weights are constant. `light` operators follow: they are
    quantized where both what they read and what reads them is. The outputs of `same_scale` operators keep the
    scale of their input. Between a weighted operator and one of its `fused` activations stands no Q/DQ;
    with `fuses_chains`, nor between it and chains of them and of sums and products with constants. The
    `closed` operators run in int8 only if their output is quantized too. `bias_bits` is 32 for int32 biases of
    scale s_input·s_weight, 0 for float ones; a constant added to each row behind a `biased` operator is its bias. The
    `saturating` ones among HardSwish and HardSigmoid are written as integer additions and products
    (passes/saturate.py); right behind such a HardSwish, the `before_conv` operators run in int8 only where a
    convolution follows. Depthwise convolutions are widened to a multiple of `channel_multiple`. `bit_exact` promises
    equal int8 results on every CPU of a kind. `unsigned_weights` says that the runner has CPUs that add u8×s8 products
    with saturation multiply weights beyond 7 bits unsigned, which is slower but exact; without it such weights answer
    wrongly there.

    `dynamic` operators are computed in int8 with activations quantized at run time. A runtime that `keeps_compressed`
    weights, instead of folding what restores them, does that by itself, as ACTIVATION_GROUP in the model's metadata
    says; for another the operators are written into the graph.

    A runtime moves Q/DQ through `commuting` operators by itself, so that none is written in front of them. Where it
    adds in the kernel of the weighted operator that a sum reads (`residual`), only the sum's other input, the shortcut,
    is quantized. With `apart`, what computes in float reads the tensor itself, not what its Q/DQ leaves of it. With
    `skips_vectors`, weighted operators behind a global average stay float: matrix units gain nothing from one column.
    No scale of weights is smaller than `least_scale`, so that a runtime can hold it in float16.
    """

    activation_dtype: str
    symmetric_activations: bool
    weighted: frozenset[str]
    light: frozenset[str]
    same_scale: frozenset[str]
    fused: frozenset[str]
    closed: frozenset[str]
    bias_bits: int
    biased: frozenset[str] = frozenset()
    saturating: frozenset[str] = frozenset()
    before_conv: frozenset[str] = frozenset()
    channel_multiple: int = 1
    fuses_chains: bool = False
    bit_exact: bool = False
    unsigned_weights: bool = False
    weight_bits: int = 8
    dynamic: frozenset[str] = frozenset()
    keeps_compressed: bool = False
    commuting: frozenset[str] = frozenset()
    residual: bool = False
    apart: bool = False
    skips_vectors: bool = False
    least_scale: float = 0.0

    @property
    def fuses_here(self) -> bool:
        """Whether ONNX Runtime computes such Q/DQ in integers; it does not with float biases."""
        return self.bias_bits == 32


class Target(Protocol):
    """A module targets/<name>/__init__.py."""

    SCHEME: Scheme
    PRECISIONS: tuple[str, ...]
    # Why it does not package other precisions, where that takes a word; and the oldest runtime of some precisions.
    REFUSED: Mapping[str, str]
    SINCE: Mapping[str, str]
    # The distributions a device needs besides numpy, the runtime first, and the extra that installs them here ("" if
    # core); and those for a device that has no wheels of the former, perhaps with a bound on numpy.
    REQUIREMENTS: tuple[str, ...]
    FALLBACK: tuple[str, ...]
    # The precisions that go wrong in the latter.
    FALLBACK_LACKS: tuple[str, ...]
    EXTRA: str
    # The target whose runner stands in on this machine for a runtime that only devices have; "" where it runs here.
    STAND_IN: str
    # True where its files hold one length for each dimension, the batch apart, which its runner does one by one.
    FIXED_SHAPES: bool
    # True where a dimension may be given as a range, and its runtime is built for the shapes in it.
    SHAPE_RANGES: bool
    # True where fp16 means that fp16 numbers are multiplied; else that weights are stored so.
    HALF_ARITHMETIC: bool
    # What is built where no precision is asked for; "" where int8 is, on trial beside float.
    UNASKED: str
    # The integers that an int8 file of its may take and give in place of floats.
    IO_DTYPES: tuple[str, ...]

    def check(self) -> None:
        """Raise MissingExtra where the runtime is not installed here."""

    def lower(self, model: Model, folder: Path) -> str:
        """Write the model into `folder` in the runtime's own form; return the name of the main file.

        Raises:
            UnsupportedOperator: naming what the runtime cannot do.
        """

    def baseline(self, model: Model, folder: Path) -> str | None:
        """Write the float original into `folder` in a form to time beside; None where the runner takes the ONNX file.

        Raises:
            UnsupportedOperator: naming what the runtime cannot do.
        """


def names() -> list[str]:
    return sorted(path.parent.name for path in _root.TARGETS.glob("*/__init__.py"))


def load(name: str) -> Target:
    """Import the target called `name`.

    Raises:
        UnknownTarget: with the nearest name as a hint.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1, cutoff=0.4)
        raise UnknownTarget(
            f"no target {name!r}",
            f"did you mean {near[0]}?" if near else f"known targets: {', '.join(names())}",
        )
    path = _root.TARGETS / name / "__init__.py"
    return cast(Target, _root.load(f"edgepack.targets.{name}", path))


def packages(module: Target, *, images: bool = False) -> tuple[str, ...]:
    """The distributions that a bundle's processes import: Pillow only where images are the input."""
    return _with_numpy(module.REQUIREMENTS, images)


def older_packages(module: Target, *, images: bool = False) -> tuple[str, ...]:
    """The same for a device that has no wheels of the target's usual runtime; empty where there is no other."""
    return _with_numpy(module.FALLBACK, images) if module.FALLBACK else ()


def _with_numpy(requirements: tuple[str, ...], images: bool) -> tuple[str, ...]:
    bounded = any(Requirement(line).name == "numpy" for line in requirements)
    return (*(() if bounded else ("numpy",)), *requirements, *(("pillow",) if images else ()))


class RunnerModule(Protocol):
    """A module targets/<name>/runner.py: what the device runs, and the build machine to evaluate."""

    # The same by kernels that the runtime falls back to; None where it has no others.
    load_other: Callable[[str, int], Callable[[Feed], Feed]] | None

    def load(self, path: str, threads: int) -> Callable[[Feed], Feed]: ...

    def versions(self) -> dict[str, str]: ...


def fallbacks(name: str) -> Mapping[str, tuple[str, ...]]:
    """The runtimes that the target's runner may answer by where its own is missing: the distributions of each."""
    found: Mapping[str, tuple[str, ...]] = getattr(runner(name), "FALLBACKS", {})
    return found


def prepares(name: str) -> bool:
    """Whether a bundle has to be prepared on each machine before it runs (`harness.py prepare`)."""
    return hasattr(runner(name), "prepare")


def runner_here(name: str) -> RunnerModule:
    """What runs the target's files on this machine: its own device side, or that of the target that stands in."""
    return runner(load(name).STAND_IN or name)


def runner(name: str) -> RunnerModule:
    """The device side of the target called `name`, imported here."""
    path = _root.TARGETS / name / "runner.py"
    return cast(RunnerModule, _root.load(f"edgepack.targets.{name}.runner", path))


class RulesModule(Protocol):
    """A package targets/<name>/rules: what the runtime asks of a graph, for `inspect`."""

    def lint(self, model: Model, device: Device) -> list[Finding]:
        """Every offence of the model against the rules of the device's runtime."""


def rules(name: str) -> RulesModule | None:
    """The rules of the target called `name`; None where it has none."""
    path = _root.TARGETS / name / "rules" / "__init__.py"
    return cast(RulesModule, _root.load(f"edgepack.targets.{name}.rules", path)) if path.is_file() else None
