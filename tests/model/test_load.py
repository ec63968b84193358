"""Every model source, from small local folders; no network."""

from __future__ import annotations

import json
import subprocess
import sys

import open_clip
import pytest
import torch
from tiny_models import CAPTIONS

from honeclip.checkpoint.save import RunState
from honeclip.checkpoint.save import save as save_checkpoint
from honeclip.device.device import Cpu
from honeclip.errors import BadInput, ModelError
from honeclip.model import folder as folders
from honeclip.model import heads
from honeclip.model.clip import clip_json
from honeclip.model.load import load


@pytest.fixture
def vit_folder(make, tmp_path):
    clip = make("vit")
    folders.save(clip, tmp_path / "vit", "---\nlicense: mit\n---\n")
    return tmp_path / "vit", clip


# --- starter and random -------------------------------------------------------------------------------------------


def test_starter_is_the_same_every_time(starter, cpu, pictures):
    again = load("starter", "cpu")
    assert again.source == "starter"
    assert again.base.starts_unaligned
    assert isinstance(again.device, Cpu)
    assert torch.equal(again.encode_image(pictures), starter.encode_image(pictures))
    assert torch.equal(again.encode_text(CAPTIONS), starter.encode_text(CAPTIONS))


HASH = """
import hashlib, torch
from honeclip.model.load import load
def digest(seed):
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    clip = load("random:ViT-S-32-alt", "cpu")
    assert torch.equal(torch.get_rng_state(), before), "the global generator was moved"
    found = hashlib.sha256()
    for name, value in clip.model.state_dict().items():
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()
"""


@pytest.mark.slow
def test_random_weights_are_the_same_in_every_process_and_leave_the_generator_alone():
    command = [sys.executable, "-c", HASH + "print(digest(1))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        names: dict = {}
        exec(HASH, names)
        assert names["digest"](2) == other.communicate()[0].strip()


def test_random_takes_any_config_of_open_clip(configs, cpu, pictures):
    clip = load("random:honeclip-test-vit", cpu)
    assert clip.config == configs["vit"]
    assert clip.base.starts_unaligned
    assert clip.similarity(pictures, CAPTIONS).shape == (7, 4)


def test_random_without_its_tokenizer_still_sees_images(configs, cache, cpu, tmp_path):
    config = configs["siglip"] | {"text_cfg": configs["siglip"]["text_cfg"] | {"hf_tokenizer_name": "timm/nowhere"}}
    (tmp_path / "honeclip-test-hub-tokenizer.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "honeclip-test-hub-tokenizer.json")
    clip = load("random:honeclip-test-hub-tokenizer", cpu)
    assert clip.encode_image(torch.zeros(1, 3, 160, 160)).shape == (1, 96)
    assert clip.preprocess.context_length == 64
    with pytest.raises(ModelError, match="without a tokenizer"):
        clip.encode_text("a")


def test_random_downloads_no_text_tower(cache, cpu):
    with pytest.raises(
        ModelError, match=r"^random:roberta-ViT-B-32: hf-hub:roberta-base: config\.json.*the hub is not asked"
    ):
        load("random:roberta-ViT-B-32", cpu)


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("ViT-B-23:datacomp_xl", "ViT-B-32"),
        ("random:ViT-B-23", "ViT-B-32"),
        ("startr", "starter"),
        ("ViT-B-32", "its tags: .*laion2b_s34b_b79k"),
        ("ViT-B-32:datacomp_xl", "no tag 'datacomp_xl'; nearest: .*datacomp_xl_s13b_b90k"),
        ("ViT-S-32-alt:laion2b", "no weights for ViT-S-32-alt; `random:ViT-S-32-alt`"),
        ("laion/CLIP-ViT-B-32", "hf-hub:laion/CLIP-ViT-B-32"),
        ("runs/nowhere/model", "neither a folder nor"),
        ("", "neither a folder nor"),
    ],
)
def test_an_unknown_name_shows_the_nearest(source, said, cpu):
    with pytest.raises(ModelError, match=said):
        load(source, cpu)


def test_a_device_that_is_not_there_is_bad_input():
    with pytest.raises(BadInput, match="--device tpu"):
        load("starter", "tpu")


def test_a_tag_out_of_reach_says_what_was_tried(cache, cpu):
    with pytest.raises(
        ModelError, match=r"^ViT-B-32:openai: hf-hub:timm/.*cannot be reached.*`starter` needs no network"
    ):
        load("ViT-B-32:openai", cpu)


# --- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_model_says_what_was_looked_for(tmp_path, cpu):
    with pytest.raises(ModelError, match=r"open_clip_config\.json.*config\.json.*state\.json.*checkpoints/"):
        load(str(tmp_path), cpu)


def test_a_file_is_no_model(vit_folder, cpu):
    with pytest.raises(ModelError, match=r"is a file; a model is a folder"):
        load(vit_folder[0] / folders.WEIGHTS, cpu)


def checkpoint(run, step, clip, **options):
    weights = {name: value.detach() for name, value in clip.model.state_dict().items()}
    state = RunState(
        step=step, total_steps=9, elapsed_s=1.0, tensors={"weights": weights}, json={"clip": clip_json(clip)}
    )
    return save_checkpoint(run / "checkpoints", state, keep_last=3, **options)


def test_a_run_is_its_model_else_its_best_checkpoint_else_its_latest(make, tmp_path, cpu, pictures):
    run = tmp_path / "run"
    clips = [make("vit") for _ in range(3)]
    for place, clip in enumerate(clips):
        with torch.no_grad():
            clip.model.visual.positional_embedding.mul_(place + 1)
    expected = [clip.encode_image(pictures) for clip in clips]

    checkpoint(run, 1, clips[0])
    assert torch.equal(load(run, cpu).encode_image(pictures), expected[0])
    checkpoint(run, 2, clips[1], best=True)
    last = checkpoint(run, 3, clips[0])
    assert torch.equal(load(run, cpu).encode_image(pictures), expected[1])
    assert torch.equal(load(last, cpu).encode_image(pictures), expected[0])
    folders.save(clips[2], run / "model", "")
    assert torch.equal(load(str(run), cpu).encode_image(pictures), expected[2])


def test_a_run_without_a_checkpoint_says_so(tmp_path, cpu):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ModelError, match="no checkpoint yet"):
        load(tmp_path, cpu)


def test_a_flipped_byte_in_a_checkpoint_is_named(make, tmp_path, cpu, pictures):
    clip = make("vit")
    first, second = checkpoint(tmp_path, 1, clip), checkpoint(tmp_path, 2, clip)
    weights = second / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"step-000002 is damaged: .*weights\.safetensors"):
        load(second, cpu)
    assert first.exists()
    assert torch.equal(load(tmp_path, cpu).encode_image(pictures), clip.encode_image(pictures))


def test_fresh_heads_of_a_checkpoint_are_folded(cpu, tmp_path, pictures):
    clip = load("starter", cpu)
    numbers = torch.Generator().manual_seed(0)
    heads.install(clip, torch.rand(64, 1280, generator=numbers), torch.rand(64, 384, generator=numbers), seed=0)
    image, text = clip.encode_image(pictures), clip.encode_text(CAPTIONS)
    found = load(checkpoint(tmp_path, 1, clip), cpu)
    assert isinstance(found.model.visual.head.proj, torch.nn.Linear)
    torch.testing.assert_close(found.encode_image(pictures), image, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.encode_text(CAPTIONS), text, rtol=1e-4, atol=1e-5)
