"""The model folder: open_clip alone reads it and gives the same embeddings, and a crash leaves no half of one."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from tiny_models import CAPTIONS

from honeclip.errors import HoneclipError, ModelError
from honeclip.model import folder as folders
from honeclip.model.clip import Base
from honeclip.model.load import load
from honeclip.model.resize import resize, set_context_length

CLOSE = {"rtol": 0, "atol": 1e-5}


def assert_same(found: dict[str, torch.Tensor], clip, pictures) -> None:
    torch.testing.assert_close(found["image"], clip.encode_image(pictures), **CLOSE)
    torch.testing.assert_close(found["text"], clip.encode_text(CAPTIONS), **CLOSE)


def test_open_clip_alone_loads_a_vit_at_two_sizes_and_starter(make, starter, tmp_path, pictures, with_open_clip_alone):
    options = {"mean": [0.1, 0.2, 0.3], "resize_mode": "squash", "interpolation": "bilinear"}
    clips = [make("vit-quick", preprocess=options), make("vit-quick", preprocess=options), starter]
    resize(clips[1], 96)
    set_context_length(clips[1], 40)
    with torch.no_grad():
        clips[1].model.logit_scale.fill_(3.0)
    paths = [tmp_path / name for name in ("own", "other", "starter")]
    for clip, path in zip(clips, paths, strict=True):
        folders.save(clip, path, "# card")
    for found, clip in zip(with_open_clip_alone(paths, CAPTIONS), clips, strict=True):
        assert_same(found, clip, pictures)
    config = json.loads((paths[2] / folders.CONFIG).read_text())
    assert config["model_cfg"]["text_cfg"]["hf_model_name"] == "./"
    assert config["preprocess_cfg"]["resize_mode"] == "longest"
    assert config["preprocess_cfg"]["fill_color"] == 255


@pytest.mark.parametrize("name", ["custom", "resnet", "siglip", "mobileclip", "efficientnet", "mlp", "coca"])
def test_open_clip_loads_every_kind_of_tower(name, make, tmp_path, pictures):
    clip = make(name)
    folders.save(clip, tmp_path / "model", "# card")
    source = f"local-dir:{tmp_path / 'model'}"
    model, transform = open_clip.create_model_from_pretrained(source)
    from PIL import Image

    with torch.no_grad():
        image = model.eval().encode_image(
            torch.stack([transform(Image.open(path)) for path in pictures]), normalize=True
        )
        text = model.encode_text(open_clip.get_tokenizer(source)(CAPTIONS), normalize=True)
    assert_same({"image": image, "text": text}, clip, pictures)


@pytest.mark.parametrize("name", ["vit", "siglip", "starter"])
def test_honeclip_reads_back_all_that_it_wrote(name, make, starter, tmp_path, pictures, monkeypatch):
    clip = starter if name == "starter" else make(name, domain={"name": "plants", "terms": ["leaf"]})
    folders.save(clip, tmp_path / "model", "---\nlicense: mit\n---\n# card")
    monkeypatch.chdir(tmp_path)  # a folder is found from anywhere, unlike open_clip's "./"
    again = load("model", clip.device)
    assert torch.equal(again.encode_image(pictures), clip.encode_image(pictures))
    assert torch.equal(again.encode_text(CAPTIONS), clip.encode_text(CAPTIONS))
    assert (again.base, again.domain, again.config) == (clip.base, clip.domain, clip.config)
    assert again.preprocess.fingerprint == clip.preprocess.fingerprint
    assert (tmp_path / "model" / "README.md").read_text().endswith("# card")


def test_a_bias_of_the_logits_is_kept(make, tmp_path):
    clip = make("vit")
    clip.model.logit_bias = torch.nn.Parameter(torch.full_like(clip.model.logit_scale, -7.0))
    clip.config["init_logit_bias"] = -10.0
    folders.save(clip, tmp_path / "model", "")
    assert load(str(tmp_path / "model"), clip.device).model.logit_bias.item() == -7.0
    model = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'model'}", return_transform=False)
    assert model.logit_bias.item() == -7.0


def test_the_folder_names_nothing_of_this_machine(starter, tmp_path):
    folders.save(starter, tmp_path / "model", "")
    for path in (tmp_path / "model").iterdir():
        content = path.read_bytes()
        assert b"/site-packages" not in content, path.name
        assert str(tmp_path).encode() not in content, path.name


def test_a_new_model_replaces_the_old_one_and_leaves_nothing_beside(make, tmp_path):
    first, second = make("vit"), make("custom")
    (tmp_path / "model.partial-1").mkdir()
    folders.save(first, tmp_path / "model", "first")
    (tmp_path / "model" / "left-over").write_text("x")
    folders.save(second, tmp_path / "model", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "README.md").read_text() == "second"
    assert not (tmp_path / "model" / "left-over").exists()


def test_a_full_disk_leaves_the_old_model_whole(make, tmp_path, monkeypatch):
    clip = make("vit")
    folders.save(clip, tmp_path / "model", "first")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.tensors, "write", full)
    with pytest.raises(HoneclipError, match="No space left"):
        folders.save(clip, tmp_path / "model", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "README.md").read_text() == "first"
    load(str(tmp_path / "model"), clip.device)


# --- folders of others --------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(make, tmp_path):
    """A folder as open_clip's own tools write it: no honeclip.json."""
    clip = make("vit", preprocess={"std": [0.5, 0.5, 0.5], "resize_mode": "longest", "fill_color": 7})
    folders.save(clip, tmp_path / "model", "---\nlicense: cc-by-4.0\n---\n")
    (tmp_path / "model" / folders.OURS).unlink()
    return tmp_path / "model", clip


def test_a_folder_without_honeclip_json_has_open_clips_preprocessing(foreign, pictures):
    path, clip = foreign
    again = load(str(path), clip.device)
    assert again.preprocess == clip.preprocess
    assert again.base == Base(str(path), "cc-by-4.0", starts_unaligned=False)
    assert torch.equal(again.encode_image(pictures), clip.encode_image(pictures))


def test_a_bin_of_tensors_is_read_and_one_with_code_is_refused(foreign, pictures):
    path, clip = foreign
    (path / folders.WEIGHTS).unlink()
    torch.save(clip.model.state_dict(), path / "open_clip_pytorch_model.bin")
    assert torch.equal(load(str(path), clip.device).encode_image(pictures), clip.encode_image(pictures))
    torch.save({"state_dict": clip.model.state_dict(), "code": Base}, path / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"open_clip_pytorch_model\.bin is refused"):
        load(str(path), clip.device)


def test_missing_and_damaged_files_are_named(foreign):
    path, clip = foreign
    weights = (path / folders.WEIGHTS).read_bytes()
    (path / folders.WEIGHTS).write_bytes(weights[:1000])
    with pytest.raises(ModelError, match=r"open_clip_model\.safetensors cannot be loaded"):
        load(str(path), clip.device)
    (path / folders.WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"no weights: none of open_clip_model\.safetensors"):
        load(str(path), clip.device)
    (path / folders.CONFIG).write_text("{")
    with pytest.raises(ModelError, match=r"open_clip_config\.json cannot be read"):
        load(str(path), clip.device)
    (path / folders.CONFIG).write_text("[]")
    with pytest.raises(ModelError, match="not a JSON object"):
        load(str(path), clip.device)
    (path / folders.CONFIG).write_text("{}")
    with pytest.raises(ModelError, match="no `model_cfg`"):
        load(str(path), clip.device)


def test_weights_that_do_not_fit_and_configs_that_cannot_be_built_say_so(foreign):
    path, clip = foreign
    content = json.loads((path / folders.CONFIG).read_text())
    for change, said in (
        ({"vision_cfg": {**content["model_cfg"]["vision_cfg"], "layers": 3}}, "cannot be loaded"),
        ({"vision_cfg": {**content["model_cfg"]["vision_cfg"], "unheard": 3}}, "config cannot be built.*unheard"),
        ({"vision_cfg": {**content["model_cfg"]["vision_cfg"], "image_size": [64, 96]}}, "square"),
    ):
        (path / folders.CONFIG).write_text(json.dumps({"model_cfg": {**content["model_cfg"], **change}}))
        with pytest.raises(ModelError, match=said):
            load(str(path), clip.device)


def test_a_folder_that_lacks_the_text_towers_files_says_which(starter, tmp_path):
    folders.save(starter, tmp_path / "model", "")
    (tmp_path / "model" / "tokenizer.json").unlink()
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=r"lacks its tokenizer.*tokenizer\.json"):
        load(str(tmp_path / "model"), starter.device)
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"lacks config\.json, the config of its text tower"):
        load(str(tmp_path / "model"), starter.device)
