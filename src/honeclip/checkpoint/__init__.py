"""Checkpoints: tensors and JSON only, a hash of every file, real from one rename on. No pickle is ever read or written.

A checkpoint knows nothing of models and optimizers: it is named tensors, one JSON object, and where the events stood.
"""
