"""A data set through a model: the same embeddings as one by one, each distinct thing once, and what can go wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from honeclip.embedding.embed import embed, embed_texts
from honeclip.embedding.features import caches
from honeclip.errors import DataError, HoneclipError, MemoryExhausted, NonFiniteError
from honeclip.preprocess.rules import TextHow

MPS = RuntimeError(
    "MPS backend out of memory (MPS allocated: 5.44 GB, other allocations: 3.31 GB, max allowed: 9.07 GB). Tried to "
    "allocate 512.00 MB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory "
    "allocations (may cause system failure)."
)
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "400000000000 bytes. Error code 12 (Cannot allocate memory)"
)


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return bool((first - second).abs().max() < 1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_embeddings_are_those_of_the_model(clip, pairs, cached):
    of = pairs(range(7))
    found = embed(clip, of, features=caches(clip) if cached else None)
    assert close(found.image, clip.encode_image(of.images))
    assert close(found.text, clip.encode_text(list(found.captions)))
    assert found.image.dtype == found.text.dtype == torch.float32
    assert torch.allclose(found.image.norm(dim=1), torch.ones(7), atol=1e-5)
    assert found.captions == of.captions
    assert found.rows.tolist() == list(range(7))
    assert found.seconds > 0
    assert not found.image.requires_grad


@pytest.mark.parametrize("cached", [False, True])
def test_a_model_in_double_precision_gives_the_same(clip, pairs, cached):
    of = pairs(range(3))
    single = embed(clip, of)
    clip.model.double()
    found = embed(clip, of, features=caches(clip) if cached else None)
    assert found.image.dtype == found.text.dtype == torch.float32
    assert close(found.image, single.image)
    assert close(found.text, single.text)


def test_equal_pictures_and_captions_go_through_once(clip, pairs, counting):
    of = pairs([3, 5, 3, 3, 6, 5], captions=["one", "two", "one", "two", "three", "four"])
    with counting(clip) as seen:
        found = embed(clip, of)
    assert (sum(seen.images), sum(seen.texts)) == (3, 4)
    assert found.captions == ("one", "two", "three", "four")
    assert found.caption_of.tolist() == [0, 1, 0, 1, 2, 3]
    assert found.image_id.tolist() == [3, 5, 3, 3, 6, 5]
    assert torch.equal(found.image[0], found.image[2])
    assert torch.equal(found.image[1], found.image[5])
    assert not torch.equal(found.image[0], found.image[1])


def test_rows_that_name_one_file_are_known(clip, pairs):
    of = pairs([3, 3, 4, 3], captions=list("abcd"), files=[0, 0, 1, 2])
    assert embed(clip, of).file_of.tolist() == [0, 0, 1, 2]


def test_the_size_of_the_batches_changes_nothing(clip, pairs, counting):
    of = pairs(range(9), captions=["word " * (row + 1) for row in range(9)])
    whole = embed(clip, of)
    with counting(clip) as seen:
        parts = embed(clip, of, batch_size=2)
    assert max(seen.images) == 2
    assert max(seen.texts) == 8
    assert close(whole.image, parts.image)
    assert close(whole.text, parts.text)


@pytest.mark.parametrize("cached", [False, True])
def test_a_room_that_is_set_bounds_what_goes_through_at_once(clip, pairs, counting, cached):
    of = pairs(range(9), captions=["word " * (row + 1) for row in range(9)])
    whole = embed(clip, of)
    for room_bytes, at_most in ((0, 1), (10**12, 64)):
        narrow = replace(clip, room_bytes=room_bytes)
        embed(narrow, of)  # what a row needs is measured here, which the watch below would see
        known = (
            replace(caches(clip), image=f"image-room-{room_bytes}", text=f"text-room-{room_bytes}") if cached else None
        )
        with counting(narrow) as seen:
            parts = embed(narrow, of, features=known)
        assert max(seen.images) == min(at_most, 9)
        assert max(seen.texts) == min(at_most, 9)
        assert close(whole.image, parts.image)
        assert close(whole.text, parts.text)


def test_texts_come_back_in_their_order(clip):
    texts = ["long " * 12, "a", "middle words", "", "long " * 12]
    found = embed_texts(clip, texts, batch_size=2)
    assert close(found, torch.cat([clip.encode_text([text]) for text in texts]))


# --- what cannot be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
def test_a_broken_picture_fails_alone(clip, pairs, cached):
    of = pairs(range(6))
    whole = embed(clip, of)
    of.images[2].write_bytes(of.images[2].read_bytes()[:60])
    of.images[4].unlink()
    found = embed(clip, of, features=caches(clip) if cached else None, batch_size=2)
    assert found.rows.tolist() == [0, 1, 3, 5]
    assert close(found.image, whole.image[[0, 1, 3, 5]])
    assert found.captions == tuple(of.captions[row] for row in (0, 1, 3, 5))
    assert found.caption_of.tolist() == [0, 1, 2, 3]
    assert len(found.failed) == 2
    assert found.failed[0].startswith("2.png (row 3 of pairs.csv): ")
    assert found.failed[1].startswith("4.png (row 5 of pairs.csv): ")


def test_none_that_can_be_read_is_an_error(clip, pairs):
    of = pairs(range(3))
    for image in of.images:
        image.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the pictures can be read: 0\.png \(row 1 of pairs\.csv\)"):
        embed(clip, of)


def test_no_rows_is_an_error(clip, pairs):
    with pytest.raises(DataError, match="no rows to embed"):
        embed(clip, pairs(range(2)).select([]))


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("error", [MPS, CUDA, CPU, MemoryError()], ids=["MPS", "CUDA", "CPU", "Python"])
def test_a_batch_that_does_not_fit_is_halved(clip, pairs, crowded, counting, error, cached):
    of = pairs(range(6))
    whole = embed(clip, of)
    crowded(clip.model.visual.transformer, 2, error)
    crowded(clip.model.transformer, 3, error)
    with counting(clip) as seen:
        found = embed(clip, of, features=caches(clip) if cached else None)
    assert close(found.image, whole.image)
    assert close(found.text, whole.text)
    assert seen.images == [6, 3, 1, 2, 3, 1, 2], "the whole, its half, and half of that"
    assert seen.texts == [6, 3, 3]


def test_one_row_that_does_not_fit_ends_it(clip, pairs, crowded):
    crowded(clip.model.visual.transformer, 0, MPS)
    with pytest.raises(MemoryExhausted, match=r"one row of shape \(3, 32, 32\) does not fit into memory: MPS backend"):
        embed(clip, pairs(range(2)))


def test_another_error_is_not_swallowed(clip, pairs, crowded, counting):
    crowded(clip.model.visual.transformer, 1, RuntimeError("shape mismatch"))
    with counting(clip) as seen, pytest.raises(RuntimeError, match="shape mismatch"):
        embed(clip, pairs(range(4)))
    assert seen.images == [4]


# --- the model is left as it was ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_keeps_its_mode_and_no_gradient_is_left(clip, pairs, crowded, fails):
    clip.model.train()
    clip.model.visual.transformer.eval()
    before = [module.training for module in clip.model.modules()]
    if fails:
        crowded(clip.model.visual.transformer, 0, MPS)
        with pytest.raises(HoneclipError):
            embed(clip, pairs(range(2)))
    else:
        embed(clip, pairs(range(2)))
    assert [module.training for module in clip.model.modules()] == before
    assert torch.is_grad_enabled()
    assert all(one.grad is None for one in clip.model.parameters())


def test_dropout_is_off_while_embedding(clip, pairs):
    clip.model.visual.transformer.resblocks[0].mlp.append(torch.nn.Dropout(0.9))
    clip.model.train()
    of = pairs(range(3))
    assert torch.equal(embed(clip, of).image, embed(clip, of).image)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_embeddings_that_are_not_finite_are_an_error(clip, pairs, tower):
    layer = clip.model.visual.ln_post if tower == "image" else clip.model.ln_final
    with torch.no_grad():
        layer.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=f"the {tower} tower of random:honeclip-embedding gives NaN"):
        embed(clip, pairs(range(2)))


def test_progress_counts_distinct_pictures(clip, pairs):
    of = pairs([0, 1, 2, 1, 3, 4])
    of.images[2].write_bytes(b"")
    said: list[tuple[int, int]] = []
    embed(clip, of, batch_size=2, progress=lambda done, total: said.append((done, total)))
    assert said == [(2, 5), (4, 5), (5, 5)]


def test_embeddings_do_not_depend_on_the_rest_of_the_data(clip, pairs):
    of = pairs(range(8))
    whole = embed(clip, of)
    some = embed(clip, of.select(np.array([6, 1])))
    assert close(some.image, whole.image[[6, 1]])
    assert some.captions == (of.captions[6], of.captions[1])


# --- texts that are too long -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
def test_a_long_text_is_the_mean_of_its_windows_where_the_field_says_so(clip, pairs, cached):
    long = "A red star is here. Its light is old and far away. Dust hides the rest of it from us."
    short = "A red star is here."
    averaging = replace(clip, preprocess=replace(clip.preprocess, text=TextHow(long="windows")))
    pieces = averaging.preprocess.pieces([long, short])
    assert len(pieces[0]) > 1
    assert pieces[1] == [short]
    known = caches(averaging) if cached else None
    found = embed_texts(averaging, [long, short], features=known)
    mean = clip.encode_text(pieces[0]).double().mean(0)
    assert close(found[0], (mean / mean.norm()).float())
    assert close(found[1], clip.encode_text([short])[0])
    assert close(averaging.encode_text([long, short]), found)
    assert not close(found[0], clip.encode_text([long])[0]), "without the rule a text is cut"
