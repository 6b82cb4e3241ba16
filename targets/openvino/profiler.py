"""What each operator takes in OpenVINO, by its performance counters. Python 3.8, numpy and openvino."""

import time

# A run is cut to whole microseconds, and so is the average of all runs: up to two are lost, half of each on average.
CUT = 1.0
# Of what was folded away, fused into another operator, or is done in place.
NO_KERNEL = ("", "undef", "unknown")
BORDERS = ("Parameter", "Input", "Result", "Output", "Constant", "Const")


class Profile(object):
    """The counters hold whole microseconds, averaged since the model was compiled: each turn compiles it anew."""

    def __init__(self, runner, path, threads, folder):
        self.runner, self.path, self.threads = runner, path, threads
        self.operators, self.turns, self.model = [], [], None
        self.known = {}

    def turn(self, feed, seconds):
        """Some runs of a newly compiled model, without its first, which prepares things."""
        model = self.model = self.runner.opened(self.path, self.threads, PERF_COUNT=True)
        model.run(feed)
        first = self.read()
        walls, insides, clock = [], [], time.perf_counter
        end = clock() + seconds
        while clock() < end or len(walls) < 3:
            start = clock()
            model.run(feed)
            walls.append(1e6 * (clock() - start))
            insides.append(1000 * model.request.latency)
        runs = len(walls)
        wall, inside = sum(walls) / runs, sum(insides) / runs
        read = {name: max(0.0, (us * (runs + 1) - first[name]) / runs) for name, us in self.read().items()}
        # OpenVINO's own clock of the same runs is not cut, and says how much was lost in all.
        lost = max(0.0, inside - sum(read.values()))
        share = min(CUT, lost / len(read)) if read else 0.0
        times = [0.0] * len(self.operators)
        for name, micros in read.items():
            times[self.known[name]] = micros + share
        around = sorted(whole - within for whole, within in zip(walls, insides))[: max(1, runs // 4)]
        outside = max(0.0, sum(around) / len(around))
        self.turns.append(
            {"runs": runs, "wall_us": wall, "outside_us": outside, "raw_us": sum(read.values()), "us": times}
        )

    def read(self):
        """Microseconds by operator, of those that are executed; what takes less than one counts as not run there."""
        found = {}
        for entry in self.model.request.profiling_info:
            kernel = entry.exec_type.partition("_")[0] not in NO_KERNEL
            if not str(entry.status).endswith("EXECUTED") and (not kernel or entry.node_type in BORDERS):
                continue
            if entry.node_name not in self.known:
                self.known[entry.node_name] = len(self.operators)
                self.operators.append({"name": entry.node_name, "kind": entry.node_type, "how": entry.exec_type})
            found[entry.node_name] = entry.real_time.total_seconds() * 1e6
        return found

    def result(self):
        """`operators` with the layers of the IR that went into each, `turns`, and the IR's names for tensors."""
        graph = {}
        for node in self.model.compiled.get_runtime_model().get_ordered_ops():
            graph[node.get_friendly_name()] = node
        for operator in self.operators:
            node = graph.get(operator["name"])
            operator.update(about(node) if node is not None else {"precision": "", "bytes": 0, "layers": []})
        turns = [dict(turn, us=turn["us"] + [0.0] * (len(self.operators) - len(turn["us"]))) for turn in self.turns]
        return {"operators": self.operators, "turns": turns, "graph": self.tensors()}

    def tensors(self):
        """By layer of the IR: the names of its outputs, and the layers it reads."""
        import openvino

        layers = {}
        for node in openvino.Core().read_model(self.path).get_ordered_ops():
            if node.get_type_name() == "Constant":
                continue
            names = sorted(name for port in node.outputs() for name in port.get_names())
            reads = [port.get_source_output().get_node().get_friendly_name() for port in node.inputs()]
            layers[node.get_friendly_name()] = {"kind": node.get_type_name(), "outputs": names, "inputs": reads}
        return layers


def about(node):
    info = node.get_rt_info()
    text = {key: info[key].astype(str) if key in info else "" for key in ("originalLayersNames", "runtimePrecision")}
    ports = list(node.inputs()) + list(node.outputs())
    precisions = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "uint8"}
    return {
        "precision": precisions.get(text["runtimePrecision"], text["runtimePrecision"]),
        "bytes": sum(size(port) for port in ports),
        "layers": [name for name in text["originalLayersNames"].split(",") if name],
        "inputs": [port.get_source_output().get_node().get_friendly_name() for port in node.inputs()],
    }


def size(port):
    shape = port.get_partial_shape()
    if shape.is_dynamic:
        return 0
    count = 1
    for length in shape:
        count *= length.get_length()
    return count * port.get_element_type().bitwidth // 8
