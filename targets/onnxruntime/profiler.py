"""What each operator takes in ONNX Runtime, by its own profiler. Python 3.8, numpy and onnxruntime."""

import base64
import json
import os

# It stops at a million events; a run is as many as there are operators.
MOST_EVENTS = 400000
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

        self.session = runner.opened(path, threads, settle)
        self.names = [output.name for output in self.session.get_outputs()]
        self.graph = os.path.join(folder, "optimized.onnx")
        self.settled = False

    def turn(self, feed, seconds):
        """One run; its times are in the file at the end."""
        self.session.run(self.names, feed)

    def result(self):
        """`operators`, `turns` (the microseconds of each operator in each run) and the `graph` that ran."""
        with open(self.session.end_profiling()) as file:
            events = json.load(file)
        operators, turns = [], []
        index, nodes, seen = {}, [], {}
        for event in events[: MOST_EVENTS * 2]:
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
        return {"operators": operators, "turns": turns, "graph": self.optimized()}

    def optimized(self):
        try:
            with open(self.graph, "rb") as file:
                return base64.b64encode(file.read()).decode()
        except OSError:
            return None


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
    # What quantizes while it computes (DynamicQuantizeMatMul) reads floats and multiplies integers.
    kind = arguments.get("op_name", "")
    if kind not in ("QuantizeLinear", "DequantizeLinear") and first == "float" and set(types[1:3]) & {"int8", "uint8"}:
        first = types[1] if types[1] in ("int8", "uint8") else first
    return {"name": name, "kind": kind, "precision": floats.get(first, first), "bytes": moved}


def size(entry):
    total = 0
    for kind, shape in entry.items():
        count = 1
        for length in shape:
            count *= length
        total += count * BYTES.get(kind, 1)
    return total
