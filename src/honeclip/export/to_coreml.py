"""Both towers as Core ML programs (.mlpackage), for Macs, iPhones and iPads, one image or one text at a time.

coremltools converts on any system and runs on a Mac only. Elsewhere the program is built and looked at, and
`honeclip export MODEL --to coreml --out DIR --check` on a Mac compares its embeddings.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from honeclip.errors import BadInput, HoneclipError, ModelError
from honeclip.export.encoders import Encoder, Encoders, modules, probes
from honeclip.export.quiet import quietly
from honeclip.model.clip import Clip, measuring

LIBRARY = "coremltools"

TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}
"""Largest difference of unit embeddings. Of fp32 too it is wider than elsewhere: a Mac's GPU computes in what it likes."""

IMAGE, TEXT = "image_encoder.mlpackage", "text_encoder.mlpackage"
INPUTS = {IMAGE: "pixel_values", TEXT: "input_ids"}
OUTPUTS = {IMAGE: "image_embeds", TEXT: "text_embeds"}


class NotHere(HoneclipError):
    """Core ML programs run on a Mac only."""


def write(clip: Clip, folder: Path, precision: str) -> list[str]:
    """Writes image_encoder.mlpackage and text_encoder.mlpackage, for macOS 14 and iOS 17 or newer.

    Args:
        clip: on the CPU.
        folder: an empty one.
        precision: "fp32", or "fp16" (what the neural engine computes in).

    Raises:
        BadInput: coremltools is not installed.
        ModelError: it has no conversion for a tower.
    """
    with quietly():
        tools = _tools()
        for name, module, example in zip((IMAGE, TEXT), modules(clip), probes(clip, rows=1), strict=True):
            try:
                made = tools.convert(
                    _program(clip, module, example),
                    inputs=[_input(tools, name, example)],
                    outputs=[tools.TensorType(name=OUTPUTS[name])],
                    convert_to="mlprogram",
                    minimum_deployment_target=tools.target.iOS17,
                    compute_precision=tools.precision.FLOAT16 if precision == "fp16" else tools.precision.FLOAT32,
                    skip_model_load=sys.platform != "darwin",
                )
            except Exception as error:  # coremltools raises nearly anything for an operator that it does not know
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                raise ModelError(
                    f"{clip.source}: coremltools cannot convert {name}: {reason}; use --to onnx"
                ) from error
            made.save(str(folder / name))
    return [f"texts come as input_ids int32 (1, {clip.preprocess.context_length}), padded to that length"]


def opened(clip: Clip, folder: Path) -> Encoders:
    """What Core ML makes of the folder.

    Raises:
        NotHere: this is no Mac.
    """
    if sys.platform != "darwin":
        raise NotHere(
            "Core ML runs on a Mac only, so the embeddings were not compared; there: honeclip export MODEL --to coreml "
            f"--out {folder.name} --check"
        )
    with quietly():
        tools = _tools()
        image, text = (tools.models.MLModel(str(folder / name)) for name in (IMAGE, TEXT))

    def run(program: Any, name: str, x: Tensor, dtype: Any) -> Tensor:
        rows = [program.predict({INPUTS[name]: row[None].numpy().astype(dtype)})[OUTPUTS[name]] for row in x]
        return torch.from_numpy(np.concatenate(rows)).float()

    return Encoders(
        lambda images: run(image, IMAGE, images, np.float32), lambda tokens: run(text, TEXT, tokens, np.int32)
    )


def example(clip: Clip) -> str:
    """Python that uses the folder, for its card."""
    return (
        "import coremltools, numpy as np\n\n"
        f'image = coremltools.models.MLModel("FOLDER/{IMAGE}")\n'
        f'text = coremltools.models.MLModel("FOLDER/{TEXT}")\n'
        f'image.predict({{"{INPUTS[IMAGE]}": pixels}})["{OUTPUTS[IMAGE]}"]  # float32 (1, 3, {clip.preprocess.size_px}, '
        f"{clip.preprocess.size_px}), normalised as preprocessor_config.json says\n"
        f'text.predict({{"{INPUTS[TEXT]}": tokens}})["{OUTPUTS[TEXT]}"]  # int32 (1, {clip.preprocess.context_length})'
    )


def _input(tools: Any, name: str, example: Tensor) -> Any:
    dtype = np.float32 if example.is_floating_point() else np.int32
    return tools.TensorType(name=INPUTS[name], shape=tuple(example.shape), dtype=dtype)


def _program(clip: Clip, module: Encoder, example: Tensor) -> Any:
    """The tower as an exported program of operators that coremltools knows."""
    aten = torch.ops.aten
    created = [aten.new_ones, aten.new_zeros, aten.new_full]  # masks of transformers' text towers
    with measuring(clip):
        program = torch.export.export(module, (example,)).run_decompositions(torch._decomp.get_decompositions(created))
    passed_on = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)
    renamed = {aten.__and__.Tensor: aten.logical_and.default, aten.__or__.Tensor: aten.logical_or.default}
    for node in list(program.graph.nodes):
        if node.target in passed_on:  # the same tensor under another name
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
        elif node.target in renamed and node.meta["val"].dtype == torch.bool:
            node.target = renamed[node.target]
    return program


def _tools() -> Any:
    try:
        import coremltools
    except ImportError:
        raise BadInput("--to coreml needs coremltools: pip install 'honeclip[coreml]'") from None
    return coremltools
