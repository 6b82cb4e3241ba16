"""ONNX operators in TFLite's words: a module for each family, and one registry of all."""

from . import (
    arithmetic,
    convolution,
    elementwise,
    functions,
    gathering,
    normalization,
    pooling,
    product,
    recurrent,
    reduction,
    resize,
    shape,
    slicing,
)
from .registry import OPERATORS

__all__ = [
    "OPERATORS",
    "arithmetic",
    "convolution",
    "elementwise",
    "functions",
    "gathering",
    "normalization",
    "pooling",
    "product",
    "recurrent",
    "reduction",
    "resize",
    "shape",
    "slicing",
]
