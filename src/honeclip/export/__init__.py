"""Models for programs that do not know honeclip: folders of open_clip and transformers, ONNX, Core ML, and LoRA adapters alone.
`export` writes one aside, opens it with the other library alone, compares its embeddings with the model's own, and only then
gives it its name. Each format is a file with `write` and `opened`; none knows the others.
"""
