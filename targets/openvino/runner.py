"""Run a bundle's model with OpenVINO on the CPU. Python 3.8, numpy and openvino."""

load_other = None


def load(path, threads):
    """Load a model file; returns a callable from a dict of inputs to a dict of outputs."""
    return opened(path, threads).run


def opened(path, threads, **more):
    """The model behind that callable; `more` is added to OpenVINO's configuration."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    config = {
        # Without this "fp32" is bf16 on a new x86 and f16 on ARM.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    # 2024 does not take it from the model, and quantizes activations wherever weights are compressed.
    group = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
    if model.has_rt_info(["runtime_options", group]):
        config[group] = model.get_rt_info(["runtime_options", group]).astype(str)
    config.update(more)
    return _Model(core, model, path, config)


class _Model:
    """A model compiled for inputs of one size, which takes a fifth to a third less time than with open dimensions.

    Where only the batch is open that is a single sample, else the size of the first feed. The first feed of another
    size opens the dimensions again, for good.
    """

    def __init__(self, core, model, path, config):
        self._core, self._path, self._config = core, path, config
        self._open = [port.get_any_name() for port in model.inputs if port.partial_shape.is_dynamic]
        self._shapes = _one_by_one(model)
        self._call = None
        self.compiled = self.request = None
        if self._shapes or not self._open:
            self._compile(model)

    def run(self, feeds):
        if self._call is None:
            self._shapes = {name: tuple(feeds[name].shape) for name in self._open}
            self._compile(self._core.read_model(self._path))
        for name, shape in self._shapes.items():
            if feeds[name].shape != shape:
                self._shapes = {}
                self._compile(self._core.read_model(self._path))
                break
        return self._call(feeds)

    def _compile(self, model):
        if self._shapes:
            try:
                model.reshape(self._shapes)
            except RuntimeError:  # what looks like a batch is none
                self._shapes, model = {}, self._core.read_model(self._path)
        self.compiled = self._core.compile_model(model, "CPU", self._config)
        self.request = self.compiled.create_infer_request()
        self._call = _caller(self.compiled, self.request)


def _one_by_one(model):
    """Shapes for a single sample of the inputs whose first dimension is open; empty where others are open too."""
    shapes = {}
    for port in model.inputs:
        if port.partial_shape.rank.is_dynamic:
            return {}
        lengths = list(port.partial_shape)
        if any(dimension.is_dynamic for dimension in lengths[1:]):
            return {}
        if lengths and lengths[0].is_dynamic:
            shapes[port.get_any_name()] = (1, *(dimension.get_length() for dimension in lengths[1:]))
    return shapes


def _caller(compiled, request):
    # An output may carry several names (those of an Identity that was folded away); every one of them answers.
    names = [sorted(output.get_names()) or [output.get_any_name()] for output in compiled.outputs]

    def run(feeds):
        results = request.infer(feeds, share_inputs=True, share_outputs=False)
        return {name: results[index] for index, aliases in enumerate(names) for name in aliases}

    return run


def versions():
    import openvino

    return {"openvino": openvino.__version__}
