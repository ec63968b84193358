"""Exports, used by a process that has no honeclip: the Python of each card is run as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_runs
import torch
from safetensors.torch import load_file, save_file

import honeclip
from honeclip.errors import BadInput, HoneclipError, ModelError
from honeclip.export import export as exports
from honeclip.preprocess.preprocess import normalise

CAPTIONS = ["a red circle", "a blue cross, number 7", "a"]
TWO_TRANSFORMERS = "random:ViT-S-32-alt"

ALONE = """
import sys, numpy as np, torch
pixels = np.load(sys.argv[1])["pixels"]
captions = sys.argv[3:]
{code}
assert not any(name.partition(".")[0] == "honeclip" for name in sys.modules)
np.savez(sys.argv[2], image=np.asarray(image_embeds), text=np.asarray(text_embeds))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_runs.draw(tmp_path_factory.mktemp("data") / "d", 60, ("train", "val", "test"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Model folders: two transformers as CLIP has them, and the parts of `starter`."""
    top = tmp_path_factory.mktemp("models")
    text = tiny_runs.text_files(top / "text")
    made = {"vit": tiny_runs.VIT, "two": tiny_runs.TWO_TOWERS}
    return {name: tiny_runs.model_folder(top / name, text, config) for name, config in made.items()}


def pixels_of(clip, data: Path) -> torch.Tensor:
    how = clip.preprocess
    files = sorted((data / "images").iterdir())[:5]
    return normalise(torch.stack([how.image(file) for file in files]), how.mean, how.std)


def alone(code: str, tmp_path: Path, pixels: torch.Tensor, captions: list[str] = CAPTIONS) -> dict[str, np.ndarray]:
    """Embeddings from a process that runs `code`, which gives image_embeds and text_embeds, without honeclip."""
    given, out = tmp_path / "pixels.npz", tmp_path / "out.npz"
    np.savez(given, pixels=pixels.numpy())
    program = ALONE.format(code=textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(given), str(out), *captions],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(out))


def assert_the_models_own(found: dict[str, np.ndarray], clip, pixels, tolerance: float) -> None:
    for name, own in (("image", clip.encode_image(pixels)), ("text", clip.encode_text(CAPTIONS))):
        theirs = torch.nn.functional.normalize(torch.from_numpy(found[name]), dim=-1)
        assert float((theirs - own).abs().max()) <= tolerance


def code_of(folder: Path) -> str:
    """The Python of an export's card."""
    (found,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.S)
    return found.replace("FOLDER", str(folder))


def test_transformers_alone_gives_the_models_embeddings(folders, data, tmp_path):
    clip = honeclip.load(folders["vit"], "cpu")
    made = exports.export(clip, "huggingface", tmp_path / "hf")
    assert max(one.largest for one in made.differences.values()) <= 1e-5
    code = f"""
        from transformers import AutoModel, AutoTokenizer
        model, tokenizer = AutoModel.from_pretrained({str(made.folder)!r}), AutoTokenizer.from_pretrained({str(made.folder)!r})
        tokens = tokenizer(captions, return_tensors="pt", padding=True)
        with torch.no_grad():
            out = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"],
                        pixel_values=torch.from_numpy(pixels))
        image_embeds, text_embeds = out.image_embeds, out.text_embeds
    """
    pixels = pixels_of(clip, data)
    assert_the_models_own(alone(code, tmp_path, pixels), clip, pixels, 1e-5)


@pytest.mark.slow
def test_the_card_of_an_export_to_transformers_runs_as_it_stands(data, tmp_path):
    """With OpenAI's tokenizer, of which open_clip has no files, and with a picture through transformers' own processor."""
    clip = honeclip.load(TWO_TRANSFORMERS, "cpu")
    made = exports.export(clip, "huggingface", tmp_path / "hf")
    picture = next((data / "images").iterdir())
    code = code_of(made.folder).replace('"a.png"', repr(str(picture))).replace('["a red circle"]', "captions")
    code = f"with torch.no_grad():\n{textwrap.indent(code, '    ')}\nimage_embeds, text_embeds = out.image_embeds, out.text_embeds"
    captions = ["a red circle!", "Two Ga-N crystals, 0.05 mm; <50 µm", "  spaces   and\nlines"]
    found = alone(code, tmp_path, torch.zeros(1), captions)
    assert float((torch.from_numpy(found["text"]) - clip.encode_text(captions)).abs().max()) <= 1e-5
    # its own resize is torchvision's, which differs from Pillow's by a grey value here and there
    assert float((torch.from_numpy(found["image"]) * clip.encode_image(picture)).sum()) > 0.999


@pytest.mark.parametrize("name", tiny_runs.tiers(["vit", "two"], "two"))
def test_onnxruntime_alone_gives_the_models_embeddings_for_any_batch(name, folders, data, tmp_path):
    clip = honeclip.load(folders[name], "cpu")
    made = exports.export(clip, "onnx", tmp_path / "onnx")
    assert max(one.largest for one in made.differences.values()) <= 1e-4
    code = code_of(made.folder).replace('["a red circle"]', "captions")
    pixels = pixels_of(clip, data)
    assert_the_models_own(alone(code, tmp_path, pixels), clip, pixels, 1e-4)
    one = alone(code, tmp_path, pixels[:1], CAPTIONS[:1])
    assert one["image"].shape == one["text"].shape == (1, clip.embed_dim)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_onnx_is_smaller_and_its_cost_is_measured(precision, folders, data, tmp_path):
    clip = honeclip.load(folders["vit"], "cpu")
    whole = exports.export(clip, "onnx", tmp_path / "whole")
    # 20 of 60 rows are the test split, too few for R@10
    with pytest.raises(BadInput, match="R@10"):
        exports.export(clip, "onnx", tmp_path / "small", precision=precision, data=str(data))
    assert not (tmp_path / "small").exists()
    many = tiny_runs.draw(tmp_path / "many", 60, ("test",))
    made = exports.export(clip, "onnx", tmp_path / "small", precision=precision, data=str(many))
    assert made.differences["image"].largest > 0
    assert made.differences["image"].cosine > 0.9
    assert json.loads((made.folder / "export.json").read_text())["precision"] == precision
    weights = {one.data_type for one in onnx.load(made.folder / "image_encoder.onnx").graph.initializer}
    assert (onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.INT8) in weights
    if precision == "fp16":  # of so small a tower the graph itself is the greater part
        assert made.files["text_encoder.onnx"] < 0.9 * whole.files["text_encoder.onnx"]
    for way in ("image_to_text", "text_to_image"):
        own, theirs, apart = (made.cost[way][key]["value"] for key in ("model", "export", "difference"))
        assert apart == pytest.approx(theirs - own)
    own = honeclip.evaluate(clip, many, split="test").metrics["retrieval"]
    assert made.cost["image_to_text"]["model"] == own["image_to_text"]["R@10"]


@pytest.mark.slow
def test_open_clip_alone_reads_the_export_whose_text_tower_is_one_of_transformers(folders, data, tmp_path):
    clip = honeclip.load(folders["two"], "cpu")
    made = exports.export(clip, "open_clip", tmp_path / "oc")
    pixels = pixels_of(clip, data)
    code = f"import os\nos.chdir({str(made.folder)!r})\n" + code_of(made.folder).replace(str(made.folder), ".")
    code += """
with torch.no_grad():
    image_embeds = model.eval().encode_image(torch.from_numpy(pixels), normalize=True)
    text_embeds = model.encode_text(tokenizer(captions), normalize=True)
"""
    assert_the_models_own(alone(code, tmp_path, pixels), clip, pixels, 1e-5)


@pytest.mark.parametrize("name", tiny_runs.tiers(["vit", "two"], "vit"))
def test_a_core_ml_program_is_built_and_looked_at(name, folders, tmp_path):
    """As far as coremltools goes here: shapes, names, precision, and every weight of the tower in the program."""
    clip = honeclip.load(folders[name], "cpu")
    made = exports.export(clip, "coreml", tmp_path / "ml", precision="fp16")
    import coremltools  # after the export, which keeps what its import warns of to itself
    from coremltools.proto import FeatureTypes_pb2

    assert sys.platform == "darwin" or made.differences is None
    for file, given, embedded, shape, kind in (
        (
            "image_encoder.mlpackage",
            "pixel_values",
            "image_embeds",
            [1, 3, 32, 32],
            FeatureTypes_pb2.ArrayFeatureType.FLOAT32,
        ),
        ("text_encoder.mlpackage", "input_ids", "text_embeds", [1, 16], FeatureTypes_pb2.ArrayFeatureType.INT32),
    ):
        spec = coremltools.utils.load_spec(str(made.folder / file))
        (inside,), (outside,) = spec.description.input, spec.description.output
        assert (inside.name, outside.name) == (given, embedded)
        assert list(inside.type.multiArrayType.shape) == shape
        assert inside.type.multiArrayType.dataType == kind
        assert list(outside.type.multiArrayType.shape) == [1, clip.embed_dim]
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        kinds = {one.type for one in block.operations}
        assert kinds & {"linear", "matmul", "conv"}
        weights = made.folder / file / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
        tower = (
            clip.model.visual
            if "image" in file
            else getattr(clip.model, "text", clip.model.transformer if name == "vit" else None)
        )
        large = sum(one.numel() for one in tower.parameters() if one.ndim > 1)
        assert weights.stat().st_size >= 0.9 * 2 * large  # two bytes a number


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, data, folders) -> Path:
    """A run that trained adapters from the tiny CLIP."""
    out = tmp_path_factory.mktemp("runs") / "lora"
    sections = tiny_runs.settings(model={"lora_rank": 2}, train={"lr": 0.05})
    sets = [f"{section}.{key}={value}" for section, keys in sections.items() for key, value in keys.items()]
    honeclip.fit(data=str(data), model=str(folders["vit"]), out=str(out), sets=sets)
    return out


@pytest.mark.slow
def test_adapters_alone_and_the_base_make_the_model(adapted, folders, data, tmp_path):
    clip = honeclip.load(adapted, "cpu")
    made = exports.export(clip, "lora", tmp_path / "lora")
    assert max(one.largest for one in made.differences.values()) <= 1e-5
    start = honeclip.load(folders["vit"], "cpu")
    assert float((start.encode_text(CAPTIONS) - clip.encode_text(CAPTIONS)).abs().max()) > 1e-3  # it learned something
    pixels = pixels_of(clip, data)
    code = f"import open_clip\nbase_model, _ = open_clip.create_model_from_pretrained('local-dir:{folders['vit']}')\n"
    code += "tokenizer = open_clip.get_tokenizer('local-dir:" + str(folders["vit"]) + "')\n"
    code += code_of(made.folder) + "\nbase_model.load_state_dict(state)"
    code += """
with torch.no_grad():
    image_embeds = base_model.eval().encode_image(torch.from_numpy(pixels), normalize=True)
    text_embeds = base_model.encode_text(tokenizer(captions), normalize=True)
"""
    assert_the_models_own(alone(code, tmp_path, pixels), clip, pixels, 1e-5)
    files = {name: size for name, size in made.files.items() if name.endswith(".safetensors")}
    assert sum(files.values()) < (folders["vit"] / "open_clip_model.safetensors").stat().st_size / 2


def test_peft_alone_reads_the_adapters(adapted, tmp_path):
    from peft import LoraConfig

    made = exports.export(honeclip.load(adapted, "cpu"), "lora", tmp_path / "lora")
    config = LoraConfig.from_pretrained(str(made.folder))
    stored = load_file(made.folder / "adapter_model.safetensors")
    assert (config.r, config.lora_alpha) == (2, 4)
    assert {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in stored} == set(
        config.target_modules
    )


def test_what_differs_from_the_model_is_found_and_is_not_kept(folders, tmp_path):
    clip = honeclip.load(folders["vit"], "cpu")
    made = exports.export(clip, "huggingface", tmp_path / "hf")
    assert exports.check(clip, "huggingface", made.folder).differences == made.differences
    weights = load_file(made.folder / "model.safetensors")
    weights["text_model.encoder.layers.1.mlp.fc2.bias"][0] += 0.1
    save_file(weights, made.folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HoneclipError, match=r"text embeddings of transformers differ .* 1e-05 is allowed") as error:
        exports.check(clip, "huggingface", made.folder)
    assert error.value.exit_code == 1
    # a tower that CLIPModel's config cannot describe: the difference is seen before anything is kept
    clip.model.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()
    with pytest.raises(HoneclipError, match="cannot be exported to huggingface rightly"):
        exports.export(clip, "huggingface", tmp_path / "other")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["hf"]


def test_bad_input_is_said_with_the_way_out(folders, adapted, data, tmp_path, monkeypatch):
    vit, two = (honeclip.load(folders[name], "cpu") for name in ("vit", "two"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("")
    cases = [
        (vit, "tensorrt", "x", {}, BadInput, "one of open_clip, huggingface, onnx, coreml, lora"),
        (vit, "open_clip", "x", {"precision": "int8"}, BadInput, "open_clip is written in fp32"),
        (vit, "open_clip", "mine", {}, BadInput, "something in it that is no export"),
        (vit, "open_clip", "file", {}, BadInput, "is a file"),
        (two, "huggingface", "x", {}, ModelError, "--to open_clip, or --to onnx"),
        (vit, "lora", "x", {}, BadInput, "neither a run nor a checkpoint"),
    ]
    for clip, to, out, more, kind, words in cases:
        with pytest.raises(kind, match=re.escape(words)):
            exports.export(clip, to, tmp_path / out, **more)
    for to, module in (("onnx", "onnxscript"), ("coreml", "coremltools")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(BadInput, match=re.escape(f"honeclip[{to}]")):
                exports.export(vit, to, tmp_path / "x")
    with pytest.raises(BadInput, match="holds no export"):
        exports.check(vit, "onnx", tmp_path / "mine")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "mine"]


def test_a_run_without_adapters_has_none_to_export(data, folders, tmp_path):
    sections = tiny_runs.settings(train={"length": 2})
    sets = [f"{section}.{key}={value}" for section, keys in sections.items() for key, value in keys.items()]
    honeclip.fit(data=str(data), model=str(folders["vit"]), out=str(tmp_path / "r"), sets=sets)
    with pytest.raises(BadInput, match=r"trained without adapters \(model.lora_rank = 0\)"):
        exports.export(honeclip.load(tmp_path / "r", "cpu"), "lora", tmp_path / "x")


def test_an_earlier_export_is_replaced_and_says_nothing_of_this_machine(folders, tmp_path):
    clip = honeclip.load(folders["vit"], "cpu")
    exports.export(clip, "onnx", tmp_path / "x")
    made = exports.export(clip, "huggingface", tmp_path / "x")
    assert not (tmp_path / "x" / "image_encoder.onnx").exists()
    assert set(made.files) == {path.name for path in (tmp_path / "x").iterdir()}
    for to in ("open_clip", "huggingface", "onnx"):
        folder = exports.export(clip, to, tmp_path / to).folder
        for path in folder.iterdir():
            assert str(tmp_path).encode() not in path.read_bytes(), path
            assert str(folders["vit"].parent).encode() not in path.read_bytes(), path


def test_the_command_exports_checks_and_prints_json(folders, tmp_path, capsys):
    from honeclip.cli.export import export as command

    given = {"model": str(folders["vit"]), "to": "onnx", "out": tmp_path / "x"}
    command(**given, as_json=True)
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["differences"]["image"]["largest"] <= 1e-4
    assert "exported:" in said.err
    command(**given, check=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["differences"] == found["differences"]
