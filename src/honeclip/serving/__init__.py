"""A model over HTTP: a queue a modality, one thread that owns the device, limits before decoding, a cache, and honest health.

It knows models, preprocessing and embeddings, and nothing of training, data sets or evaluation.
"""
