"""The oldest TensorFlow Lite that has all operators of a file, as its metadata `min_runtime_version` says.

The releases are those of TensorFlow Lite's own table (lite/tools/versioning/runtime_version.cc), which ends with 2.11;
like there, an operator that it does not know does not count.
"""

from __future__ import annotations

from collections.abc import Iterable

# What older releases than the table below begin with have.
_OLDEST = (1, 15, 0)
_SINCE: dict[tuple[int, int, int], dict[str, tuple[int, ...]]] = {
    (2, 0, 0): {"FULLY_CONNECTED": (5,)},
    (2, 1, 0): {"DEPTH_TO_SPACE": (1,), "FULLY_CONNECTED": (6,), "RELU": (2,), "STRIDED_SLICE": (3,)},
    (2, 2, 0): {
        "DEPTHWISE_CONV_2D": (4,), "DEQUANTIZE": (4,), "RESIZE_BILINEAR": (3,), "REVERSE_V2": (2,), "SELECT_V2": (1,),
        "STRIDED_SLICE": (4,), "TILE": (2,), "TRANSPOSE_CONV": (2,), "UNPACK": (3,),
    },
    (2, 3, 0): {
        "AVERAGE_POOL_2D": (3,), "BATCH_MATMUL": (1, 2), "CONCATENATION": (3,), "CONV_2D": (4,), "DIV": (2,),
        "EQUAL": (3,), "GATHER_ND": (2,), "LEAKY_RELU": (2,), "LOGISTIC": (3,), "MAXIMUM": (3, 4), "MAX_POOL_2D": (3,),
        "MINIMUM": (3, 4), "MIRROR_PAD": (2,), "MUL": (4,), "NOT_EQUAL": (3,), "PACK": (3,),
        "RESIZE_NEAREST_NEIGHBOR": (3,), "SOFTMAX": (3,), "SPLIT": (4,), "SPLIT_V": (2,), "SUB": (3,), "TANH": (3,),
        "TRANSPOSE": (4,), "TRANSPOSE_CONV": (3,), "UNPACK": (4,),
    },
    (2, 4, 0): {
        "ABS": (2,), "ADD": (3,), "BATCH_MATMUL": (3,), "CONV_2D": (5,), "CUMSUM": (1,), "GATHER": (4,), "MEAN": (3,),
        "PAD": (3,), "PADV2": (3,), "RESIZE_NEAREST_NEIGHBOR": (4,), "SLICE": (4,), "SUB": (4, 5), "TRANSPOSE": (5,),
    },
    (2, 5, 0): {
        "ABS": (3,), "BATCH_MATMUL": (4,), "BROADCAST_TO": (2, 3), "DEPTH_TO_SPACE": (2,), "GATHER": (5,),
        "GATHER_ND": (3,), "REDUCE_MAX": (3,), "REDUCE_MIN": (3,), "RELU": (3,), "RELU6": (3,), "RESIZE_BILINEAR": (4,),
        "REVERSE_V2": (3,), "RSQRT": (2,), "SLICE": (5,), "SQUARED_DIFFERENCE": (2,), "STRIDED_SLICE": (5,),
    },
    (2, 6, 0): {"ABS": (4,), "ADD": (4,), "MUL": (5,), "PAD": (4,), "PADV2": (4,), "REDUCE_PROD": (2,),
                "STRIDED_SLICE": (6,)},
    (2, 7, 0): {"CAST": (2,), "DEQUANTIZE": (5,)},
    (2, 8, 0): {"CAST": (3,), "TILE": (3,)},
    (2, 9, 0): {"ARG_MAX": (3,), "ARG_MIN": (3,), "CAST": (4,), "CONV_2D": (6,), "GELU": (1, 2)},
}  # fmt: skip
_RELEASE = {(kind, version): release for release, kinds in _SINCE.items() for kind in kinds for version in kinds[kind]}


def oldest_runtime(operators: Iterable[tuple[str, int]]) -> str:
    """The release for operators, each a kind and the version written."""
    found = max((_RELEASE.get(operator, _OLDEST) for operator in operators), default=_OLDEST)
    return ".".join(map(str, found))
