"""`verify` passes where the cached step is exact, and does not where it was broken on purpose."""

from __future__ import annotations

import pytest
import tiny_runs
import torch

from honeclip.config import Loss
from honeclip.errors import BadInput
from honeclip.model.load import load
from honeclip.training import objective as objectives
from honeclip.training import verify as module
from honeclip.training.verify import verify

KEYS = {
    "passed", "max_relative_error_float64", "error_plain_float32", "error_cached_float32", "worst_parameter",
    "logit_scale_ratio", "batch", "micro_batch", "kept", "device",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["infonce", "siglip"])
@pytest.mark.parametrize("model", ["vit", "two_towers"])
@pytest.mark.parametrize(("batch", "micro_batch"), [(16, 4), (7, 3), (24, 1)])
def test_the_cached_step_is_exact(model, kind, batch, micro_batch, data, request):
    folder = str(request.getfixturevalue(model))
    found = verify(str(data), folder, batch=batch, micro_batch=micro_batch, sets=[f"loss.kind={kind}"], device="cpu")
    assert found.keys() >= KEYS
    assert found["passed"] is True
    assert found["max_relative_error_float64"] <= 1e-9
    assert found["logit_scale_ratio"] == pytest.approx(1, abs=1e-9)
    assert found["error_cached_float32"] <= 2 * found["error_plain_float32"] + 1e-7
    assert 0 < found["error_plain_float32"] < 1e-3
    pieces = -(-batch // micro_batch)
    assert (found["batch"], found["micro_batch"], found["kept"]) == (batch, micro_batch, pieces // 2)
    assert found["device"] == "cpu"
    assert found["worst_parameter"] in dict(load(folder, "cpu").model.named_parameters()).keys() | {"logit_bias"}


def test_a_batch_is_lowered_to_the_rows_and_repeated_captions_are_part_of_it(vit, tmp_path):
    data = tiny_runs.draw(tmp_path / "data", 20, tiny_runs.ALL_SPLITS)
    text = (data / "pairs.csv").read_text()
    (data / "pairs.csv").write_text(text.replace(", number 6", ", number 0").replace(", number 12", ", number 0"))
    found = verify(str(data), str(vit), batch=500, micro_batch=5, device="cpu")
    assert (found["batch"], found["passed"]) == (12, True)


def broken(monkeypatch, change) -> None:
    """In every second objective that is built, which is the cached one, the scale's gradient is changed."""
    real, built = objectives.objective, []

    def objective(clip, *rest):
        inner = real(clip, *rest)
        built.append(None)
        if len(built) % 2:
            return inner

        def contrastive(image_BD, text_BD):
            scale = clip.model.logit_scale
            stand_in = change(scale)
            clip.model.__dict__["logit_scale"] = stand_in  # hides the parameter for this one call
            try:
                return inner(image_BD, text_BD)
            finally:
                del clip.model.__dict__["logit_scale"]

        return contrastive

    monkeypatch.setattr(module, "objective", objective)


@pytest.mark.parametrize(
    ("change", "ratio"),
    [
        # as open_clip's --accum-freq has it: once for each piece
        (lambda scale: scale * 4 - 3 * scale.detach(), 4.0),
        (lambda scale: scale * 1.0001 - 0.0001 * scale.detach(), 1.0001),
        (lambda scale: scale.detach(), 0.0),
    ],
    ids=["four times", "a little too much", "dropped"],
)
def test_a_wrong_gradient_of_the_scale_is_found(change, ratio, vit, data, monkeypatch):
    broken(monkeypatch, change)
    found = verify(str(data), str(vit), batch=16, micro_batch=4, device="cpu")
    assert found["passed"] is False
    assert found["logit_scale_ratio"] == pytest.approx(ratio, rel=1e-6)
    assert found["worst_parameter"] == "logit_scale"
    assert found["max_relative_error_float64"] > 1e-5


def test_a_wrong_gradient_of_one_tower_is_found(vit, data, monkeypatch):
    """Half precision somewhere on the way is enough."""
    real = module.cached_step

    def rough(encoders, inputs, loss, **options):
        image, text = encoders

        def rounded(piece):
            exact = text(piece)
            return exact.bfloat16().to(exact.dtype)

        return real([image, rounded], inputs, loss, **options)

    monkeypatch.setattr(module, "cached_step", rough)
    found = verify(str(data), str(vit), batch=16, micro_batch=4, device="cpu")
    assert found["passed"] is False
    assert found["max_relative_error_float64"] > 1e-5


def test_a_parameter_without_a_gradient_is_found(vit, data, monkeypatch):
    real = module.cached_step

    def partly(encoders, inputs, loss, **options):
        image, text = encoders
        return real([image, lambda piece: text(piece).detach().requires_grad_()], inputs, loss, **options)

    monkeypatch.setattr(module, "cached_step", partly)
    found = verify(str(data), str(vit), batch=8, micro_batch=4, device="cpu")
    assert found["passed"] is False
    assert found["max_relative_error_float64"] == float("inf")


def test_the_temperature_is_proved_even_where_a_run_would_fix_it(vit, data):
    found = verify(str(data), str(vit), batch=8, sets=["loss.temperature=fixed"], device="cpu")
    assert found["logit_scale_ratio"] == pytest.approx(1, abs=1e-9)


def test_one_pair_is_no_batch(vit, tmp_path):
    data = tiny_runs.draw(tmp_path / "data", 2, ("train", "test"))
    with pytest.raises(BadInput, match="the train split has 1 rows"):
        verify(str(data), str(vit), device="cpu")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "ViT-B-23"}, "nearest"),
        ({"data": "nowhere"}, "nowhere"),
        ({"device": "gpu"}, "auto, cpu, mps, cuda"),
        ({"sets": ["loss.kind=triplet"]}, "infonce"),
    ],
)
def test_bad_input_is_named(given, words, vit, data):
    with pytest.raises(BadInput, match=words):
        verify(**{"data": str(data), "model": str(vit), "device": "cpu", **given})


# --- the objective ---------------------------------------------------------------------------------------------------


def test_siglip_starts_where_its_paper_does_for_towers_that_have_never_met(text):
    fresh, aligned = tiny_runs.make_clip(text), tiny_runs.make_clip(text, unaligned=False)
    for clip in (fresh, aligned):
        objectives.prepare(clip, Loss(kind="siglip"))
        assert clip.model.logit_bias.item() == -10
    assert fresh.logit_scale.exp().item() == pytest.approx(10)
    assert aligned.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        fresh.model.logit_bias.fill_(-3)
    objectives.prepare(fresh, Loss(kind="siglip"))
    assert fresh.model.logit_bias.item() == -3, "a bias that is there is kept"


@pytest.mark.parametrize(("value", "kept"), [(9.0, 4.605170), (-1.0, 0.0), (3.0, 3.0)])
def test_the_scale_is_clamped_to_1_and_100(value, kept, text):
    clip = tiny_runs.make_clip(text)
    with torch.no_grad():
        clip.logit_scale.fill_(value)
    objectives.clamp_scale(clip)
    assert clip.logit_scale.item() == pytest.approx(kept)
