"""TensorRT as a board has it, without a GPU: a strict stand-in for trtexec and one for the module `tensorrt`.

Both take only what NVIDIA's release of that version declares (tests/tensorrt_names.yaml), refuse what it refuses, and
fail as it does. The engine that they "build" holds the ONNX file and is run by ONNX Runtime, so numbers are real.
"""
