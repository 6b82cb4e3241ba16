"""Run a bundle's model with LiteRT, or TensorFlow Lite's older runtime. Python 3.8, numpy and one of the two."""

import numpy


def load(path, threads):
    """Load a model file; returns a callable from a dict of inputs to a dict of outputs."""
    interpreter = _interpreter()(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    call = interpreter.get_signature_runner("serving_default")
    shapes = {name: tuple(int(n) for n in details["shape"]) for name, details in call.get_input_details().items()}

    def run(feeds):
        # The file holds the model for single samples; several are run one after the other.
        counts = {len(feeds[name]) // shape[0] for name, shape in shapes.items() if shape and shape[0]}
        if counts == {1} or not counts:
            return call(**feeds)
        if len(counts) > 1:
            raise ValueError("the inputs hold different numbers of samples")
        answers = []
        for index in range(counts.pop()):
            one = {
                name: array[index * shapes[name][0] : (index + 1) * shapes[name][0]] if shapes.get(name) else array
                for name, array in feeds.items()
            }
            answers.append(call(**one))
        return {name: numpy.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    return run


def _interpreter():
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter

        if int(numpy.__version__.split(".")[0]) >= 2:
            raise RuntimeError("tflite-runtime needs numpy below 2: pip install 'numpy<2'")
    return Interpreter


def versions():
    try:
        from importlib.metadata import version
    except ImportError:  # Python 3.7
        return {}
    for name in ("ai-edge-litert", "tflite-runtime"):
        try:
            return {name: version(name)}
        except Exception:
            continue
    return {}
