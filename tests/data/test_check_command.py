"""`honeclip check` and `honeclip prepare` as a person meets them: output, exit codes, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from honeclip import __main__
from honeclip.checkpoint.save import RunState, save


@pytest.fixture
def honeclip(capsys):
    """Runs the command in this process -> (exit code, standard output, standard error)."""

    def run(*arguments):
        code = __main__._run([str(one) for one in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def manifest(folder, rows, header="image,caption"):
    (folder / "pairs.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def test_json_of_good_and_bad_data(honeclip, ten):
    manifest(ten, [f"{n}.png,c{n}" for n in range(10)])
    code, out, _ = honeclip("check", ten, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["rows"], result["usable"], sum(result["splits"].values())) == (10, 10, 10)

    manifest(ten, [*(f"{n}.png,c{n}" for n in range(9)), "gone.png,x"])
    code, out, err = honeclip("check", ten, "--json")
    assert code == 2
    assert [one["kind"] for one in json.loads(out)["problems"]] == ["no_group", "missing"]
    assert err.splitlines()[-2].startswith("error: ")
    assert "row 10 gone.png: missing" in err.splitlines()[-1]
    assert honeclip("check", ten, "--max-bad-fraction", "0.1")[0] == 0


def test_the_table_names_kinds_rows_and_reasons(honeclip, ten, photo):
    photo(ten / "dot.png", 99, size=(1, 1))
    manifest(ten, ["0.png,a", "0.png,b", "dot.png,c", f"1.png,{'word ' * 100}"])
    code, out, _ = honeclip("check", ten)
    assert code == 0
    assert "4 of 4 rows can be used" in out
    for words in ("tiny", "1x1 pixels", "duplicate_image", "long_caption", "cut at 77", "no_group"):
        assert words in out, words


def test_other_columns(honeclip, ten):
    manifest(ten, ["0.png,a", "1.png,b", "2.png,c"], "photo,description")
    code, _, err = honeclip("check", ten, "--json")
    assert code == 2
    assert "the columns found are: photo, description" in err
    code, out, _ = honeclip("check", ten, "--json", "--columns", "image=photo,caption=description")
    assert code == 0
    assert json.loads(out)["usable"] == 3


@pytest.mark.parametrize(
    "arguments", [("nowhere",), (".",), ("pairs.csv", "--domain", "medcal"), ("pairs.csv", "--columns", "x")]
)
def test_bad_arguments_end_with_a_sentence(honeclip, ten, monkeypatch, arguments):
    monkeypatch.chdir(ten)
    (ten / "sub").mkdir()
    if arguments != (".",):
        manifest(ten, ["0.png,a"])
    code, out, err = honeclip("check", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_a_run_whole_and_damaged(honeclip, tmp_path):
    for step in (1, 2):
        save(tmp_path / "checkpoints", RunState(step, 2, 0.5, {"weights": {"w": torch.ones(3)}}), keep_last=5)
    code, out, _ = honeclip("check", tmp_path, "--json")
    assert code == 0
    seen = json.loads(out)["checkpoints"]
    assert [(one["name"], one["faults"]) for one in seen] == [("step-000001", []), ("step-000002", [])]
    assert all(one["pairs"]["done"] is False for one in seen), "no pairs were stored with these"
    file = tmp_path / "checkpoints" / "step-000002" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (tmp_path / "checkpoints" / "BEST").write_text("step-000009\n")
    code, out, err = honeclip("check", tmp_path, "--json")
    assert code == 2
    result = json.loads(out)
    assert not result["passed"]
    assert "weights.safetensors" in result["checkpoints"][1]["faults"][0]
    assert result["checkpoints"][0]["faults"] == []
    assert "BEST names step-000009" in err
    assert "step-000001: whole" in honeclip("check", tmp_path)[1]


def test_what_looks_sick_in_a_run_is_said_beside_its_checkpoints_and_is_no_damage(honeclip, tmp_path):
    save(tmp_path / "checkpoints", RunState(1, 2, 0.5, {"weights": {"w": torch.ones(3)}}), keep_last=5)
    assert json.loads(honeclip("check", tmp_path, "--json")[1])["sick"] == []
    sick = Path(__file__).parents[1] / "monitoring" / "sick" / "collapse.jsonl"
    (tmp_path / "events.jsonl").write_bytes(sick.read_bytes() + b'{"event": "step", "torn')
    code, out, _ = honeclip("check", tmp_path, "--json")
    found = json.loads(out)
    assert (code, found["passed"]) == (0, True)
    assert "collapse" in [one["rule"] for one in found["sick"]]
    assert all(one["says"] and one["try"] for one in found["sick"])
    code, out, _ = honeclip("check", tmp_path)
    assert (code, "step-000001: whole" in out) == (0, True)
    assert "collapse: nearly all" in out
    assert "\n  try: a tenth of train.lr" in out


def test_a_run_without_checkpoints(honeclip, tmp_path):
    (tmp_path / "run.toml").write_text("")
    code, _, err = honeclip("check", tmp_path)
    assert code == 2
    assert "no checkpoint" in err


def test_prepare_then_check(honeclip, tmp_path, photo):
    for number in range(4):
        photo(tmp_path / "photos" / f"class {number % 2}" / f"{number} ü.png", number)
    code, out, _ = honeclip("prepare", tmp_path / "photos", "--out", tmp_path / "data")
    assert code == 0
    assert "class folders: 4 rows" in out
    code, _, err = honeclip("prepare", tmp_path / "photos", "--out", tmp_path / "data")
    assert code == 2
    assert "--overwrite" in err
    code, out, _ = honeclip("prepare", tmp_path / "photos", "--out", tmp_path / "data", "--overwrite", "--json")
    assert json.loads(out)["rows"] == 4
    assert honeclip("check", tmp_path / "data", "--json")[0] == 0


def test_the_worst_pairs_of_a_model(honeclip, ten, tmp_path):
    """The order is that of cosines computed one by one."""
    from honeclip.model.load import load

    manifest(ten, [f"{n}.png,caption number {n}" for n in range(6)])
    code, out, _ = honeclip("check", ten, "--model", "random:ViT-S-32-alt", "--out", tmp_path / "sheet.html", "--json")
    assert code == 0
    result = json.loads(out)
    clip = load("random:ViT-S-32-alt")
    cosine = {n + 1: float(clip.similarity([ten / f"{n}.png"], [f"caption number {n}"])[0, 0]) for n in range(6)}
    assert [one["row"] for one in result["worst"]] == sorted(cosine, key=cosine.__getitem__)
    assert all(abs(one["cosine"] - cosine[one["row"]]) < 1e-5 for one in result["worst"])
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert page.count("data:image/") == 6
    assert "caption number 3" in page
    assert result["images_below_model_size"]["images"] == 6
