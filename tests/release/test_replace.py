"""docs/deploy/replace.sh: a model is tried, put into service, taken back, and one that does not do changes nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import live_service
import pytest
import tiny_runs
import torch
from live_service import Service
from safetensors.torch import load_file, save_file

HONECLIP = Path(sys.executable).with_name("honeclip")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Folders a and b, which are models, and `broken`, whose weights are no numbers."""
    folder = tmp_path_factory.mktemp("models")
    text = tiny_runs.text_files(folder / "text")
    tiny_runs.model_folder(folder / "a", text)
    tiny_runs.model_folder(folder / "b", text, {**tiny_runs.VIT, "embed_dim": 24})
    broken = tiny_runs.model_folder(folder / "broken", text)
    weights = broken / "open_clip_model.safetensors"
    save_file({name: torch.full_like(one, torch.nan) for name, one in load_file(weights).items()}, weights)
    return folder


@pytest.fixture
def service(tmp_path, models, session_home) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def start(*options: object) -> Service:
        environment = tiny_runs.environment(session_home)
        made.append(live_service.make(tmp_path / "service", HONECLIP, models / "a", environment, *options))
        made[0].start()
        return made[0]

    yield start
    for one in made:
        one.kill()


def test_a_model_is_put_into_service_and_taken_back(service, models, tmp_path):
    (tmp_path / "keys").write_text("office:a-key-of-this-test-alone-1234\n")
    (tmp_path / "keys").chmod(0o600)
    running = service("--api-key-file", tmp_path / "keys")
    running.environment["HONECLIP_KEY"] = "a-key-of-this-test-alone-1234"
    assert running.serves() == "a"
    done = running.replace(models / "b")
    assert done.returncode == 0, done.stderr
    assert running.serves() == "b"
    assert running.current.readlink() == models / "b"
    done = running.replace("--back")
    assert done.returncode == 0, done.stderr
    assert (running.serves(), running.current.readlink()) == ("a", models / "a")
    assert "Traceback" not in running.log
    assert "cut off" not in running.log


def test_a_model_that_fails_its_trial_changes_nothing(service, models, tmp_path):
    running = service()
    number = (running.folder / "pid").read_text()
    for model, words in ((models / "broken", "does not compare"), (models / "text", "error: ")):
        done = running.replace(model)
        assert done.returncode == 1
        assert words in done.stderr
        assert "nothing was changed" in done.stderr
        assert running.serves() == "a"
    assert (running.folder / "pid").read_text() == number, "the service was started anew"
    assert running.current.readlink() == models / "a"
    assert not running.current.with_name("current.before").exists()


def test_a_service_that_does_not_come_up_with_it_is_rolled_back(service, models, tmp_path, session_home):
    shapes = tiny_runs.draw(tmp_path / "shapes", 8)
    embed = [str(HONECLIP), "embed", str(models / "a"), "--data", str(shapes), "--out", str(tmp_path / "emb")]
    subprocess.run(embed, env=tiny_runs.environment(session_home), check=True, capture_output=True)
    # the index belongs to the weights of `a`, so that the service cannot serve `b` with it, which the trial does not know
    running = service("--index", tmp_path / "emb")
    running.environment["HONECLIP_WAIT_S"] = "60"
    done = running.replace(models / "b")
    assert done.returncode == 1, done.stderr
    assert "is in service again" in done.stderr
    assert running.serves() == "a"
    assert running.current.readlink() == models / "a"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "usage"), (("nowhere",), "no folder"), (("--back",), "no model before"), (("a", "b"), "usage")],
)
def test_wrong_usage_is_named(tmp_path, models, arguments, words):
    never = live_service.make(tmp_path / "service", HONECLIP, models / "a", {})
    done = never.replace(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
