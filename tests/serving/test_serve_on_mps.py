"""A server on the fake device under the rules of MPS: it answers what a CPU does, and only the device's thread computes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from live_server import Faults, images, picture

from honeclip.device.fake import FakeMps, RuleBroken, rules
from honeclip.serving import forward

THREAD = "honeclip-device"
TEXTS = ["a red circle", "a blue bar, number 7", "a green square"]


class Scarce(FakeMps):
    """Notes what is copied to it, and takes no more rows at once than there is room for."""

    def __init__(self) -> None:
        super().__init__()
        self.room: int | None = None
        self.rows: list[int] = []

    def copy(self, tensor):
        if tensor.ndim == 4:
            self.rows.append(len(tensor))
            if self.room is not None and len(tensor) > self.room:
                raise self.out_of_memory(tensor.nbytes)
        return super().copy(tensor)


def embeddings(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]])


def test_answers_under_the_rules_are_those_of_a_cpu(serve, offline):
    device, seeds = Scarce(), range(11)
    with rules(placed_only=True, thread=THREAD):
        server = serve(device=device)
        assert server.engine.loaded.precision.name == "fp16"
        given = [{"image": one} for one in images(*seeds)]
        with ThreadPoolExecutor(3) as pool:  # many at once, of both kinds: pools decode and tokenise beside the device
            asked = [
                pool.submit(server.post, "/v1/embeddings", json={"input": one}) for one in (given, TEXTS, given[:3])
            ]
            whole, texts, some = (embeddings(one.result()) for one in asked)
        similar = server.post("/v1/similarity", json={"images": images(0, 1), "texts": TEXTS})
        assert server.stop() == 0
    pictures = offline.encode_image([picture(seed) for seed in seeds]).numpy()
    captions = offline.encode_text(TEXTS).numpy()
    for ours, theirs in ((whole, pictures), (texts, captions), (some, pictures[:3])):
        assert (ours * theirs).sum(1) == pytest.approx(1, abs=1e-3)
    cosines = np.array(similar.json()["cosine"])
    assert cosines == pytest.approx(pictures[:2] @ captions.T, abs=2e-3)
    assert all(count & (count - 1) == 0 for count in device.rows), "each new shape is a graph that Metal keeps"


def test_where_metal_has_no_room_batches_are_halved(serve):
    device = Scarce()
    with rules(placed_only=True, thread=THREAD):
        server = serve(device=device)
        server.engine._queue.largest.update(image=8)  # what the warm-up measures on a busy machine is not known
        device.room = 2
        given = [{"image": one} for one in images(*range(100, 108))]
        assert len(embeddings(server.post("/v1/embeddings", json={"input": given}))) == 8
        assert server.engine.facts()["queue"]["image"]["largest_batch"] <= 2
        assert server.metric("honeclip_out_of_memory_total", modality="image") >= 1
        assert server.stop() == 0
    assert device.emptied > 0


def test_a_breach_in_a_server_is_seen(serve):
    """So that the tests above say something."""

    class Double(Faults):
        def __call__(self, clip, precision, modality, rows):
            return forward.embed(clip, precision, modality, rows) + clip.device.copy(rows).double().sum().cpu()

    with pytest.raises(RuleBroken, match="^rule 5: "), rules(placed_only=True, thread=THREAD):
        serve(device=FakeMps(), faults=Double())


def test_a_call_beside_the_device_thread_without_its_lock_is_seen(serve):
    class Beside(Faults):
        """Copies in a thread of its own."""

        def __call__(self, clip, precision, modality, rows):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(lambda: clip.device.copy(rows) * 2).result()
            return forward.embed(clip, precision, modality, rows)

    with pytest.raises(RuleBroken, match="^rule 7: "), rules(placed_only=True, thread=THREAD):
        serve(device=FakeMps(), faults=Beside())
