"""Where all parts meet: a config becomes a model that was fine-tuned, measured and handed over.

`run` reads as the story of a run, `loop` as that of a step; everything else here is a part that one of them names.
"""
