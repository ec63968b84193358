"""The config: precedence, every fault at once with its origin and the nearest key, and a description of every key."""

from __future__ import annotations

import json
import tomllib

import pytest
import tomli_w

from honeclip import config as configs
from honeclip.errors import ConfigError


def test_a_set_goes_before_options_and_options_before_the_file(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("[train]\nbatch = 8\nseed = 1\nlr = 0.1\n")
    found = configs.load(file, ["train.batch=32"], {"train": {"batch": 16, "seed": 2}})
    assert (found.train.batch, found.train.seed, found.train.lr) == (32, 2, 0.1)
    assert found.train.weight_decay == 0.1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.length=3 epochs", "3 epochs"),
        ('train.length="3 epochs"', "3 epochs"),
        ("train.length=40", 40),
        ("train.length= 40 ", 40),
    ],
)
def test_a_set_is_toml_or_else_a_bare_string(text, value):
    assert configs.load(sets=[text]).train.length == value


def test_every_fault_at_once_with_its_origin_and_the_way_out(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("[train]\nbatch = 0\n[dta]\npath = 'x'\n")
    with pytest.raises(ConfigError) as error:
        configs.load(file, ["train.lrr=1", "train.lr=abc", "loss.kind=infonse", "nonsense"])
    said = str(error.value)
    assert f"train.batch = 0: Input should be greater than or equal to 1 (from {file})" in said
    assert "dta: no such section" in said
    assert "train.lrr: unknown key (from --set train.lrr=1); nearest: train.lr" in said
    assert "train.lr = 'abc'" in said
    assert "'infonce' or 'siglip'" in said
    assert "write section.key=value" in said
    assert len(said.splitlines()) == 6


@pytest.mark.parametrize(
    "text",
    [
        "train.batch=true",
        'train.batch="8"',
        "train.batch=-3",
        "train.length=soon",
        "train.length=10%",
        "train.length=0",
        "train.length=0 min",
        "train.lr=inf",
        "train.lr=0",
        "train.grad_clip=nan",
        "memory.budget_gb=inf",
        "train.warmup=110%",
        "data.max_bad_fraction=2",
        "memory.budget_gb=0",
        "resolution.stages=0",
    ],
)
def test_wrong_values_are_refused(text):
    with pytest.raises(ConfigError, match=text.partition("=")[0]):
        configs.load(sets=[text])


@pytest.mark.parametrize("content", ["[train\n", "[train]\nbatch = \n"])
def test_a_damaged_or_missing_file_is_named(tmp_path, content):
    file = tmp_path / "a.toml"
    file.write_text(content)
    for path in (file, tmp_path / "gone.toml"):
        with pytest.raises(ConfigError, match=str(path)):
            configs.load(path)


def test_every_key_is_described_with_its_default():
    said = configs.describe()
    for key, default in configs.keys().items():
        line = next(line for line in said.splitlines() if line.startswith(f"{key} = "))
        shown = str(default).lower() if not isinstance(default, str | tuple) else json.dumps(default)
        assert line.startswith(f"{key} = {shown}: ") or default == {}
        assert len(line.partition(": ")[2]) > 10


def test_what_is_written_is_read_back():
    config = configs.load(sets=["train.batch=7", "data.columns={image='photo'}"])
    assert configs.load(values=tomllib.loads(tomli_w.dumps(config.model_dump()))) == config


def test_differences_name_the_keys():
    old, new = configs.load(), configs.load(sets=["train.lr=0.1", "model.freeze=none"])
    assert configs.differences(old, new) == {"train.lr": ("auto", 0.1), "model.freeze": ("auto", "none")}
    assert configs.differences(old, old) == {}
