"""Features of frozen bodies: computed once, kept by content, and never mistaken for those of another body."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from honeclip import places
from honeclip.embedding import features as module
from honeclip.embedding.embed import embed
from honeclip.embedding.features import Features, caches, distinct, image_features, text_features
from honeclip.errors import DataError
from honeclip.model import towers
from honeclip.preprocess.rules import TextHow


def parts(cache: str):
    return sorted((places.features() / cache).glob("part-*.safetensors"))


def plain_images(clip, of) -> torch.Tensor:
    """Through the body, one picture at a time."""
    tower = towers.image_tower(clip)
    mean, std = (torch.tensor(values)[:, None, None] for values in (clip.preprocess.mean, clip.preprocess.std))
    with torch.no_grad():
        return torch.cat([tower.body((clip.preprocess.image(one) / 255 - mean)[None] / std) for one in of.images])


def test_features_are_what_the_bodies_give(clip, pairs):
    of = pairs([4, 5, 4, 6], captions=["one", "two words", "one", "three"])
    assert (image_features(clip, of) - plain_images(clip, of)).abs().max() < 1e-5
    tower = towers.text_tower(clip)
    with torch.no_grad():
        expected = torch.cat([tower.body(clip.preprocess.texts([text])) for text in of.captions])
    assert (text_features(clip, of.captions) - expected).abs().max() < 1e-5


def test_heads_turn_features_into_embeddings(clip, pairs):
    of = pairs(range(5))
    with torch.no_grad():
        image = towers.image_tower(clip).head(image_features(clip, of))
        text = towers.text_tower(clip).head(text_features(clip, of.captions))
    direct = embed(clip, of)
    assert (torch.nn.functional.normalize(image, dim=-1) - direct.image).abs().max() < 1e-5
    assert (torch.nn.functional.normalize(text, dim=-1) - direct.text).abs().max() < 1e-5


def test_the_second_time_nothing_is_computed(clip, pairs, counting):
    of = pairs([4, 5, 4, 6])
    with counting(clip) as seen:
        first = image_features(clip, of), text_features(clip, of.captions)
    assert (sum(seen.images), sum(seen.texts)) == (3, 3)
    with counting(clip) as seen:
        second = image_features(clip, of), text_features(clip, of.captions)
        found = embed(clip, of, features=caches(clip))
    assert (seen.images, seen.texts) == ([], [])
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True)), "to the last bit"
    assert (found.image - embed(clip, of).image).abs().max() < 1e-5


def test_only_what_is_new_is_computed_in_any_order(clip, pairs, counting):
    few, many = pairs([1, 2, 3]), pairs([5, 3, 1, 4, 2, 5])
    known = image_features(clip, few), text_features(clip, few.captions)
    with counting(clip) as seen:
        image, text = image_features(clip, many), text_features(clip, many.captions)
    assert (sum(seen.images), sum(seen.texts)) == (2, 2)
    assert torch.equal(image[[2, 4, 1]], known[0])
    assert torch.equal(text[[2, 4, 1]], known[1])
    assert torch.equal(image[0], image[5])


def test_captions_that_clean_up_to_the_same_are_one(clip, counting):
    with counting(clip) as seen:
        found = text_features(clip, ["a  cat", "a cat", " a\tcat "])
    assert sum(seen.texts) == 1
    assert torch.equal(found[0], found[2])


def test_renamed_pictures_are_known_by_their_content(clip, pairs, counting):
    of = pairs([1, 2])
    image_features(clip, of)
    moved = tuple(image.rename(image.with_name(f"moved-{image.name}")) for image in of.images)
    with counting(clip) as seen:
        image_features(clip, replace(of, images=moved))
    assert seen.images == []


# --- the name of a cache ------------------------------------------------------------------------------------------


def test_another_weight_is_another_cache(clip):
    before = caches(clip)
    with torch.no_grad():
        clip.model.visual.transformer.resblocks[1].mlp.c_fc.weight[0, 0] += 1e-6
    after = caches(clip)
    assert before.image != after.image
    assert before.text == after.text
    with torch.no_grad():
        clip.model.transformer.resblocks[0].ln_1.bias[3] += 1e-6
    assert caches(clip).text != before.text


def test_a_head_is_no_part_of_a_cache(clip):
    before = caches(clip)
    with torch.no_grad():
        clip.model.visual.proj.mul_(2)
        clip.model.text_projection.mul_(2)
        clip.logit_scale.add_(1)
    assert caches(clip) == before


def test_other_preprocessing_is_another_cache(clip):
    before = caches(clip)
    clip.preprocess = replace(clip.preprocess, resize="squash")
    assert caches(clip).image != before.image
    assert caches(clip).text == before.text
    clip.preprocess = replace(clip.preprocess, mean=(0.1, 0.2, 0.3))
    assert len({caches(clip).image, before.image}) == 2


def test_another_config_is_another_cache(clip):
    before = caches(clip)
    clip.config["quick_gelu"] = True
    assert caches(clip).image != before.image


def test_the_same_model_has_the_same_caches(clip, tiny):
    assert caches(clip) == caches(tiny)
    assert caches(clip, text=False) == Features(image=caches(clip).image)
    assert caches(clip).image.startswith("image-")


# --- damage and interruption --------------------------------------------------------------------------------------


def test_a_damaged_part_is_computed_again(clip, pairs, counting, caplog):
    of, cache = pairs(range(6)), caches(clip).image
    first = image_features(clip, of, cache=cache)
    (part,) = parts(cache)
    part.write_bytes(part.read_bytes()[:-1] + b"\x7f")
    with counting(clip) as seen:
        second = image_features(clip, of, cache=cache)
    assert sum(seen.images) == 6
    assert torch.equal(first, second)
    assert "damaged part" in caplog.text
    with counting(clip) as seen:
        image_features(clip, of, cache=cache)
    assert seen.images == [], "it was stored anew"


def test_an_interrupted_run_goes_on_where_it_was(clip, pairs, counting, crowded, monkeypatch):
    monkeypatch.setattr(module, "PART_ROWS", 4)
    of, cache = pairs(range(10)), caches(clip).image
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        image_features(clip, of, cache=cache, batch_size=2, progress=stop)
    with counting(clip) as seen:
        found = image_features(clip, of, cache=cache, batch_size=2)
    assert 2 <= sum(seen.images) <= 6, "what had been stored is not computed again"
    assert (found - plain_images(clip, of)).abs().max() < 1e-5
    assert calls > 1


def test_a_picture_that_became_unreadable_is_named(clip, pairs):
    of = pairs(range(4))
    of.images[1].unlink()
    of.images[3].write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.png \(row 2 of pairs\.csv\).*\n.*3\.png \(row 4") as caught:
        image_features(clip, of)
    assert "became unreadable since the data was checked" in str(caught.value)


def test_a_cache_that_cannot_be_kept_costs_no_result(clip, pairs, tmp_path, caplog):
    (tmp_path / "home").write_text("a file where the folder should be")
    of = pairs(range(3))
    assert (image_features(clip, of) - plain_images(clip, of)).abs().max() < 1e-5
    assert "features are not kept" in caplog.text


def test_progress_starts_at_what_is_known(clip, pairs):
    image_features(clip, pairs(range(4)))
    said: list[tuple[int, int]] = []
    image_features(clip, pairs(range(6)), batch_size=1, progress=lambda done, total: said.append((done, total)))
    assert said == [(4, 6), (5, 6), (6, 6)]


def test_distinct_is_the_first_row_of_each_in_their_order():
    first, place = distinct(np.array([7, 3, 7, 9, 3, 1]))
    assert first.tolist() == [0, 1, 3, 5]
    assert place.tolist() == [0, 1, 0, 2, 1, 3]


def test_features_of_captions_are_kept_by_their_words_after_the_text_rules(clip, counting):
    how = TextHow(("units",), replace=(("gap", "gap gap"),))  # the last changes its own result again
    plain = caches(clip).text
    clip.preprocess = replace(clip.preprocess, text=how)
    captions = ["a gap of 0,05mm", "a rib", "a gap of 0.05 mm"]
    with counting(clip) as seen:
        found = text_features(clip, captions)
    assert sum(seen.texts) == 2
    assert caches(clip).text != plain
    with torch.no_grad():
        expected = torch.cat([towers.text_tower(clip).body(clip.preprocess.texts([text])) for text in captions])
    assert (found - expected).abs().max() < 1e-5
    assert torch.equal(found[0], found[2])
    with counting(clip) as seen:
        assert torch.equal(text_features(clip, captions[::-1]), found[[2, 1, 0]])
    assert seen.texts == []
