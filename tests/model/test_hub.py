"""NAME:TAG and hf-hub:ORG/REPO: from the cache as the hub lays it out, whole and with files missing, and from a hub."""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from tiny_models import CAPTIONS, REVISION

from honeclip.errors import ModelError
from honeclip.model import folder as folders
from honeclip.model.load import load


@pytest.fixture
def vit_folder(make, tmp_path):
    clip = make("vit")
    folders.save(clip, tmp_path / "vit", "---\nlicense: mit\n---\n")
    return tmp_path / "vit", clip


@pytest.fixture
def tagged(configs, make, monkeypatch, tmp_path):
    """honeclip-test-vit:small, its weights in tiny/vit, trained with another activation than the config's."""
    from open_clip import pretrained

    entry = {
        "hf_hub": "tiny/vit/",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "quick_gelu": True,
        "resize_mode": "squash",
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "honeclip-test-vit", {"small": entry})
    clip = make("vit-quick")
    with torch.no_grad():
        clip.model.visual.proj.mul_(1.5)
    folders.save(clip, tmp_path / "files", "---\nlicense: mit\n---\n")
    return tmp_path / "files", clip


def test_name_and_tag_load_from_the_cache_with_the_tags_activation(tagged, cache, cpu, pictures):
    files, clip = tagged
    cache("tiny/vit", files)
    found = load("honeclip-test-vit:small", cpu)
    images_BCHW = torch.randn(2, 3, 64, 64)
    assert torch.equal(found.encode_image(images_BCHW), clip.encode_image(images_BCHW))
    assert found.config["quick_gelu"] is True
    assert (found.preprocess.mean[0], found.preprocess.std[0], found.preprocess.resize) == (0.5, 0.25, "squash")
    assert found.base.name == "honeclip-test-vit:small"
    assert found.base.licence == "mit (https://huggingface.co/tiny/vit)"
    assert not found.base.starts_unaligned


def test_name_and_tag_take_a_bin_where_there_is_no_safetensors(tagged, cache, cpu):
    files, clip = tagged
    (files / folders.WEIGHTS).unlink()
    torch.save(clip.model.state_dict(), files / "open_clip_pytorch_model.bin")
    cache("tiny/vit", files)
    images_BCHW = torch.randn(2, 3, 64, 64)
    assert torch.equal(load("honeclip-test-vit:small", cpu).encode_image(images_BCHW), clip.encode_image(images_BCHW))


# --- repositories -------------------------------------------------------------------------------------------------


def test_a_repository_in_the_cache_loads_without_network(vit_folder, cache, cpu, pictures):
    files, clip = vit_folder
    cache("org/vit", files)
    found = load("hf-hub:org/vit", cpu)
    assert torch.equal(found.encode_image(pictures), clip.encode_image(pictures))
    assert found.source == "hf-hub:org/vit"


def test_starters_folder_loads_as_a_repository(starter, cache, cpu, tmp_path):
    folders.save(starter, tmp_path / "files", "")
    cache("org/starter", tmp_path / "files")
    found = load("hf-hub:org/starter", cpu)
    assert torch.equal(found.encode_text(CAPTIONS), starter.encode_text(CAPTIONS))


def test_transformers_layout_loads_from_the_cache(cache, cpu, tmp_path):
    from test_huggingface import hub_model, written

    cache("org/clip", written(hub_model(), tmp_path / "files"))
    assert load("hf-hub:org/clip", cpu).encode_text(CAPTIONS).shape == (4, 24)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (folders.WEIGHTS, r"not its weights \(open_clip_model\.safetensors"),
        (folders.CONFIG, r"not open_clip_config\.json"),
    ],
)
@pytest.mark.parametrize("what", ["file", "blob"])
def test_a_missing_file_of_the_cache_is_named(missing, said, what, vit_folder, cache, cpu):
    files, _ = vit_folder
    cache("org/vit", files)
    snapshot = cache.snapshot("org/vit")
    (snapshot / missing if what == "file" else (snapshot / missing).resolve()).unlink()
    with pytest.raises(ModelError, match=f"hf-hub:org/vit: the hub's cache has the repository, but {said}"):
        load("hf-hub:org/vit", cpu)


def test_a_missing_tokenizer_of_the_cache_is_named(starter, cache, cpu, tmp_path):
    folders.save(starter, tmp_path / "files", "")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "files" / name).unlink()
    cache("org/starter", tmp_path / "files")
    with pytest.raises(ModelError, match=r"lacks its tokenizer"):
        load("hf-hub:org/starter", cpu)


def test_an_unknown_repository_and_a_wrong_name(cache, cpu):
    with pytest.raises(ModelError, match=r"hf-hub:org/none: open_clip_config\.json .* is not in the hub's cache"):
        load("hf-hub:org/none", cpu)
    with pytest.raises(ModelError, match="named ORG/REPO"):
        load("hf-hub:a/b/c", cpu)


def test_no_network_at_all_is_said_in_words(cache, cpu, monkeypatch):
    """Without the offline switch: the way to the hub leads through a proxy that is not there."""
    huggingface_hub.close_session()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    try:
        with pytest.raises(ModelError, match=r"hf-hub:org/none: .*cannot be reached.*`starter` needs no network"):
            load("hf-hub:org/none", cpu)
        with pytest.raises(ModelError, match=r"^ViT-B-32:openai: .*cannot be reached"):
            load("ViT-B-32:openai", cpu)
    finally:
        huggingface_hub.close_session()


@pytest.fixture
def hub(monkeypatch):
    """hub(repo, folder): a server on this machine that answers as the hub does; .fetched and .questions list files and requests."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            questions.append(self.path)
            repo, _, rest = self.path.strip("/").partition("/resolve/")
            file = repositories.get(repo, tmp) / rest.partition("/")[2]
            if not file.is_file():
                gated = repo.endswith("/gated")
                self.send_response(403 if gated else 404)
                missing = "EntryNotFound" if repo in repositories else "RepoNotFound"
                self.send_header("X-Error-Code", "GatedRepo" if gated else missing)
                self.send_header("X-Repo-Commit", REVISION)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                fetched.append(file.name)
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    repositories, fetched, questions, tmp = {}, [], [], Path("/nowhere")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    huggingface_hub.close_session()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield SimpleNamespace(add=repositories.__setitem__, fetched=fetched, questions=questions)
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_the_cache_lacks_is_fetched_once(starter, hub, cache, cpu, tmp_path):
    folders.save(starter, tmp_path / "files", "card")
    hub.add("org/starter", tmp_path / "files")
    found = load("hf-hub:org/starter", cpu)
    assert torch.equal(found.encode_text(CAPTIONS), starter.encode_text(CAPTIONS))
    names = sorted(path.name for path in (tmp_path / "files").iterdir())
    assert sorted(hub.fetched) == names
    hub.questions.clear()
    load("hf-hub:org/starter", cpu)
    assert not hub.questions, "the cache knows all of it, the files that are not there included"


def test_a_tag_is_fetched(tagged, hub, cache, cpu):
    files, clip = tagged
    hub.add("tiny/vit", files)
    images_BCHW = torch.randn(2, 3, 64, 64)
    found = load("honeclip-test-vit:small", cpu)
    assert torch.equal(found.encode_image(images_BCHW), clip.encode_image(images_BCHW))
    assert hub.fetched[0] == folders.WEIGHTS


def test_a_repository_that_the_hub_does_not_have(hub, cache, cpu):
    with pytest.raises(ModelError, match=r"hf-hub:org/none: .*cannot be reached or does not have it"):
        load("hf-hub:org/none", cpu)


def test_a_gated_repository_says_what_to_do(hub, cache, cpu):
    with pytest.raises(ModelError, match=r"hf-hub:org/gated is gated: accept its terms"):
        load("hf-hub:org/gated", cpu)
