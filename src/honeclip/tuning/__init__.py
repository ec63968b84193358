"""Search for the settings of a run: what may vary (`space`), the study that tries it (`study`), and its picture (`page`).

A study is a run config with some keys left open. Trials share data, model and the features of frozen bodies, so that with
frozen towers one takes seconds.
"""
