"""`bench serving`: a server under load, against what its model can do at most, in one run on one machine.

    cold_start                  seconds from the start of the process to readiness, and of each stage that the server measured
    images.clients.N            of N clients that ask for one image each, again and again: items per second, latency in ms
    images.best_per_second      the most of them
    images.saturation_clients   the fewest clients that reach 95 % of it
    images.bound_per_second     what the model computes at most, nothing decoded (`bench inference`), in this process
    images.ratio_to_bound       of the most clients; median of rounds in which the two take turns while the other is idle
    images.one_client_ratio     p50 of one client / (decoding + forward of one image, measured here)
    images.cached_ratio         p50 of one client with new images / with one that it asked for before
    images.equal_computed       items that the model computed for so many equal requests at once as there were clients
    images.steps, images.spike  open-loop load up to and over that (`endurance`)
    texts                       the same of texts
    soak                        both at once for a long time, where one is asked for (`endurance`)

Clients, files and bodies are in this process, which has the model for the bound too; it computes nothing while clients ask.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from honeclip.bench import clients, endurance, inference, material, server_process
from honeclip.bench.endurance import Capacity
from honeclip.bench.inference import Bound
from honeclip.bench.server_process import Running
from honeclip.errors import BadInput
from honeclip.model.clip import Clip
from honeclip.model.load import load

CLIENTS = (1, 2, 4, 8, 16, 32)
SECONDS, ROUNDS, FILES = 8.0, 3, 32
SATURATED = 0.95
CACHED_S = 2.0
"""Seconds of one request again and again: thousands of answers."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Side:
    """One modality: its bodies, its bound by batch size, and the seconds of one item without a server."""

    name: str
    modality: str
    bodies: Iterator[bytes]
    bound: Callable[[Sequence[int], int], Bound]
    alone_s: float


def run(
    model: str,
    data: str | None = None,
    *,
    ramp: Sequence[int] = CLIENTS,
    seconds: float = SECONDS,
    rounds: int = ROUNDS,
    soak: float = 0.0,
    precision: str = "fp32",
    device: str = "auto",
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Starts a server and measures it; see the top of this file for the figures.

    Args:
        model: any model source.
        data: a manifest whose pictures and captions are taken; None makes some.
        ramp: numbers of clients, the most last.
        seconds: of load for each of them.
        rounds: of load and bound in turn, for the ratio.
        soak: seconds of images and texts together at 0.8 of capacity; 0 for none.
        precision: of the server and of the bound.
        device: where both compute.
        say: called with a line for each thing that was measured.

    Raises:
        BadInput: a number that cannot be, or data without pictures or captions.
        HoneclipError: the server does not start or does not end.
    """
    if rounds < 1 or not ramp or min(ramp) < 1 or not seconds > 0:
        raise BadInput("--clients, --seconds and --rounds: every number is more than 0")
    if soak and soak < endurance.SHORTEST_S:
        raise BadInput(
            f"--soak {soak:g}: a slope needs {endurance.SHORTEST_S:g} s at least; 600 are usual, 0 leaves it out"
        )
    files, texts = material.jpegs(data, FILES), material.captions(data, FILES)
    figures: dict[str, Any] = {"model": model, "precision": precision}
    with server_process.running(model, device=device, precision=precision) as server:
        figures["cold_start"] = _cold_start(server)
        say(f"cold start {server.seconds:.1f} s")
        clip = load(
            model, device=device
        )  # behind the server: its start is measured on a machine that does nothing else
        sides = list(_sides(clip, files, texts, precision))
        for side in sides:
            figures[side.name] = _measured(server, side, sorted(ramp), seconds, rounds, say)
        if soak:
            say(f"soak: {soak:g} s at {endurance.SOAK} of capacity")
            both = {side.name: Capacity(side.bodies, figures[side.name]["best_per_second"]) for side in sides}
            figures["soak"] = endurance.soak(server, both, soak)
    return figures


def _sides(clip: Clip, files: Sequence[bytes], texts: Sequence[str], precision: str) -> Iterator[_Side]:
    def images(sizes: Sequence[int], rounds: int) -> Bound:
        return inference.image_bound(clip, files, sizes, precision=precision, rounds=rounds)

    def captions(sizes: Sequence[int], rounds: int) -> Bound:
        return inference.text_bound(clip, numbered, sizes, precision=precision, rounds=rounds)

    numbered = [f"{text} {place}" for place, text in enumerate(texts)]  # as the bodies have them
    decode = inference.timed(lambda: [clip.preprocess.image(file) for file in files], 3) / len(files)
    yield _Side("images", "image", clients.image_bodies(files), images, decode + 1 / images((1,), 5).per_second[1])
    if clip.preprocess.tokenizer is not None:
        tokenise = inference.timed(lambda: [clip.preprocess.texts([text]) for text in texts], 3) / len(texts)
        alone = tokenise + inference.text_alone(clip, numbered, precision=precision)
        yield _Side("texts", "text", clients.text_bodies(texts), captions, alone)


def _measured(
    server: Running, side: _Side, ramp: Sequence[int], seconds: float, rounds: int, say: Say
) -> dict[str, Any]:
    by_clients: dict[str, dict[str, float]] = {}
    for count in ramp:
        found = clients.load(server.url, side.bodies, count, seconds).to_json()
        by_clients[str(count)] = found
        say(f"{side.name}: {count} clients, {found['per_second']:.1f}/s, p50 {found['p50_ms']:.1f} ms")
    best = max(one["per_second"] for one in by_clients.values())
    size = side.bound(inference.BATCHES, 1).best[0]
    bounds, loads = [], []
    for _ in range(rounds):
        bounds.append(side.bound((size,), 2).per_second[size])
        loads.append(clients.load(server.url, side.bodies, ramp[-1], seconds).per_second)
    ratios = [load / bound for load, bound in zip(loads, bounds, strict=True)]
    say(f"{side.name}: {median(ratios):.2f} of the model's own {median(bounds):.1f}/s at batches of {size}")
    one = by_clients.get("1") or clients.load(server.url, side.bodies, 1, seconds).to_json()
    cached = clients.load(server.url, itertools.repeat(next(side.bodies)), 1, min(seconds, CACHED_S)).to_json()
    capacity = Capacity(side.bodies, best)
    stepped, spiked = endurance.steps(server, capacity, seconds), endurance.spike(server, capacity, seconds)
    say(f"{side.name}: {spiked['recovered_after_s']:.1f} s after a spike of three times that it is quick again")
    return {
        "clients": by_clients,
        "best_per_second": best,
        "saturation_clients": min(
            int(count) for count, at in by_clients.items() if at["per_second"] >= SATURATED * best
        ),
        "bound_per_second": median(bounds),
        "bound_batch": size,
        "ratio_to_bound": median(ratios),
        "ratio_to_bound_rounds": ratios,
        "one_client_p50_ms": one["p50_ms"],
        "alone_ms": side.alone_s * 1e3,
        "one_client_ratio": one["p50_ms"] / (side.alone_s * 1e3),
        "cached_p50_ms": cached["p50_ms"],
        "cached_ratio": one["p50_ms"] / cached["p50_ms"],
        **_equal(server, side, ramp[-1]),
        "steps": stepped,
        "spike": spiked,
    }


def _equal(server: Running, side: _Side, count: int) -> dict[str, int]:
    """What so many equal requests at once cost the model."""
    before = server.metric("honeclip_items_total", modality=side.modality)
    answers = clients.at_once(server.url, next(side.bodies), count)
    computed = server.metric("honeclip_items_total", modality=side.modality) - before
    return {"equal_requests": count, "equal_answered": answers.count(200), "equal_computed": round(computed)}


def _cold_start(server: Running) -> dict[str, float]:
    stages = {
        dict(labels)["stage"]: value
        for (name, labels), value in server.metrics().items()
        if name == "honeclip_start_duration_seconds"
    }
    return {"seconds": server.seconds, **stages}
