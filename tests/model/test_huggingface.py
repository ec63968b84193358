"""transformers' CLIP layout against transformers' own CLIPModel."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
import transformers
from tiny_models import CAPTIONS

from honeclip.errors import ModelError
from honeclip.model import folder as folders
from honeclip.model import huggingface
from honeclip.model.load import load
from honeclip.model.resize import resize


def hub_model(**changes) -> transformers.CLIPModel:
    """A tiny CLIPModel with random weights and another value for every setting that matters."""
    text = {
        "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 40, "eos_token_id": 49407, "bos_token_id": 49406, "hidden_act": "quick_gelu",
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 3,
        "image_size": 48, "patch_size": 16, "hidden_act": "quick_gelu",
    }  # fmt: skip
    text, vision = text | changes.get("text", {}), vision | changes.get("vision", {})
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=24, logit_scale_init_value=3.0
    )
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)  # norms and biases too are no longer 1 and 0
    return model


PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "do_center_crop": True,
    "size": {"shortest_edge": 48},
    "crop_size": {"height": 48, "width": 48},
    "resample": 3,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
}


def written(model: transformers.CLIPModel, folder):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def both(model, clip, captions=CAPTIONS):
    """Embeddings from transformers and from honeclip, for the same pixels and tokens."""
    size = clip.preprocess.size_px
    images_BCHW = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    tokens_BL = clip.preprocess.texts(captions)
    with torch.no_grad():
        out = model(input_ids=tokens_BL, pixel_values=images_BCHW)
    return (out.image_embeds, out.text_embeds), (clip.encode_image(images_BCHW), clip.encode_text(captions))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"text": {"hidden_act": "gelu"}, "vision": {"hidden_act": "gelu"}},
        {"text": {"hidden_act": "gelu_pytorch_tanh"}, "vision": {"hidden_act": "gelu_pytorch_tanh"}},
        {"text": {"layer_norm_eps": 1e-3}, "vision": {"layer_norm_eps": 1e-2}},
        {"text": {"eos_token_id": 2}},
    ],
)
def test_embeddings_are_those_of_transformers(changes, tmp_path, cpu):
    model = hub_model(**changes)
    clip = load(str(written(model, tmp_path)), cpu)
    for theirs, ours in zip(*both(model, clip), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(clip.logit_scale, model.logit_scale)
    assert clip.trims_text
    assert clip.config.get("quick_gelu", False) == (model.config.text_config.hidden_act == "quick_gelu")
    assert (clip.preprocess.mean, clip.preprocess.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def test_pictures_go_in_as_transformers_processor_puts_them_in(tmp_path, cpu, pictures):
    from PIL import Image

    folder = written(hub_model(), tmp_path)
    clip = load(str(folder), cpu)
    processor = transformers.CLIPImageProcessorPil.from_pretrained(str(folder))
    for path in pictures:
        theirs = processor(Image.open(path), return_tensors="pt")["pixel_values"][0]
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (clip.preprocess.mean, clip.preprocess.std))
        ours = (clip.preprocess.image(path) / 255 - mean) / std
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({}, {}),
        ({"size": {"shortest_edge": 48}, "resample": 2}, {"interpolation": "bilinear"}),
        ({"size": {"height": 48, "width": 48}, "resample": 3}, {"interpolation": "bicubic", "resize_mode": "squash"}),
        ({"size": 48, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}, {"mean": [0, 0, 0], "std": [1, 1, 1]}),
    ],
)
def test_the_processors_settings_are_translated(stored, expected):
    assert huggingface.preprocess_config(stored) == expected


def test_the_table_goes_both_ways():
    model = hub_model()
    state = model.state_dict()
    there = huggingface.from_transformers(state, 2, 3)
    back = huggingface.to_transformers(there, 2, 3)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    assert all(value.is_contiguous() for value in back.values())
    with pytest.raises(ModelError, match="logit_bias"):
        huggingface.to_transformers(there | {"logit_bias": torch.zeros(())}, 2, 3)


def test_its_own_tokenizer_is_used_saved_and_read_by_open_clip(tmp_path, cpu):
    folder = written(hub_model(text={"vocab_size": 30522, "eos_token_id": 102}), tmp_path / "theirs")
    words = {token: place for place, token in enumerate(["[PAD]", "[CLS]", "[SEP]", "a", "red", "square", "x"])}
    # ids as a BERT has them: the end mark is not the highest token
    words = {token: {"[PAD]": 0, "[CLS]": 101, "[SEP]": 102}.get(token, 1000 + place) for token, place in words.items()}
    write_tokenizer(folder, words)
    clip = load(str(folder), cpu)
    assert clip.config["text_cfg"]["pool_type"] == "eos"
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    for theirs, ours in zip(*both(model, clip, ["a red square", "x"]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    resize(clip, 64)
    folders.save(clip, tmp_path / "ours", "")
    source = f"local-dir:{tmp_path / 'ours'}"
    again = open_clip.create_model_from_pretrained(source, return_transform=False).eval()
    tokens_BL = open_clip.get_tokenizer(source)(["a red square", "x"])
    with torch.no_grad():
        text = again.encode_text(tokens_BL, normalize=True)
    torch.testing.assert_close(clip.encode_text(["a red square", "x"]), text, rtol=0, atol=1e-5)


def write_tokenizer(folder, words: dict[str, int]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[PAD]"
    ).save_pretrained(folder)


def test_a_bin_and_shards_are_read(tmp_path, cpu, pictures):
    model = hub_model()
    expected = load(str(written(model, tmp_path / "one")), cpu).encode_image(pictures)
    model.save_pretrained(tmp_path / "shards", max_shard_size="2MB")
    (tmp_path / "shards" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert torch.equal(load(str(tmp_path / "shards"), cpu).encode_image(pictures), expected)
    (tmp_path / "one" / "model.safetensors").unlink()
    old = model.state_dict() | {"text_model.embeddings.position_ids": torch.arange(40)[None]}
    torch.save(old, tmp_path / "one" / "pytorch_model.bin")
    assert torch.equal(load(str(tmp_path / "one"), cpu).encode_image(pictures), expected)


def test_what_is_missing_or_of_another_kind_is_named(tmp_path, cpu):
    folder = written(hub_model(), tmp_path)
    content = json.loads((folder / "config.json").read_text())
    for change, said in (
        ({"model_type": "siglip"}, "type 'siglip'"),
        ({"text_config": content["text_config"] | {"hidden_act": "relu"}}, "hidden_act is quick_gelu and relu"),
        ({"text_config": content["text_config"] | {"vocab_size": 50000}}, "lacks its tokenizer"),
        ({"text_config": content["text_config"] | {"num_hidden_layers": 1}}, "unknown tensors .*layers.1"),
        ({"text_config": content["text_config"] | {"num_hidden_layers": 3}}, "missing tensors .*layers.2"),
        ({"projection_dim": 23}, "do not fit"),
    ):
        (folder / "config.json").write_text(json.dumps(content | change))
        with pytest.raises(ModelError, match=said):
            load(str(folder), cpu)
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"none")
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be loaded"):
        load(str(folder), cpu)
    (folder / "model.safetensors").unlink()
    torch.save({"weights": json.JSONDecoder}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is refused"):
        load(str(folder), cpu)
    (folder / "pytorch_model.bin").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"logit_scale": "part-1.safetensors"}}')
    with pytest.raises(ModelError, match=r"has no part-1\.safetensors"):
        load(str(folder), cpu)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match=r"none of model\.safetensors"):
        load(str(folder), cpu)
