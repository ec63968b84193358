"""The one way from bytes and strings to tensors, for training, evaluation, embedding and serving alike.

`images` decodes files and judges them, `rules` cleans texts and applies the text rules of a field (`reports`, `notation`,
`formulas`, `panels`), `tokens` makes tokens of them, and `preprocess.Preprocess` joins them with a model's effective size;
its fingerprints are part of every key under which features are kept.
"""
