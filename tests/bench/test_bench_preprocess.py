"""`bench preprocess`: the pixels are open_clip's, shares are whole, and what cannot be is refused."""

from __future__ import annotations

import json

import pytest

from honeclip import __main__
from honeclip.bench import preprocess
from honeclip.errors import BadInput


def test_pixels_are_those_of_open_clip_and_the_shares_are_of_one_time(capsys):
    assert __main__._run(["bench", "preprocess", "--images", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["largest_difference"] == 0
    assert sum(found[f"{name}_share"] for name in ("decode", "resize", "tensor")) == pytest.approx(1)
    assert found["images_per_second"] > 0 < found["bare_per_second"]


def test_real_pictures_too(shared_data):
    assert preprocess.run(str(shared_data / "openstax_microbiology"), 4, 160, rounds=1)["largest_difference"] == 0


def test_no_pictures_are_no_bench():
    with pytest.raises(BadInput, match="--images 0"):
        preprocess.run(None, 0)
