"""Data on the CPU, safe under spawn: what people have becomes a manifest, a manifest becomes `pairs.Pairs` with identities and
splits, `order` draws batches as a pure function of seed and step, and `loader` decodes them.
"""
