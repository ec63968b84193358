"""Both towers as ONNX, for onnxruntime and whatever else reads it: a batch of any size, unit embeddings out.

fp16 and int8 are made by onnxruntime's own tools from the float32 graph: `convert_float_to_float16` (inputs and outputs stay
float32), and `quantize_dynamic` (weights of products int8, by channel; activations are quantised as they come).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from honeclip.errors import BadInput, ModelError
from honeclip.export.encoders import Encoder, Encoders, modules, probes
from honeclip.export.quiet import quietly
from honeclip.model.clip import Clip, measuring

LIBRARY = "onnxruntime"

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest difference of unit embeddings; int8 has none, for only figures on data say what it costs."""

IMAGE, TEXT = "image_encoder.onnx", "text_encoder.onnx"
INPUTS = {IMAGE: "pixel_values", TEXT: "input_ids"}
OUTPUTS = {IMAGE: "image_embeds", TEXT: "text_embeds"}

OPSET = 20
"""The first with Gelu as one operator, which onnxruntime 1.17 and newer read."""

IN_FLOAT32 = ("LayerNormalization", "Softmax", "Gelu")
"""What fp16 leaves in float32, as autocast does with the first two. With Gelu and LayerNormalization both in half precision
onnxruntime 1.32 ends the process (SIGSEGV) while it arranges the graph of a small ViT for a CPU."""

ONE_FILE_BYTES = 1_900_000_000
"""A graph is one message of protobuf, which holds 2 GiB; weights of a larger tower lie beside it, in NAME.onnx.data."""


def write(clip: Clip, folder: Path, precision: str) -> list[str]:
    """Writes image_encoder.onnx and text_encoder.onnx.

    Args:
        clip: on the CPU.
        folder: an empty one.
        precision: "fp32", "fp16" or "int8".

    Returns:
        What is not as it was, in sentences.

    Raises:
        BadInput: the libraries are not installed.
        ModelError: torch cannot write a tower as ONNX.
    """
    _installed()
    for (name, module), example in zip(
        zip((IMAGE, TEXT), modules(clip), strict=True), probes(clip, rows=2), strict=True
    ):
        whole = folder / name
        _export(clip, module, example, whole)
        if precision != "fp32":
            made = whole.with_name(f"{precision}-{name}")
            with quietly():
                (_halved if precision == "fp16" else _quantised)(whole, made)
            _remove(whole)
            made.rename(whole)
    return [f"texts come as input_ids int64 (batch, {clip.preprocess.context_length}), padded to that length"]


def opened(clip: Clip, folder: Path) -> Encoders:
    """What onnxruntime alone makes of the folder, on the CPU."""
    _installed()
    image, text = _session(folder / IMAGE), _session(folder / TEXT)
    return Encoders(lambda images: _run(image, images), lambda tokens: _run(text, tokens))


def example(clip: Clip) -> str:
    """Python that uses the folder, for its card."""
    return (
        "import numpy as np, onnxruntime\nfrom transformers import AutoTokenizer\n\n"
        f'image = onnxruntime.InferenceSession("FOLDER/{IMAGE}")\n'
        f'text = onnxruntime.InferenceSession("FOLDER/{TEXT}")\n'
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        f'tokens = tokenizer(["a red circle"], padding="max_length", max_length={clip.preprocess.context_length}, '
        'truncation=True)["input_ids"]\n'
        f'(text_embeds,) = text.run(None, {{"{INPUTS[TEXT]}": np.array(tokens, dtype=np.int64)}})\n'
        f'(image_embeds,) = image.run(None, {{"{INPUTS[IMAGE]}": pixels}})  # float32 (batch, 3, {clip.preprocess.size_px}, '
        f"{clip.preprocess.size_px}), normalised as preprocessor_config.json says"
    )


def _export(clip: Clip, module: Encoder, example: Tensor, path: Path) -> None:
    large = sum(one.numel() * one.element_size() for one in module.parameters()) > ONE_FILE_BYTES
    try:
        with quietly(), measuring(clip):
            torch.onnx.export(
                module,
                (example,),
                path,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUTS[path.name]],
                output_names=[OUTPUTS[path.name]],
                external_data=large,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever an operator raised
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{clip.source}: torch cannot write {path.name}: {reason[:300]}; use --to open_clip"
        ) from error


def _halved(whole: Path, made: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    blocked = [*DEFAULT_OP_BLOCK_LIST, *IN_FLOAT32]
    onnx.save(convert_float_to_float16(onnx.load(whole), keep_io_types=True, op_block_list=blocked), made)


def _quantised(whole: Path, made: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        whole, made, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"]
    )


def _session(path: Path) -> Any:
    import onnxruntime

    if not path.is_file():
        raise ModelError(f"{path.parent} has no {path.name}: it is no ONNX export, or not a whole one")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _run(session: Any, x: Tensor) -> Tensor:
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found).float()


def _installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BadInput(f"--to onnx needs {error.name}: pip install 'honeclip[onnx]'") from None


def _remove(path: Path) -> None:
    path.unlink()
    with contextlib.suppress(FileNotFoundError):
        path.with_name(f"{path.name}.data").unlink()
