"""Tensors and plain values: no files, no networks."""
