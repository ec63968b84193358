"""A data set through a model, once: `embed` gives unit embeddings of every image and distinct caption, `features` keeps
what frozen tower bodies give on disk, keyed by content, so that no picture and no caption is computed twice."""
