"""`resolution.stages` as it may be written, and what is said of what may not."""

from __future__ import annotations

import math
import tomllib

import pytest
import tomli_w

from honeclip import config as configs
from honeclip.errors import ConfigError
from honeclip.sizes import SizeStage


def read(stages):
    return configs.load(None, [], {"resolution": {"stages": stages}}).resolution.stages


def test_the_forms_in_which_sizes_may_be_given():
    assert read("native") == "native"
    assert read(160) == 160
    assert read([[0.0, 160], [0.6, 224]]) == (SizeStage(at=0.0, size=160), SizeStage(at=0.6, size=224))
    rows = read(
        [{"at": 0, "size": 96, "patch_dropout": 0.5}, {"at": 0.6, "size": 224, "lr_scale": 0.5, "warmup": "5%"}]
    )
    assert (rows[0].patch_dropout, rows[1].lr_scale, rows[1].warmup, rows[1].weight_decay) == (0.5, 0.5, "5%", "same")
    climbing = read([[0, 96], {"at": "plateau", "size": 160}, {"at": "plateau", "size": 224, "plateau": 3}])
    assert [row.plateau for row in climbing] == [0, 2, 3]
    assert configs.load(sets=["resolution.stages=[[0,96],[0.4,160]]"]).resolution.stages == read([[0, 96], [0.4, 160]])


@pytest.mark.parametrize("stages", [[[0, 96], [0.4, 160]], [{"at": 0, "size": 96}, {"at": "plateau", "size": 160}]])
def test_what_is_written_to_the_run_folder_is_read_back(stages):
    config = configs.load(None, [], {"resolution": {"stages": stages}})
    assert configs.load(values=tomllib.loads(tomli_w.dumps(config.model_dump()))) == config


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("large", "'large' is no size: give native, auto"),
        (0, "greater than or equal to 1"),
        (True, "True is no size"),
        (160.5, "160.5 is no size"),
        ([], "is no size"),
        ([160], "row 1"),
        ([[0.0, 96], [0.5]], r"row 2, \[0\.5\]: write \[share of the run, pixels\]"),
        ([[0.0, 96], [0.5, 160], [0.4, 224]], r"the shares .* must begin at 0\.0, rise, and stay below 1"),
        ([[0.0, 96], [0.5, 160], [0.5, 224]], "must begin at"),
        ([[0.1, 96], [0.5, 160]], "must begin at"),
        ([[0.0, 96], [1.0, 160]], "must begin at"),
        ([[0.0, 96], [math.nan, 160]], "must begin at"),
        ([[0.0, 96], [0.5, 0]], "row 2: size = 0: .*greater than or equal to 1"),
        ([[0.0, 96], [0.5, "160"]], "row 2: size = '160'"),
        ([["0", 96]], "row 1: at = '0': a share of the run, or \"plateau\""),
        (
            [{"at": 0.0, "size": 96, "learning_rate": 1}],
            "row 1: learning_rate = 1: no such key; a row has at, size, lr_scale",
        ),
        ([{"size": 96}], "row 1: at = .*: missing"),
        ([{"at": 0, "size": 96, "strength": 2}], "row 1: strength = 2: .*less than or equal to 1"),
        ([{"at": 0, "size": 96, "warmup": "soon"}], "row 1: warmup = 'soon': 'soon' is no duration"),
        ([{"at": 0, "size": 96, "weight_decay": -0.1}], "row 1: weight_decay = -0.1: -0.1 is no weight decay"),
        ([{"at": 0, "size": 96, "patch_dropout": 1.0}], "row 1: patch_dropout"),
        (
            [{"at": 0, "size": 96, "patch_dropout": 0.5}],
            "patch_dropout = 0.5 in the last row: a run ends on whole images",
        ),
        ([{"at": "plateau", "size": 96}], "the first at 0.0, and all others"),
        ([[0, 96], {"at": "plateau", "size": 160}, [0.5, 224]], "the first at 0.0, and all others"),
        ([[0, 96], {"at": 0.5, "size": 160, "plateau": 3}], 'row 2: plateau = 3 goes with at = "plateau"'),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_words(stages, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read(stages)
    assert "resolution.stages = " in str(caught.value)
    assert caught.value.exit_code == 2
