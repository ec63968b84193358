"""What notify.when and notify.urls may say, and that an address is shown and stored by its scheme alone."""

from __future__ import annotations

import json
import tomllib

import pytest
import tomli_w

from honeclip import config as configs
from honeclip import notices
from honeclip.errors import ConfigError

SECRET = "s3cr3t"

ADDRESSES = (
    f"mailtos://me:{SECRET}@example.org",
    f"slack://{SECRET}/{SECRET}/{SECRET}",
    f"json://127.0.0.1/hooks/{SECRET}?x={SECRET}",
    f"mailto:{SECRET}",
    SECRET,
)


@pytest.mark.parametrize("name", [*notices.MOMENTS, "R@10>0.6", "accuracy >= .5", "text_to_image.median_rank<3"])
def test_moments_and_comparisons_are_taken(name):
    (taken,) = configs.load(values={"notify": {"when": [name]}}).notify.when
    assert taken.replace(" ", "") in (name, "accuracy>=0.5")


def test_one_alone_is_a_list_of_one():
    found = configs.load(sets=["notify.when=done", "notify.urls=desktop://"]).notify
    assert (found.when, found.model_dump()["urls"]) == (("done",), ("desktop://",))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("bset", "nearest: best"),
        ("R@9>0.6", "nearest: R@"),
        ("R@10", "a comparison such as R@10>0.6"),
        ("R@10>much", "'much', which is no number"),
        ("R@10>nan", "no number"),
        ("R@10>60", "R@10 lies between 0 and 1"),
        ("R@10=0.6", "first, best, plateau, stalled, memory, failed, interrupted, done"),
    ],
)
def test_a_wrong_moment_is_refused_with_what_is_allowed(wrong, said):
    with pytest.raises(ConfigError) as error:
        configs.load(values={"notify": {"when": ["best", wrong]}})
    assert said in str(error.value)
    assert wrong in str(error.value)


EVENT = {
    "event": "evaluation",
    "score": 0.5,
    "metrics": {
        "retrieval": {
            "image_to_text": {"R@5": {"value": 0.2}, "R@10": {"value": 0.4}},
            "text_to_image": {"R@10": {"value": 0.7}, "median_rank": {"value": 4.0}},
        },
        "zeroshot": {"accuracy": {"value": 0.9}, "classes": 6},
    },
}


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("score", 0.5),
        ("R@10", 0.55),
        ("text_to_image.R@10", 0.7),
        ("accuracy", 0.9),
        ("R@5", None),  # of one direction only
        ("R@1", None),
        ("ece", None),
        ("forgetting", None),
    ],
)
def test_a_figure_is_found_in_an_evaluation_where_it_is_there(figure, value):
    assert figure in notices.FIGURES
    assert notices.value(EVENT, figure) == pytest.approx(value) if value else notices.value(EVENT, figure) is None
    assert notices.value({"event": "evaluation", "metrics": "?"}, figure) is None


@pytest.mark.parametrize(
    ("text", "reached", "not_reached"), [("R@1>0.5", 0.51, 0.5), ("R@1>=0.5", 0.5, 0.49), ("median_rank<3", 2.9, 3.0)]
)
def test_a_target_is_reached_on_its_own_side(text, reached, not_reached):
    target = notices.target(text)
    assert target is not None
    assert str(target) == text
    assert target.reached(reached)
    assert not target.reached(not_reached)


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_form_of_a_config_shows_an_address(address):
    config = configs.load(values={"notify": {"urls": [address]}})
    forms = [repr(config), str(config), tomli_w.dumps(config.model_dump()), config.model_dump_json()]
    forms += [json.dumps(config.model_dump(mode="json")), str(configs.differences(configs.load(), config))]
    assert not [one for one in forms if SECRET in one]
    assert config.notify.urls[0].get_secret_value() == address
    stored = configs.load(values=tomllib.loads(tomli_w.dumps(config.model_dump())))
    assert stored.notify.urls[0].get_secret_value() == notices.masked(address)
    found = notices.addresses([notices.masked(address)], {})
    assert found.found == ()
    assert "give --set notify.urls=... again" in found.missing[0]


@pytest.mark.parametrize(
    "text",
    [
        *(f"notify.urls={address}" for address in ADDRESSES if address != SECRET),
        f"notify.urls=[3, 'json://{SECRET}']",
        f"notify.url=json://{SECRET}",
        f"notify.ulrs=mailto:{SECRET}",
        f"notfy.urls=json://{SECRET}",
        f"notify.when=json://{SECRET}",
        f"json://{SECRET}",
        f"urls=json://{SECRET}",
    ],
)
def test_no_message_about_a_config_shows_an_address(text):
    with pytest.raises(ConfigError) as error:
        configs.load(sets=[text, "train.batch=0"])
    assert SECRET not in str(error.value)


def test_other_settings_are_still_repeated_in_full():
    with pytest.raises(ConfigError, match=r"--set data\.max_bad_fraction=s3://me@x"):
        configs.load(sets=["data.max_bad_fraction=s3://me@x"])


def test_a_variable_holds_an_address_and_is_stored_as_it_is():
    urls = ["env:TOKENS", "env:NONE", "desktop://"]
    config = configs.load(values={"notify": {"urls": urls}})
    assert config.model_dump()["notify"]["urls"] == tuple(urls)
    found = notices.addresses(urls, {"TOKENS": f"json://{SECRET} slack://{SECRET}"})
    assert [address for _, address in found.found] == [f"json://{SECRET}", f"slack://{SECRET}", "desktop://"]
    assert not [name for name, _ in found.found if SECRET in name]
    assert found.missing == ("notify.urls[1], env:NONE: this variable is not set, so nothing is sent there",)
