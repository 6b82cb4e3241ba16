"""The order in which a value's axes are stored."""

from __future__ import annotations

from collections.abc import Sequence

Perm = tuple[int, ...]


def identity(rank: int) -> Perm:
    return tuple(range(rank))


def last(rank: int) -> Perm:
    """Channels last."""
    return (0, *range(2, rank), 1) if rank > 2 else identity(rank)


def common(perms: Sequence[Perm]) -> Perm:
    """The order that most are stored in, any but ONNX's own first."""
    counted = sorted(perms, key=lambda perm: (perm == identity(len(perm)), -perms.count(perm)))
    return counted[0]
