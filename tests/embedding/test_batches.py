"""Pictures decoded ahead of the model: in order, never far ahead, broken ones with their reasons."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from honeclip.data.pairs import Member
from honeclip.embedding.batches import decoded, tokenised


def test_pictures_come_in_order_with_the_pixels_of_the_preprocessing(clip, photo):
    files = [photo(f"{number}.png", number) for number in range(7)]
    found = list(decoded(files, clip.preprocess, 3))
    assert [numbers for numbers, _, _ in found] == [[0, 1, 2], [3, 4, 5], [6]]
    pixels = torch.cat([part for _, part, _ in found])
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, torch.stack([clip.preprocess.image(file) for file in files]))


def test_a_picture_in_an_archive(clip, photo, tmp_path):
    content = photo("a.png", 1).read_bytes()
    (tmp_path / "archive").write_bytes(b"before" + content + b"after")
    member = Member(tmp_path / "archive", 6, len(content), "archive/a.png")
    ((numbers, pixels, bad),) = decoded([member], clip.preprocess, 4)
    assert (numbers, bad) == ([0], {})
    assert torch.equal(pixels[0], clip.preprocess.image(tmp_path / "a.png"))


def test_broken_ones_have_reasons_and_the_rest_pixels(clip, photo, tmp_path):
    files = [photo("a.png", 1), tmp_path / "missing.png", photo("c.png", 3)]
    (tmp_path / "cut.png").write_bytes(files[0].read_bytes()[:50])
    found = list(decoded([*files, tmp_path / "cut.png"], clip.preprocess, 2))
    assert [(numbers, sorted(bad)) for numbers, _, bad in found] == [([0], [1]), ([2], [3])]
    assert all(reason for _, _, bad in found for reason in bad.values())
    assert next(iter(decoded(files[1:2], clip.preprocess, 2)))[1] is None


def test_no_more_than_two_batches_are_decoded_ahead(clip, photo):
    """The pictures after them are not even opened, however long the model takes."""
    opened: list[int] = []
    lock = threading.Lock()
    content = photo("a.png", 0).read_bytes()

    class Counted(Member):
        def read(self) -> bytes:
            with lock:
                opened.append(self.offset)
            return content

    refs = [Counted(Path("archive"), number, 1, str(number)) for number in range(20)]
    for turn, (numbers, _, _) in enumerate(decoded(refs, clip.preprocess, 2)):
        assert numbers == [2 * turn, 2 * turn + 1]
        assert max(opened) < 2 * turn + 4
    assert sorted(opened) == list(range(20))


def test_tokens_of_texts_alike_in_length(clip):
    texts = ["long " * 20, "a", "two words", "long " * 21, "b"]
    found = list(tokenised(clip, texts, 2))
    assert [sorted(numbers) for numbers, _ in found] == [[1, 4], [0, 2], [3]]
    assert sorted(number for numbers, _ in found for number in numbers) == list(range(5))
    whole = clip.preprocess.texts(texts)
    for numbers, tokens in found:
        assert torch.equal(tokens, whole[numbers][:, : tokens.shape[1]])
    assert found[0][1].shape[1] < found[1][1].shape[1], "short texts have little padding"
