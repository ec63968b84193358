"""What a server allows and for how long it waits: every limit of `honeclip serve`, in one place."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Limits and times; the defaults suit one machine under a desk.

    Attributes:
        queue_requests: most requests that wait for the device or are computed; one more gets 429.
        queue_bytes: most bytes of decoded inputs that wait; beyond it 429.
        body_bytes: most bytes of one request; beyond it 413.
        held_bytes: most bytes of the requests that are being read or answered, together; beyond it 429.
        image_bytes: most bytes of one image file; beyond it 413.
        pixels: most pixels of one image, by its header; beyond it 413.
        images: most images of a request.
        texts: most texts or labels of a request.
        inputs: most inputs of `/v1/embeddings`, as OpenAI allows, and most pairs.
        cells: most numbers in an answer (images x texts).
        text_characters: most characters of one text.
        deadline_s: seconds from a request's arrival to 504; a client may ask for less.
        body_s: seconds within which a request's head, and then its body, must have arrived; beyond it 408.
        send_s: seconds that a client may leave a part of the answer unread.
        stuck_s: seconds after which a batch counts as stuck: 503 for whoever waits; more where warm-up was slow.
        exit_s: seconds after which a stuck batch ends the process with `EXIT_STUCK`.
        drain_s: seconds in which requests may finish after SIGTERM.
        idle_s: seconds without work after which memory goes back, and a model that failed is tried again.
        canary_s: seconds without work after which a canary is computed.
        warm_up_s: seconds for measuring batch sizes, both modalities together.
        high_water: share of `queue_requests` from which on the server says that it is not ready.
        cache_bytes: of embeddings in memory.
        cache_ttl_s: seconds that an embedding is kept.
    """

    queue_requests: int = 256
    queue_bytes: int = 512 * MIB
    body_bytes: int = 32 * MIB
    held_bytes: int = 512 * MIB
    image_bytes: int = 20 * MIB
    pixels: int = 50_000_000
    images: int = 256
    texts: int = 10_000
    inputs: int = 2048
    cells: int = 200_000
    text_characters: int = 20_000
    deadline_s: float = 30.0
    body_s: float = 20.0
    send_s: float = 60.0
    stuck_s: float = 20.0
    exit_s: float = 60.0
    drain_s: float = 30.0
    idle_s: float = 10.0
    canary_s: float = 60.0
    warm_up_s: float = 20.0
    high_water: float = 0.9
    cache_bytes: int = 256 * MIB
    cache_ttl_s: float = 3600.0


EXIT_STUCK = 75
"""EX_TEMPFAIL of sysexits.h: launchd, systemd and compose start the process again. A thread inside a call that never returns
can be neither ended nor replaced."""
