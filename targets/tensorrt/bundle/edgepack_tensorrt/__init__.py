"""The TensorRT target's side on the board: engines built there, and run. Python 3.8, numpy and what JetPack brings."""
