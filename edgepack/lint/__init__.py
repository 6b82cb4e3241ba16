"""Lint: rules of a runtime, held against a graph before the runtime meets it.

What is common to all of them: what a rule and a finding are. The rules themselves lie with their runtime, in
targets/<name>/rules/ (`edgepack.target.rules`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from edgepack.device import Device
from edgepack.model import Model

ERROR, SLOW, ADVICE = "error", "slow", "advice"
# The worst first: the runtime refuses the graph or answers otherwise than it says; it runs, but the gain is lost;
# worth knowing.
SEVERITIES = (ERROR, SLOW, ADVICE)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rule is broken: a node, the tensor in question, and what is wrong with it."""

    node: str
    tensor: str
    what: str


Check = Callable[[Model, Device], Iterable[Place]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule. `why` says what the runtime does, `advice` what to do, `source` where it is written down."""

    name: str
    severity: str
    why: str
    advice: str
    source: str
    check: Check


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A broken rule at one place of a graph."""

    rule: str
    severity: str
    node: str
    tensor: str
    what: str
    advice: str


def findings(rules: Iterable[Rule], model: Model, device: Device) -> Iterator[Finding]:
    """Every place of `model` that breaks a rule on `device`, rule by rule."""
    for rule in rules:
        for place in rule.check(model, device):
            yield Finding(
                rule=rule.name,
                severity=rule.severity,
                node=place.node,
                tensor=place.tensor,
                what=place.what,
                advice=rule.advice,
            )


def worst_first(found: Iterable[Finding]) -> list[Finding]:
    """Sorted by severity; within one as they were found."""
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
