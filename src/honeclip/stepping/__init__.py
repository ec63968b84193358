"""The exact step: gradients of a loss over the whole effective batch, computed in micro-batches.

Callables and tensors only. Nothing here knows a model, a data set or a config, so `honeclip.cached_step` works for any
PyTorch encoders.
"""
