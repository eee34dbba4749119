"""Measurements of the mesh beside its peers: ``python -m benchmarks``."""
