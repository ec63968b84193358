"""`bench loss`: the memory that the tiled loss promises, and what the command prints."""

from __future__ import annotations

import json

import pytest

from honeclip import __main__
from honeclip.bench import loss
from honeclip.losses.tiles import TILE_BYTES

BATCH, DIM = 4096, 64
GRADIENTS = 2 * BATCH * DIM * 4
MATRIX = BATCH * BATCH * 4


def test_the_tiled_loss_holds_gradients_and_a_few_tiles():
    found = loss.run(BATCH, DIM, 128, device="cpu", rounds=1)
    tile = 128 * BATCH * 4
    assert GRADIENTS < found["extra_memory_bytes"] <= GRADIENTS + 5 * tile
    assert found["peak_memory_bytes"] == found["extra_memory_bytes"] + GRADIENTS
    assert found["seconds"] > 0


def test_its_own_choice_of_tile_is_bounded_and_the_plain_loss_is_not():
    assert loss.run(BATCH, DIM, device="cpu", rounds=1)["extra_memory_bytes"] <= GRADIENTS + 5 * TILE_BYTES
    assert loss.run(BATCH, DIM, 0, device="cpu", rounds=1)["extra_memory_bytes"] > 3 * MATRIX


def test_the_command_prints_one_json_object(capsys):
    assert __main__._run(["bench", "loss", "--batch", "64", "--dim", "8", "--device", "cpu", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"seconds", "peak_memory_bytes", "extra_memory_bytes"}
    assert __main__._run(["bench", "loss", "--batch", "64", "--dim", "8", "--device", "cpu"]) == 0
    assert "MB" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--batch", "1"], ["--dim", "0"], ["--tile", "-1"]])
def test_what_cannot_be_is_bad_input(arguments, capsys):
    assert __main__._run(["bench", "loss", "--device", "cpu", *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err
