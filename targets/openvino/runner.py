"""Run a bundle's model with OpenVINO on the CPU. Python 3.8, numpy and openvino."""


def load(path, threads):
    """Load a model file; returns a callable from a dict of inputs to a dict of outputs."""
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
    alone = _one_by_one(model)
    if alone:
        # An open batch costs a fifth to a third of the time; the first feed of another size opens it again.
        try:
            model.reshape(alone)
        except RuntimeError:  # the dimension is no batch
            model, alone = core.read_model(path), {}
    running = {"alone": alone, "call": _compiled(core, model, config)}

    def run(feeds):
        for name in running["alone"]:
            if feeds[name].shape != alone[name]:
                running.update(alone={}, call=_compiled(core, core.read_model(path), config))
                break
        return running["call"](feeds)

    return run


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


def _compiled(core, model, config):
    compiled = core.compile_model(model, "CPU", config)
    # An output may carry several names (those of an Identity that was folded away); every one of them answers.
    names = [sorted(output.get_names()) or [output.get_any_name()] for output in compiled.outputs]
    request = compiled.create_infer_request()

    def run(feeds):
        results = request.infer(feeds, share_inputs=True, share_outputs=False)
        return {name: results[index] for index, aliases in enumerate(names) for name in aliases}

    return run


def versions():
    import openvino

    return {"openvino": openvino.__version__}
