"""`honeclip verify`: the figures as JSON and in words, and exit 1 where the step is not exact."""

from __future__ import annotations

import json

import pytest

from honeclip.training import verify as module


def options(shapes, tiny, *more):
    return ["--data", shapes, "--model", tiny, "--batch", "12", "--micro-batch", "5", "--device", "cpu", *more]


@pytest.mark.parametrize("kind", ["infonce", "siglip"])
def test_json_has_the_keys_of_the_contract(kind, command, shapes, tiny):
    code, printed, said = command("verify", *options(shapes, tiny, "--json", "--set", f"loss.kind={kind}"))
    assert code == 0, said
    found = json.loads(printed)
    wanted = ["passed", "max_relative_error_float64", "error_plain_float32", "error_cached_float32"]
    wanted += ["worst_parameter", "logit_scale_ratio", "batch", "micro_batch", "kept", "device"]
    assert list(found)[: len(wanted)] == wanted
    assert found["passed"] is True
    assert (found["batch"], found["micro_batch"], found["kept"], found["device"]) == (12, 5, 1, "cpu")


def test_in_words(command, shapes, tiny):
    code, printed, _ = command("verify", *options(shapes, tiny))
    assert code == 0
    assert printed.startswith("passed: batch 12 in micro-batches of 5, 1 with their graphs kept, on cpu")
    assert "gradient of the logit scale, cached / plain: 1.000000000" in printed
    assert "the worst one: " in printed


@pytest.mark.parametrize("as_json", [True, False])
def test_a_step_that_loses_the_gradient_of_the_scale_is_not_passed(as_json, command, shapes, tiny, monkeypatch):
    real = module._cached

    def without_scale(clip, *given):
        found = real(clip, *given)
        del found["logit_scale"]
        return found

    monkeypatch.setattr(module, "_cached", without_scale)
    code, printed, said = command("verify", *options(shapes, tiny, *(["--json"] if as_json else [])))
    assert code == 1
    assert "Traceback" not in said
    if as_json:
        found = json.loads(printed)
        assert (found["passed"], found["logit_scale_ratio"], found["worst_parameter"]) == (False, 0.0, "logit_scale")
        assert found["max_relative_error_float64"] is None, "JSON knows no infinity"
    else:
        assert printed.startswith("NOT passed")


@pytest.mark.parametrize(
    ("more", "words"),
    [(["--model", "ViT-B-23"], "nearest"), (["--set", "loss.kind=x"], "infonce"), (["--batch", "1"], "--batch")],
)
def test_bad_input_exits_2(more, words, command, shapes, tiny):
    code, printed, said = command("verify", *options(shapes, tiny, *more))
    assert (code, printed) == (2, "")
    assert words in said
    assert "Traceback" not in said
