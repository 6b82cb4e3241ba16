"""What each operator takes in ONNX Runtime, by its own profiler. Python 3.8, numpy and onnxruntime."""

import base64
import glob
import json
import os
import time

# It stops at a million events; a run is as many as there are operators.
MOST_EVENTS = 900000
PROBE_S = 0.25
# What quantizes activations as it runs, and products of what it made.
DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulInteger", "ConvInteger",
           "MatMulIntegerToFloat", "QAttention")  # fmt: skip
BYTES = {"float": 4, "float16": 2, "double": 8, "int64": 8, "uint64": 8, "int32": 4, "uint32": 4, "int16": 2}


class Profile(object):
    """A session with its profiler on; its files go to `folder`."""

    def __init__(self, runner, path, threads, folder):
        def settle(options):
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(folder, "profile")
            # The graph as it runs here, whose weights are not needed.
            options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
            entry = options.add_session_config_entry
            entry("session.optimized_model_external_initializers_file_name", "weights.bin")
            entry("session.optimized_model_external_initializers_min_size_in_bytes", "0")

        self.runner, self.settle, self.threads, self.folder = runner, settle, threads, folder
        self.costs, self.walls = [], []
        self.session = runner.opened(path, threads, settle)
        self.names = [output.name for output in self.session.get_outputs()]
        self.graph = os.path.join(folder, "optimized.onnx")

    def turn(self, feed, seconds):
        """One run; its times are in the file at the end."""
        start = time.perf_counter()
        self.session.run(self.names, feed)
        self.walls.append(1e6 * (time.perf_counter() - start))

    def probe(self):
        """Measure what the profiler adds: while its clock runs it writes down the shapes of inputs and outputs.

        Chains of trivial operators with few and many inputs, of no and of four dimensions, with and without it.
        """
        import numpy as np

        for path in sorted(glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe-*.onnx"))):
            plain = self.runner.opened(path, self.threads)

            def settle(options):
                options.enable_profiling = True
                options.profile_file_prefix = os.path.join(self.folder, "probe")

            watched = self.runner.opened(path, self.threads, settle)
            feed = {entry.name: np.zeros(entry.shape, np.float32) for entry in plain.get_inputs()}
            times, end = [], time.perf_counter() + PROBE_S
            while time.perf_counter() < end:
                for _ in range(5):
                    start = time.perf_counter()
                    plain.run(None, feed)
                    times.append(1e6 * (time.perf_counter() - start))
                watched.run(None, feed)
            with open(watched.end_profiling()) as file:
                operators, turns = in_turns(json.load(file))
            sums = sorted(sum(turn["us"]) for turn in turns)
            quarter = sums[: max(1, len(sums) // 4)]
            times = sorted(times)[: max(1, len(times) // 4)]
            added = sum(quarter) / len(quarter) - sum(times) / len(times)
            tensors, numbers = operators[0]["written"]
            self.costs.append(((1.0, tensors, numbers), added / len(operators)))

    def result(self):
        """`operators`, `turns` (the microseconds of each operator in each run) and the `graph` that ran."""
        with open(self.session.end_profiling()) as file:
            operators, turns = in_turns(json.load(file))
        for turn, wall in zip(turns, self.walls):
            turn["outside_us"] = max(0.0, wall - turn["wall_us"])
            turn["raw_us"] = sum(turn["us"])
        notes = []
        if len(self.costs) >= 3:
            import numpy as np

            rows, added = zip(*self.costs)
            cost = np.linalg.lstsq(np.array(rows), np.array(added), rcond=None)[0]
            for operator in operators:
                operator["added_us"] = max(0.0, float(cost.dot((1.0,) + operator["written"])))
            mean = sum(operator["added_us"] for operator in operators) / max(1, len(operators))
            notes.append(
                "estimated: ONNX Runtime's profiler adds %.1f µs to an operator here, as measured with trivial ones, "
                "and that is taken off" % mean
            )
        return {"operators": operators, "turns": turns, "graph": self.optimized(), "notes": notes, "slows": True}

    def optimized(self):
        try:
            with open(self.graph, "rb") as file:
                return base64.b64encode(file.read()).decode()
        except OSError:
            return None


def in_turns(events):
    """The operators in a profile's events, and the microseconds of each in each run."""
    operators, turns = [], []
    index, nodes, seen = {}, [], {}
    for event in events[:MOST_EVENTS]:
        if event.get("cat") == "Session" and event["name"] == "model_run":
            times = [0.0] * len(operators)
            for position, micros in own_times(nodes):
                times[position] += micros
            turns.append({"runs": 1, "wall_us": event["dur"], "us": times})
            nodes, seen = [], {}
        elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"][: -len("_kernel_time")]
            key = (name, event["args"].get("node_index"), seen.get(name, 0))
            seen[name] = key[2] + 1
            if key not in index:
                index[key] = len(operators)
                operators.append(about(name, event["args"]))
            nodes.append((event["ts"], event["dur"], index[key]))
    for turn in turns:
        turn["us"] += [0.0] * (len(operators) - len(turn["us"]))
    return operators, turns


def own_times(nodes):
    """Microseconds of each operator, those of the branch or loop body inside it taken off."""
    nodes = sorted(nodes, key=lambda node: (node[0], -node[1]))
    own, around = [node[1] for node in nodes], []
    for place, (start, took, _) in enumerate(nodes):
        while around and nodes[around[-1]][0] + nodes[around[-1]][1] <= start:
            around.pop()
        if around and start + took <= nodes[around[-1]][0] + nodes[around[-1]][1]:
            own[around[-1]] -= took
        around.append(place)
    return [(node[2], max(0.0, micros)) for node, micros in zip(nodes, own)]


def about(name, arguments):
    types = [kind for entry in arguments.get("input_type_shape", []) for kind in entry]
    moved = sum(size(entry) for key in ("input_type_shape", "output_type_shape") for entry in arguments.get(key, []))
    floats = {"float": "fp32", "float16": "fp16", "double": "fp64"}
    first = types[0] if types else ""
    kind = arguments.get("op_name", "")
    entries = [shape for key in ("input_type_shape", "output_type_shape") for entry in arguments.get(key, [])
               for shape in entry.values()]  # fmt: skip
    written = (float(len(entries)), float(sum(len(shape) for shape in entries)))
    # Multiplies integers, whatever it reads; weights that were packed are missing from its types.
    precision = "dynamic" if kind in DYNAMIC else floats.get(first, first)
    found = {"name": name, "kind": kind, "precision": precision, "bytes": moved, "written": written}
    # Weights that were packed when the model was loaded are missing from its shapes.
    found["activation_bytes"] = int(arguments.get("activation_size", 0)) + int(arguments.get("output_size", 0))
    return found


def size(entry):
    total = 0
    for kind, shape in entry.items():
        count = 1
        for length in shape:
            count *= length
        total += count * BYTES.get(kind, 1)
    return total
