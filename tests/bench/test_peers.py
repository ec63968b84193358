"""The contestants of bench/peers do what they say: one step of each on a tiny model in float64, against autograd.

Every step is taken with SGD, so that what a parameter loses, divided by the rate, is its gradient.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_runs
import torch
from torch.nn.functional import cross_entropy, normalize

from honeclip import __main__
from honeclip.config import Config, Memory, Train
from honeclip.device.detect import choose
from honeclip.training import trial

PEERS = Path(__file__).parents[2] / "bench" / "peers"
ROWS, BATCH = 40, 12
RATE = 2.0**-10
"""So small that the logit scale stays where it is not clamped."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def contestants():
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("open_clip_train.train")
    return _imported("contestants")


@pytest.fixture(scope="module")
def peers_run(contestants):
    return _imported("run")


def _imported(name):
    sys.path.insert(0, str(PEERS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(PEERS))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_runs.draw(tmp_path_factory.mktemp("data") / "shapes", ROWS)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    text = tiny_runs.text_files(tmp_path_factory.mktemp("text") / "files")
    return tiny_runs.model_folder(tmp_path_factory.mktemp("vit") / "model", text)


@pytest.fixture
def work(contestants, data, model):
    """Work of `micro_batch` with float64 weights, SGD and no clipping."""

    def build(micro_batch):
        made = trial.make(str(model), choose("cpu"), precision="fp64", data=str(data))
        learner = made.learner
        groups = [{"params": list(learner.clip.model.parameters()), "lr": RATE, "peak_lr": RATE, "head": False}]
        plain = replace(learner, optimizer=torch.optim.SGD(groups, lr=RATE), config=Config(train=Train(grad_clip=0.0)))
        return contestants.Work(replace(made, learner=plain), BATCH, micro_batch)

    return build


def weights(work):
    return {name: one.detach().clone() for name, one in work.clip.model.named_parameters()}


def gradients_by_autograd(contestants, work):
    """CLIP's loss as the paper writes it, over the whole batch, through open_clip's own encoders."""
    images, tokens = contestants.inputs(work)
    model = work.clip.model
    image = normalize(model.encode_image(images), dim=-1)
    text = normalize(model.encode_text(tokens), dim=-1)
    logits = model.logit_scale.exp() * image @ text.T
    right = torch.arange(len(logits))
    ((cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2).backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def taken(contestants, work, name, keep=0):
    """What one step of a contestant takes off each parameter."""
    before = weights(work)
    if name == "honeclip":
        memory = Memory(micro_batch=work.micro_batch, keep=keep)
        step = contestants.honeclip(work, trial.planned(work.trial, work.batch, memory, 10**12))
    else:
        step = contestants.PEERS[name](work)
    step()
    return {key: (before[key] - value) / RATE for key, value in weights(work).items()}


def worst(found, expected, leave_out=()):
    """The largest difference, as a share of the parameter's largest entry."""
    return max(
        float((found[name] - one).abs().max() / one.abs().max())
        for name, one in expected.items()
        if name not in leave_out and one.abs().max() > 1e-9
    )


@pytest.mark.parametrize("micro_batch", [BATCH, 4])
@pytest.mark.parametrize("keep", [0, 3])
def test_honeclip_takes_the_gradient_of_the_whole_batch(contestants, work, micro_batch, keep):
    one = work(micro_batch)
    expected = gradients_by_autograd(contestants, one)
    assert worst(taken(contestants, one, "honeclip", keep), expected) < 1e-8


@pytest.mark.parametrize("micro_batch", [BATCH, 4])
def test_open_clip_does_too_but_for_a_logit_scale_that_is_counted_once_a_micro_batch(contestants, work, micro_batch):
    one = work(micro_batch)
    expected = gradients_by_autograd(contestants, one)
    found = taken(contestants, one, "open_clip")
    assert worst(found, expected, ["logit_scale"]) < 1e-8
    assert float(found["logit_scale"] / expected["logit_scale"]) == pytest.approx(BATCH // micro_batch, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "micro_batch"), [("plain", BATCH), ("cached", BATCH), ("cached", 4), ("cached_padded", 4)]
)
def test_sentence_transformers_does_too_but_for_a_scale_that_does_not_learn(contestants, work, name, micro_batch):
    one = work(micro_batch)
    expected = gradients_by_autograd(contestants, one)
    found = taken(contestants, one, name)
    assert worst(found, expected, ["logit_scale"]) < 1e-8
    assert float(found["logit_scale"]) == 0.0


def test_all_have_the_same_rows(contestants, work):
    one = work(4)
    ours, theirs = one.trial.batch(BATCH), contestants.as_drawn(one)
    assert sorted(ours.draw.indices) == sorted(theirs.draw.indices)
    assert ours.tokens.sum() == theirs.tokens.sum()


@pytest.mark.parametrize("task", [{"name": "honeclip", "keep": 0}, {"name": "honeclip", "budget_bytes": 10**12}])
def test_one_measurement(peers_run, data, model, task, monkeypatch, capsys):
    options = ["--data", str(data), "--model", str(model), "--batch", "8", "--micro-batch", "4", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["run.py", *options, "--steps", "2", "--one", json.dumps(task)])
    peers_run.main()
    found = json.loads(capsys.readouterr().out)
    assert found["keep"] == ([0, 0] if "keep" in task else [2, 2])
    assert len(found["seconds"]) == len(found["cpu_seconds"]) == 2
    assert found["peak_bytes"] > 0


def test_what_is_fitted_needs_the_peers_that_it_is_fitted_to(peers_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--data", "D", "--only", "honeclip_large,cached"])
    with pytest.raises(SystemExit):
        peers_run.main()
    assert "honeclip_large without plain" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_measures_every_contestant_in_its_own_process(contestants, data, model, session_home):
    command = [sys.executable, str(PEERS / "run.py"), "--data", str(data), "--model", str(model)]
    options = ["--batch", "8", "--micro-batch", "4", "--rounds", "1"]
    # a tiny model's peers need less than honeclip's planner reckons for the libraries alone
    options += ["--only", "open_clip,cached,cached_padded,plain,honeclip_none,honeclip_all"]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=tiny_runs.environment(session_home), check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kept = found["contestants"]
    assert kept["honeclip_none"]["keep"] == [0, 0]
    assert kept["honeclip_all"]["keep"] == [2, 2]
    for one in kept.values():
        assert one["samples_per_second"] == pytest.approx(8 / one["seconds_per_step"])
        assert one["peak_memory_bytes"] > 0
    assert found["ratios"] == {}
    assert found["data"] == str(data)
    assert {"torch", "open_clip_torch", "sentence_transformers"} <= found["versions"].keys()


@pytest.mark.slow
def test_without_data_all_learn_the_molecules_of_quickstart(contestants, model, session_home):
    command = [sys.executable, str(PEERS / "run.py"), "--model", str(model), "--batch", "8", "--micro-batch", "4"]
    options = ["--rounds", "1", "--only", "plain,honeclip_all"]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=tiny_runs.environment(session_home), check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["data"].startswith("molecules that honeclip quickstart draws")
    assert found["contestants"].keys() == {"plain", "honeclip_all"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data", "D", "--precision", "bf16"], "--precision"),
        (["--data", "D", "--keep", "2"], "--keep"),
        (["--data", "D", "--batch", "0"], "--batch"),
    ],
)
def test_what_the_peers_cannot_be_asked_is_bad_input(options, named, capsys):
    assert __main__._run(["bench", "train", "--peers", "--device", "cpu", *options]) == 2
    assert named in capsys.readouterr().err
