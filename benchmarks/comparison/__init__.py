"""The parts of benchmarks/quantize.py: tasks, methods, evaluation, latency, verdicts, tables."""
