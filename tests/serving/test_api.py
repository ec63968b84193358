"""Every route: answers equal to the model asked offline, and every wrong request with its code, its item and its fault."""

from __future__ import annotations

import base64
import csv
import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import openai
import pydicom.data
import pytest
import torch
from live_server import Faults, b64, images, message, picture, until

TEXTS = [
    "a red circle",
    "a blue square, number 7",
    "a purple bar",
    "number 1",
    "a green cross , number 12 , number 13 , a",
]


def json_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- answers ------------------------------------------------------------------------------------------------------


def test_similarity_is_the_models_own(shared_server, offline):
    given = json_of(shared_server.post("/v1/similarity", json={"images": images(1, 2, 3), "texts": TEXTS}))
    cosine = offline.similarity([picture(seed) for seed in (1, 2, 3)], TEXTS)
    assert torch.tensor(given["cosine"]).sub(cosine).abs().max() < 1e-5
    scaled = (cosine.double() * offline.logit_scale.exp().item()).softmax(-1)
    assert torch.tensor(given["probabilities"]).sub(scaled).abs().max() < 1e-4
    assert given["model"] == "tiny"


def test_answers_are_equal_whatever_batch_they_travelled_in(serve, offline):
    faults = Faults()
    server = serve(faults=faults)
    seeds = list(range(100, 124))
    wanted = offline.encode_image([picture(seed) for seed in seeds], batch_size=7).numpy()
    texts = [" ".join(TEXTS[number % 3].split()[: 1 + number % 4]) + f" , number {number}" for number in range(24)]
    wanted_text = offline.encode_text(texts, batch_size=5).numpy()
    faults.calls.clear()
    with server.client() as client, ThreadPoolExecutor(12) as pool:

        def ask(number: int) -> list[np.ndarray]:
            body = {"input": [{"image": b64(picture(seeds[number]))}, texts[number]]}
            return [np.array(one["embedding"]) for one in json_of(client.post("/v1/embeddings", json=body))["data"]]

        found = list(pool.map(ask, range(24)))
    assert np.abs(np.stack([one for one, _ in found]) - wanted).max() < 1e-5
    assert np.abs(np.stack([two for _, two in found]) - wanted_text).max() < 1e-5
    assert max(rows for _, rows in faults.calls) > 1, "no batch had company: the test shows nothing"


def test_real_pictures_and_captions(shared_server, shared_data, offline):
    folder = shared_data / "tuxpaint_stamps"
    rows = list(csv.DictReader((folder / "pairs.csv").read_text(encoding="utf-8").splitlines()))[:12]
    files = [folder / row["image"] for row in rows]
    pairs = [{"image": b64(file.read_bytes()), "text": row["caption"]} for file, row in zip(files, rows, strict=True)]
    scores = json_of(shared_server.post("/v1/similarity/pairs", json={"pairs": pairs}))["scores"]
    wanted = (offline.encode_image(files) * offline.encode_text([row["caption"] for row in rows])).sum(-1)
    assert torch.tensor([one["cosine"] for one in scores]).sub(wanted).abs().max() < 1e-5


def test_an_upload_is_the_same_as_base64(shared_server):
    files = [("images", (f"{seed}.png", picture(seed), "image/png")) for seed in (1, 2)]
    by_form = json_of(shared_server.post("/v1/similarity", files=files, data={"texts": TEXTS[:2]}))
    by_json = json_of(shared_server.post("/v1/similarity", json={"images": images(1, 2), "texts": TEXTS[:2]}))
    assert by_form == by_json
    uri = [f"data:image/png;base64,{one}" for one in images(1, 2)]
    assert json_of(shared_server.post("/v1/similarity", json={"images": uri, "texts": TEXTS[:2]})) == by_json


def test_a_bad_pair_fails_alone(shared_server, offline):
    good = {"image": b64(picture(1)), "text": TEXTS[0]}
    cut = {"image": b64(picture(1)[:200]), "text": TEXTS[0]}
    pairs = [good, cut, {"image": "%%%", "text": TEXTS[0]}, {"image": b64(picture(2)), "text": " "}, good]
    scores = json_of(shared_server.post("/v1/similarity/pairs", json={"pairs": pairs}))["scores"]
    cosine = float(offline.similarity(picture(1), TEXTS[0]))
    assert scores[0] == scores[4] == {"cosine": pytest.approx(cosine, abs=1e-5)}
    assert [list(one) for one in scores[1:4]] == [["error"]] * 3
    assert scores[1]["error"].startswith("image: damaged or cut off")
    assert scores[2]["error"].startswith("image: this is not base64")
    assert scores[3]["error"] == "text: the text is empty"


def test_classify_ranks_labels_by_the_template(shared_server, offline):
    labels = ["circle", "square", "bar"]
    body = {"images": images(1, 2), "labels": labels, "template": "a red {label}"}
    given = json_of(shared_server.post("/v1/classify", json=body))
    scale = offline.logit_scale.exp().item()
    cosine = offline.similarity([picture(1), picture(2)], [f"a red {label}" for label in labels])
    wanted = (scale * cosine.double()).softmax(-1)
    for row, one in zip(wanted, given["results"], strict=True):
        found = {entry["label"]: entry["probability"] for entry in one["labels"]}
        assert torch.tensor([found[label] for label in labels]).sub(row).abs().max() < 1e-4
        assert list(found.values()) == sorted(found.values(), reverse=True)
    assert (given["mode"], given["calibrated"], given["domain"]) == ("softmax", False, "general")


def test_label_sets_are_embedded_once(serve):
    server = serve()
    body = {"images": images(1), "labels": ["circle", "square"]}
    first = json_of(server.post("/v1/classify", json=body))
    before = server.metric("honeclip_items_total", modality="text")
    assert before >= 2
    assert json_of(server.post("/v1/classify", json=body)) == first
    assert server.metric("honeclip_items_total", modality="text") == before
    assert server.metric("honeclip_items_total", modality="image") == 1


def test_the_official_openai_client(shared_server, offline):
    with openai.OpenAI(base_url=f"{shared_server.url}/v1", api_key="unused", max_retries=0) as client:
        (listed,) = client.models.list().data
        assert listed.id == "tiny"
        given = client.embeddings.create(model="tiny", input=TEXTS[:3])  # the client asks for base64 and decodes it
        floats = client.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="float")
        with pytest.raises(openai.BadRequestError, match="input\\[0\\]: the text is empty"):
            client.embeddings.create(model="tiny", input=[" "])
    wanted = offline.encode_text(TEXTS[:3])
    assert torch.tensor([one.embedding for one in given.data]).sub(wanted).abs().max() < 1e-5
    assert torch.tensor(floats.data[0].embedding).sub(wanted[0]).abs().max() < 1e-5
    assert given.usage.prompt_tokens == sum(len(text.replace(",", " ,").split()) + 2 for text in TEXTS[:3])


def test_texts_and_images_mixed_keep_their_order(shared_server, offline):
    listed = [TEXTS[0], {"image": b64(picture(5))}, {"text": TEXTS[1]}, {"image": b64(picture(6))}]
    data = json_of(shared_server.post("/v1/embeddings", json={"input": listed, "encoding_format": "base64"}))["data"]
    found = np.stack([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data])
    image, text = offline.encode_image([picture(5), picture(6)]).numpy(), offline.encode_text(TEXTS[:2]).numpy()
    assert [one["index"] for one in data] == [0, 1, 2, 3]
    assert np.abs(found - np.stack([text[0], image[0], text[1], image[1]])).max() < 1e-5


@dataclass(frozen=True)
class _Hit:
    id: int
    score: float
    image: str
    caption: str | None
    matched: str


class _Nearest:
    """An index of three rows."""

    def __init__(self, offline) -> None:
        self.rows = offline.encode_image([picture(seed) for seed in (1, 2, 3)]).numpy()

    def search(self, query_D, top=10):
        score = self.rows @ query_D
        return [_Hit(int(one) + 1, float(score[one]), f"{one}.png", None, "image") for one in np.argsort(-score)[:top]]


def test_search_asks_the_index(serve, offline):
    server = serve(index=_Nearest(offline))
    (best,) = json_of(server.post("/v1/search", json={"image": b64(picture(2)), "top": 1}))["results"]
    assert best == {"id": 2, "score": pytest.approx(1, abs=1e-5), "image": "1.png", "matched": "image"}
    by_form = json_of(server.post("/v1/search", files={"image": picture(3)}, data={"top": "2"}))["results"]
    assert by_form[0]["id"] == 3
    assert len(by_form) == 2
    assert len(json_of(server.post("/v1/search", json={"text": TEXTS[0]}))["results"]) == 3


def test_search_without_an_index(shared_server):
    answer = shared_server.post("/v1/search", json={"text": "a"})
    assert answer.status_code == 404
    assert "--index" in message(answer)


# --- wrong requests -----------------------------------------------------------------------------------------------

LONG = "a " * 500_000
GOOD = b64(picture(1))

WRONG = {
    "not json": ("/v1/embeddings", b"{", 422, "Invalid JSON"),
    "not utf-8": ("/v1/embeddings", b'{"input": "\xff"}', 422, "Invalid JSON"),
    "a surrogate": ("/v1/embeddings", b'{"input": "\\ud800"}', 422, "JSON"),
    "deep": ("/v1/embeddings", b'{"input": ' + b"[" * 100_000, 422, "JSON"),
    "no field": ("/v1/similarity", {"images": [GOOD]}, 422, "texts: Field required"),
    "another field": ("/v1/similarity", {"images": [GOOD], "texts": ["a"], "txt": 1}, 422, "txt: "),
    "another type": ("/v1/similarity", {"images": [GOOD, 3], "texts": ["a"]}, 422, "images[1]: "),
    "empty list": ("/v1/similarity", {"images": [], "texts": ["a"]}, 422, "images: "),
    "empty pairs": ("/v1/similarity/pairs", {"pairs": []}, 422, "pairs: "),
    "10,001 labels": (
        "/v1/classify",
        {"images": [GOOD], "labels": [str(n) for n in range(10_001)]},
        422,
        "at most 10000",
    ),
    "a label twice": (
        "/v1/classify",
        {"images": [GOOD], "labels": ["a", "b", "a"]},
        400,
        "labels[0] stands there twice",
    ),
    "one label": ("/v1/classify", {"images": [GOOD], "labels": ["a"], "mode": "softmax"}, 400, "at least two"),
    "no such mode": ("/v1/classify", {"images": [GOOD], "labels": ["a", "b"], "mode": "x"}, 422, "mode: "),
    "no absence": ("/v1/classify", {"images": [GOOD], "labels": ["a", "b"], "mode": "independent"}, 400, "absence"),
    "template without": ("/v1/classify", {"images": [GOOD], "labels": ["a", "b"], "template": "x"}, 400, "{label}"),
    "template that reads": (
        "/v1/classify",
        {"images": [GOOD], "labels": ["a", "b"], "template": "{label.__class__}"},
        400,
        "{label}",
    ),
    "template that grows": (
        "/v1/classify",
        {"images": [GOOD], "labels": ["a", "b"], "template": "{label:>999999999}"},
        400,
        "{label}",
    ),
    "long text": ("/v1/embeddings", {"input": ["a", LONG]}, 413, "input[1]: the text has 1,000,000 characters"),
    "too many numbers": ("/v1/similarity", {"images": [GOOD] * 256, "texts": ["a"] * 9999}, 413, "256 x 9999 numbers"),
    "not base64": ("/v1/similarity", {"images": [GOOD, "§"], "texts": ["a"]}, 400, "images[1]: this is not base64"),
    "not an image": (
        "/v1/similarity",
        {"images": [b64(b"hello there")], "texts": ["a"]},
        400,
        "images[0]: this is a text",
    ),
    "a url": ("/v1/similarity", {"images": ["https://example.com/a.png"], "texts": ["a"]}, 400, "fetching URLs is off"),
    "a file": ("/v1/similarity", {"images": ["file:///etc/passwd"], "texts": ["a"]}, 400, "fetching URLs is off"),
    "both": ("/v1/search", {"text": "a", "image": GOOD}, 422, "not both"),
    "dimensions": ("/v1/embeddings", {"input": "a", "dimensions": 8}, 400, "this model has 16"),
    "tokens": ("/v1/embeddings", {"input": [1, 2]}, 422, "input"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(shared_server, case):
    path, body, status, words = WRONG[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = shared_server.post(path, content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, words in message(answer)) == (status, True), answer.text
    assert len(answer.text) < 2000, "the answer repeats what was sent"


def test_content_types_methods_and_paths(shared_server):
    assert shared_server.post("/v1/embeddings", content="input=a").status_code == 415
    assert shared_server.post("/v1/embeddings", files={"input": b"a"}).status_code == 415
    wrong = shared_server.get("/v1/embeddings")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "/docs" in message(shared_server.get("/v2"))
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    broken = shared_server.post("/v1/similarity", content=b"--x\r\nnonsense", headers=form)
    assert broken.status_code == 422


# --- equal requests -----------------------------------------------------------------------------------------------


def test_equal_requests_at_once_cost_one_forward(serve):
    faults = Faults()
    server = serve(faults=faults, stuck_s=20)
    faults.hold = threading.Event()
    faults.calls.clear()
    with server.client() as client, ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(client.post, "/v1/embeddings", json={"input": [{"image": GOOD}]}) for _ in range(32)]
        assert faults.entered.wait(120)
        until(lambda: server.guard.active == 32)
        faults.hold.set()
        answers = [json_of(one.result()) for one in asked]
    assert all(one == answers[0] for one in answers)
    assert faults.calls == [("image", 1)]
    counted = {one: server.metric("honeclip_cache_requests_total", result=one) for one in ("hit", "miss", "coalesced")}
    assert counted["miss"] == 1
    assert counted["hit"] + counted["coalesced"] == 31
    assert json_of(server.post("/v1/embeddings", json={"input": [{"image": GOOD}]})) == answers[0]
    assert server.metric("honeclip_cache_requests_total", result="hit") == counted["hit"] + 1


# --- health -------------------------------------------------------------------------------------------------------


def test_health_says_what_runs(shared_server, offline):
    facts = json_of(shared_server.get("/health"))
    assert facts["model"]["id"] == "tiny"
    assert facts["model"]["embed_dim"] == offline.embed_dim
    assert facts["device"]["precision"] == "fp32"
    assert facts["device"]["self_check"]["passed"]
    assert facts["queue"]["image"]["items"] == 0
    assert facts["limits"]["queue_requests"] == 256
    assert str(offline.source).rpartition("/")[0] not in json.dumps(facts), "a path is shown"
    assert json_of(shared_server.get("/livez"))["status"] == "alive"
    assert json_of(shared_server.get("/readyz"))["status"] == "ready"


def test_metrics_are_named_as_prometheus_wants(shared_server):
    shared_server.post("/v1/similarity", json={"images": images(1), "texts": TEXTS[:1]})
    answer = shared_server.get("/metrics")
    done = subprocess.run(["promtool", "check", "metrics"], input=answer.content, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    for name in (
        'honeclip_requests_total{route="/v1/similarity",status="200"}',
        'honeclip_items_total{modality="image"}',
        'honeclip_cache_requests_total{result="miss"}',
        'honeclip_queue_depth{modality="text"}',
        'honeclip_stage_duration_seconds_bucket{le="0.001",modality="image",stage="decode"}',
        'honeclip_stage_duration_seconds_bucket{le="0.001",modality="image",stage="queue"}',
        'honeclip_stage_duration_seconds_bucket{le="0.001",modality="image",stage="forward"}',
        'honeclip_stage_duration_seconds_bucket{le="0.001",modality="all",stage="post"}',
        "honeclip_worker_last_progress_timestamp_seconds",
        'honeclip_device_memory_bytes{device="cpu",kind="held"}',
        "honeclip_model_info{",
    ):
        assert name in answer.text


def test_unknown_paths_make_no_labels(shared_server):
    for number in range(3):
        shared_server.get(f"/nothing/{number}")
    assert "/nothing" not in shared_server.get("/metrics").text
    until(lambda: shared_server.metric("honeclip_requests_total", route="other", status="404") >= 3)


def test_the_page_of_routes_needs_nothing_from_outside(shared_server):
    page = shared_server.get("/docs")
    assert "POST /v1/similarity/pairs" in page.text
    assert "<script" not in page.text
    assert "http://" not in page.text.replace(shared_server.url, "")
    assert "https://" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("name", ["CT_small.dcm", "JPEG2000.dcm"])
def test_a_dicom_file_is_embedded_as_it_is_offline(shared_server, offline, name):
    path = pydicom.data.get_testdata_file(name)
    with open(path, "rb") as file:  # noqa: PTH123
        content = file.read()
    given = json_of(shared_server.post("/v1/embeddings", json={"input": [{"image": b64(content)}]}))
    wanted = offline.encode_image([path]).numpy()[0]
    assert np.abs(np.array(given["data"][0]["embedding"]) - wanted).max() < 1e-5
