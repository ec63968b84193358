"""Where things live: HONECLIP_HOME decides, nothing is made by asking, and sizes count files once."""

from __future__ import annotations

from pathlib import Path

import pytest

from honeclip import places


def test_home_is_the_variable_or_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HONECLIP_HOME", str(tmp_path / "own"))
    assert places.home() == tmp_path / "own"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HONECLIP_HOME", "~/own")
    assert places.home() == tmp_path / "own"
    for value in ("", None):
        monkeypatch.delenv("HONECLIP_HOME") if value is None else monkeypatch.setenv("HONECLIP_HOME", value)
        assert places.home() == Path.home() / ".cache" / "honeclip"


@pytest.mark.parametrize("name", ["features", "inspections", "shards", "domains"])
def test_everything_of_ours_lies_in_home_and_asking_makes_nothing(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HONECLIP_HOME", str(tmp_path / "own"))
    assert getattr(places, name)() == tmp_path / "own" / name
    assert not (tmp_path / "own").exists()


def test_the_hubs_cache_is_the_hubs_own():
    from huggingface_hub import constants

    assert places.models() == Path(constants.HF_HUB_CACHE)


def test_sizes_count_files_once_and_links_not_at_all(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"x" * 100)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 23)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "one")
    assert places.size_bytes(tmp_path / "a") == 123
    assert places.size_bytes(tmp_path / "gone") == 0
    assert places.size_bytes(tmp_path / "a" / "one") == 0
