"""Losses as functions of embeddings, identities and numbers; none of them sees a model, a config or a device.

Each is computed in row tiles: values and gradients equal the plain form, and no B x B matrix is ever held.
"""
