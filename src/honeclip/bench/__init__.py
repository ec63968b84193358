"""Benchmarks on this machine: each gives figures as a dict, and is exact about what they count."""
