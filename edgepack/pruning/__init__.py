"""Structured pruning without training: fewer channels, a smaller graph, weights refitted (docs/pruning.md)."""
