"""States: outputs that are the next call's inputs. Python 3.8."""


class Stateful(object):
    """A recurrent model that keeps its states between calls: feeds need none, and `reset` begins a new sequence.

    A state that is in a feed all the same counts for that call. The outputs that become states are answered too.

    Args:
        run: the runner's callable, which takes and gives every state.
        states: the manifest's `state`: `input`, `output`, `dtype` and `shape` of each.
        inputs: the manifest's `inputs`, whose dimensions a state may share by name.
    """

    def __init__(self, run, states, inputs):
        self._run, self._states, self._inputs = run, states, inputs
        self._held = {}
        if hasattr(run, "timed"):
            self.timed = lambda feeds, seconds: run.timed(self.fed(feeds), seconds)

    def reset(self):
        """Begin a new sequence: the states are zero."""
        self._held = {}

    def fed(self, feeds):
        """The whole feed of the next call, states included."""
        whole = {state["input"]: self._held.get(state["input"]) for state in self._states}
        for state in self._states:
            if whole[state["input"]] is None:
                whole[state["input"]] = zeros(state, self._inputs, feeds)
        whole.update(feeds)
        return whole

    def __call__(self, feeds):
        answers = self._run(self.fed(feeds))
        self._held = {state["input"]: answers[state["output"]] for state in self._states}
        return answers


def zeros(state, inputs, feeds):
    """A state before the first call. An open dimension is as long as the input's of that name, else 1."""
    import numpy as np

    lengths = {
        dim: size
        for entry in inputs
        if entry["name"] in feeds
        for dim, size in zip(entry["shape"], np.shape(feeds[entry["name"]]))
        if isinstance(dim, str)
    }
    shape = [dim if isinstance(dim, int) else lengths.get(dim, 1) for dim in state["shape"]]
    return np.zeros(shape, state["dtype"])
