"""Benchmarks and, later, the load lab."""
