"""Several looks at each picture: one decoding, the embeddings of each look alone, broken pictures left out of all."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from honeclip.data.pairs import Member
from honeclip.embedding.embed import embed
from honeclip.embedding.looks import embed_looks
from honeclip.errors import DataError


@pytest.fixture
def look(clip):
    return lambda picture: [clip.preprocess.image(picture), clip.preprocess.image(ImageOps.mirror(picture))]


def test_the_first_look_is_what_embed_gives_and_the_second_that_of_changed_files(clip, look, pairs):
    rows = pairs([0, 1, 2, 1, 3], ["a", "b", "c", "b", "a"])
    plain = embed(clip, rows)
    one, other = embed_looks([clip, clip], look, rows, batch_size=2)
    torch.testing.assert_close(one.image, plain.image)
    assert torch.equal(one.text, plain.text)
    assert other.text is one.text
    for name in ("rows", "caption_of", "image_id", "file_of"):
        assert np.array_equal(getattr(one, name), getattr(plain, name))
        assert np.array_equal(getattr(other, name), getattr(plain, name))
    mirrored = clip.encode_image([ImageOps.mirror(Image.open(file)) for file in rows.images])
    torch.testing.assert_close(other.image, mirrored)


def test_every_distinct_picture_is_read_once(clip, look, pairs, tmp_path):
    rows = pairs([0, 1, 2, 1, 0])
    read: list[str] = []
    lock = threading.Lock()

    class Counted(Member):
        def read(self) -> bytes:
            with lock:
                read.append(self.name)
            return super().read()

    members = tuple(Counted(file, 0, file.stat().st_size, file.name) for file in rows.images)
    done: list[tuple[int, int]] = []
    embed_looks([clip, clip], look, replace(rows, images=members), progress=lambda *at: done.append(at))
    assert sorted(read) == ["0.png", "1.png", "2.png"]
    assert done[-1] == (3, 3)


def test_a_broken_picture_is_left_out_of_every_look(clip, look, pairs):
    rows = pairs([0, 1, 2])
    rows.images[1].write_bytes(b"")
    one, other = embed_looks([clip, clip], look, rows)
    assert one.rows.tolist() == other.rows.tolist() == [0, 2]
    assert "1.png (row 2 of pairs.csv): the file is empty" in one.failed[0]


def test_no_picture_at_all_is_an_error(clip, look, pairs):
    rows = pairs([0])
    rows.images[0].write_bytes(b"")
    with pytest.raises(DataError, match="none of the pictures can be read"):
        embed_looks([clip, clip], look, rows)
    with pytest.raises(DataError, match="no rows to embed"):
        embed_looks([clip, clip], look, rows.select([]))
