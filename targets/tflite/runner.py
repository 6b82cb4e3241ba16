"""Run a bundle's model with LiteRT, or TensorFlow Lite's older runtime. Python 3.8, numpy and one of the two."""

import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version

import numpy


def load(path, threads):
    """Load a model file; returns a callable from a dict of inputs to a dict of outputs."""
    return loaded(interpreter_class()(model_path=path, num_threads=threads))


def load_other(path, threads):
    """The same by the builtin kernels, without XNNPACK."""
    kind = interpreter_class()
    kernels = sys.modules[kind.__module__].OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return loaded(kind(model_path=path, num_threads=threads, experimental_op_resolver_type=kernels))


def loaded(interpreter):
    if distribution() == "tflite-runtime":
        refuse_dynamic_range(interpreter)
    interpreter.allocate_tensors()
    call = interpreter.get_signature_runner("serving_default")
    shapes = {name: tuple(int(n) for n in details["shape"]) for name, details in call.get_input_details().items()}

    def run(feeds):
        count = samples_in(feeds, shapes)
        if count == 1:
            return call(**feeds)
        answers = [call(**sample(feeds, shapes, index)) for index in range(count)]
        return {name: numpy.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    return run


def samples_in(feeds, shapes):
    """How many samples the feeds hold. The file takes one; several are run one after the other."""
    counts = {len(feeds[name]) // shape[0] for name, shape in shapes.items() if shape and shape[0]}
    if len(counts) > 1:
        raise ValueError("the inputs hold different numbers of samples")
    return counts.pop() if counts else 1


def sample(feeds, shapes, index):
    return {
        name: array[index * shapes[name][0] : (index + 1) * shapes[name][0]] if shapes.get(name) else array
        for name, array in feeds.items()
    }


def distribution():
    """The runtime that is here: ai-edge-litert first."""
    for module, name in (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime")):
        if importlib.util.find_spec(module) is not None:
            return name
    raise ImportError("neither ai-edge-litert nor tflite-runtime is installed")


def interpreter_class():
    if distribution() == "ai-edge-litert":
        from ai_edge_litert.interpreter import Interpreter
    else:
        if int(numpy.__version__.split(".")[0]) >= 2:
            raise RuntimeError("tflite-runtime needs numpy below 2, and here is %s" % numpy.__version__)
        from tflite_runtime.interpreter import Interpreter
    return Interpreter


def refuse_dynamic_range(interpreter):
    """tflite-runtime 2.14 answers wrongly, without an error, where float activations meet int8 weights."""
    details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    for operator in interpreter._get_ops_details():
        kinds = [details[index]["dtype"] for index in operator["inputs"] if index in details]
        if len(kinds) > 1 and kinds[0] == numpy.float32 and numpy.int8 in kinds[1:]:
            raise RuntimeError(
                "tflite-runtime answers wrongly where int8 weights meet float activations, as in the %s that makes %s; "
                "ai-edge-litert does not" % (operator["op_name"], details[operator["outputs"][0]]["name"])
            )


def versions():
    name = distribution()
    try:
        return {name: version(name)}
    except PackageNotFoundError:
        return {name: "unknown"}
