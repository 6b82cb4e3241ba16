"""The float model on this machine, in ONNX Runtime: the host's own arithmetic."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import onnx

from edgepack.data.samples import Feed
from edgepack.device import available_cores, detect
from edgepack.errors import CleanupError, SamplesError, UnsupportedOperator, needs
from edgepack.model import LARGEST_MESSAGE, Model

# Its Linux builds send telemetry unless told not to before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


class Session:
    """A model ready to run on the host."""

    def __init__(self, model: Model | onnx.ModelProto, threads: int = 0, *, fuse_integers: bool = True) -> None:
        """
        Args:
            model: a proto is one that is small enough to be handed over in memory.
            fuse_integers: let Q/DQ become integer operators. Where few would, as around float biases, float layers
                whose weights are restored once are a third faster.

        Raises:
            UnsupportedOperator: ONNX Runtime lacks an operator of the model.
            CleanupError: ONNX Runtime refuses the model for another reason.
        """
        onnxruntime = needs("onnxruntime")
        onnxruntime.set_default_logger_severity(4)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if _saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")  # as the runner does
        if not fuse_integers:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        with _source(model) as source:
            try:
                self._session = onnxruntime.InferenceSession(
                    source,
                    options,
                    providers=["CPUExecutionProvider"],
                    disabled_optimizers=["WeightBiasQuantization"],
                )
            except Exception as error:  # its exceptions share no public base class
                text = _reason(error)
                if "NOT_IMPLEMENTED" in str(error) or "is not a registered function" in str(error):
                    raise UnsupportedOperator(
                        f"ONNX Runtime lacks an operator of the model: {text}",
                        "export it with a lower opset, or without that operator",
                    ) from error
                raise CleanupError(
                    f"ONNX Runtime refuses the model: {text}", "does it run before edgepack? export it again"
                ) from error
        self.outputs: list[str] = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Feed, outputs: Sequence[str] | None = None) -> Feed:
        """Outputs by name.

        Raises:
            SamplesError: the model cannot take this feed.
        """
        names = list(outputs) if outputs is not None else self.outputs
        try:
            return dict(zip(names, self._session.run(names, feed), strict=True))
        except Exception as error:
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feed.items())
            raise SamplesError(
                f"the model cannot run on {shapes}: {_reason(error)}", "`edgepack inspect` shows what it takes"
            ) from error


@cache
def _saturates() -> bool:
    return detect().saturates


def side_by_side(feeds: int) -> int:
    """How many of so many feeds are run at a time, a thread each; 1 where threads within a run gain more."""
    cores = available_cores()
    return cores if feeds >= 2 * cores else 1


def answers_to(feeds: Sequence[Feed], model: Model | onnx.ModelProto, *, fuse_integers: bool = True) -> list[Feed]:
    """What a model answers to each of the feeds."""
    workers = side_by_side(len(feeds))
    session = Session(model, threads=1 if workers > 1 else 0, fuse_integers=fuse_integers)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(session.run, feeds))


@contextlib.contextmanager
def _source(model: Model | onnx.ModelProto) -> Iterator[str | bytes]:
    """What ONNX Runtime loads a model from: a message, or a file where it is too large for one."""
    if isinstance(model, onnx.ModelProto):
        yield model.SerializeToString()
    elif model.weight_bytes < LARGEST_MESSAGE:
        yield model.proto().SerializeToString()
    else:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            model.save(path)
            yield str(path)


def fused(model: Model) -> onnx.ModelProto:
    """The graph as ONNX Runtime runs it, Q/DQ fused into integer operators; each node named as its first output was.

    Raises:
        CleanupError: ONNX Runtime refuses the model.
    """
    onnxruntime = needs("onnxruntime")
    onnxruntime.set_default_logger_severity(4)
    proto = model.proto()
    for node in proto.graph.node:
        node.name = node.output[0]
    options = onnxruntime.SessionOptions()
    # What comes beyond are layouts of this machine's own.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as scratch:
        options.optimized_model_filepath = str(Path(scratch) / "fused.onnx")
        try:
            onnxruntime.InferenceSession(
                proto.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                # The latter two would hide an integer product behind quantization at run time.
                disabled_optimizers=[
                    "WeightBiasQuantization",
                    "DynamicQuantizeMatMulFusion",
                    "MatMulIntegerToFloatFusion",
                ],
            )
        except Exception as error:  # its exceptions share no public base class
            raise CleanupError(
                f"ONNX Runtime refuses the model: {_reason(error)}", "does it run before edgepack? export it again"
            ) from error
        return onnx.load(options.optimized_model_filepath)


def _reason(error: Exception) -> str:
    """The first line of a runtime's message, without its codes and paths."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line.rpartition(" : ")[2][:300] if " : FAIL : " in line else line[:300]
