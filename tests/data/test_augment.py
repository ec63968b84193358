"""Augmentation stays within its rules and depends on seed, step and row alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from honeclip.data.augment import augment, changes_nothing
from honeclip.domains.domain import AugmentRules

SEEDS = [(0, step, row) for step in range(6) for row in range(6)]


@pytest.fixture
def image():
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    return Image.fromarray(noise, "RGB")


def pixels(image):
    return np.asarray(image)


def test_the_same_seed_the_same_image_and_another_another(image):
    rules = AugmentRules(crop_scale=(0.5, 1.0), flip=True, rotate_deg=20, brightness=0.3, contrast=0.3, saturation=0.3)
    first = [pixels(augment(image, rules, 1.0, seed)) for seed in SEEDS]
    again = [pixels(augment(image, rules, 1.0, seed)) for seed in SEEDS]
    assert all(map(np.array_equal, first, again))
    assert len({one.tobytes() for one in first}) == len(SEEDS)


def test_no_rules_or_no_strength_leave_the_image(image):
    strong = AugmentRules(crop_scale=(0.1, 0.2), flip=True, brightness=1.0)
    assert changes_nothing(AugmentRules())
    assert not changes_nothing(strong)
    for seed in SEEDS:
        assert np.array_equal(pixels(augment(image, AugmentRules(), 1.0, seed)), pixels(image))
        assert np.array_equal(pixels(augment(image, strong, 0.0, seed)), pixels(image))


def test_a_crop_keeps_the_share_of_the_area_and_the_proportions(image):
    sizes = [augment(image, AugmentRules(crop_scale=(0.5, 0.8)), 1.0, seed).size for seed in SEEDS]
    shares = [width * height / (60 * 90) for width, height in sizes]
    assert 0.48 <= min(shares) < 0.6 < max(shares) <= 0.82
    assert all(abs(width / height - 1.5) < 0.05 for width, height in sizes)


def test_a_crop_is_a_part_of_the_image(image):
    whole = pixels(image)
    part = pixels(augment(image, AugmentRules(crop_scale=(0.3, 0.3)), 1.0, (0, 1, 2)))
    height, width = part.shape[:2]
    places = [
        (top, left)
        for top in range(61 - height)
        for left in range(91 - width)
        if np.array_equal(whole[top : top + height, left : left + width], part)
    ]
    assert len(places) == 1


def test_flips_mirror_about_half_of_the_images(image):
    flipped = [pixels(augment(image, AugmentRules(flip=True), 1.0, (3, step, 0))) for step in range(80)]
    mirrored = sum(np.array_equal(one, pixels(image)[:, ::-1]) for one in flipped)
    untouched = sum(np.array_equal(one, pixels(image)) for one in flipped)
    assert mirrored + untouched == 80
    assert 20 <= mirrored <= 60


def test_rotated_corners_are_filled_with_the_grey_that_was_given(image):
    turned = [augment(image, AugmentRules(rotate_deg=40), 1.0, seed, fill=255) for seed in SEEDS]
    assert all(one.size == image.size for one in turned)
    assert any((pixels(one)[0, 0] == 255).all() for one in turned)


def test_brightness_stays_within_its_share(image):
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    values = [int(pixels(augment(grey, AugmentRules(brightness=0.2), 1.0, seed))[0, 0, 0]) for seed in SEEDS]
    assert 79 <= min(values) < 95
    assert 105 < max(values) <= 120


# --- what else a field may allow ------------------------------------------------------------------------------------

MORE = [
    {"flip_vertical": True},
    {"quarter_turns": True},
    {"gamma": 0.3},
    {"window": 0.2},
    {"glare": 0.5},
    {"noise": 0.1},
    {"jpeg": 30},
    {"grey": 1.0},
]


@pytest.mark.parametrize("rule", MORE, ids=lambda rule: next(iter(rule)))
def test_each_rule_changes_something_repeats_and_fades_with_its_strength(image, rule):
    rules = AugmentRules(**rule)
    assert not changes_nothing(rules)
    first, again = ([pixels(augment(image, rules, 1.0, seed)) for seed in SEEDS] for _ in range(2))
    assert all(map(np.array_equal, first, again))
    assert any(one.shape != pixels(image).shape or not np.array_equal(one, pixels(image)) for one in first)
    assert all(np.array_equal(pixels(augment(image, rules, 0.0, seed)), pixels(image)) for seed in SEEDS)


def test_turns_and_mirrors_only_move_pixels(image):
    rules = AugmentRules(flip_vertical=True, quarter_turns=True)
    found = [pixels(augment(image, rules, 1.0, seed)) for seed in SEEDS]
    counted = np.sort(pixels(image).reshape(-1, 3), axis=0)
    assert all(np.array_equal(np.sort(one.reshape(-1, 3), axis=0), counted) for one in found)
    assert {one.shape for one in found} == {(60, 90, 3), (90, 60, 3)}
    assert any(np.array_equal(one, pixels(image)[::-1]) for one in found)


def test_gamma_and_window_keep_the_order_of_greys_and_treat_all_channels_alike():
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (4, 1)), "L").convert("RGB")
    for seed in SEEDS:
        row = pixels(augment(ramp, AugmentRules(gamma=0.4, window=0.3), 1.0, seed))[0].astype(int)
        assert (np.diff(row[:, 0]) >= 0).all()
        assert (row[:, :1] == row).all()


def test_gamma_stays_within_its_exponents():
    middle = Image.new("RGB", (2, 2), (128, 128, 128))
    values = [int(pixels(augment(middle, AugmentRules(gamma=0.2), 1.0, seed))[0, 0, 0]) for seed in SEEDS]
    low, high = 255 * (128 / 255) ** 1.25, 255 * (128 / 255) ** 0.8
    assert low - 1 <= min(values) < 120 < 136 < max(values) <= high + 1


def test_glare_only_adds_light_and_noise_has_no_drift():
    grey = Image.new("RGB", (400, 300), (100, 100, 100))
    lit = [pixels(augment(grey, AugmentRules(glare=0.4), 1.0, seed)).astype(int) for seed in SEEDS]
    assert min(one.min() for one in lit) >= 100
    assert 120 < max(one.max() for one in lit) <= 100 + 102 + 1
    noisy = np.stack([pixels(augment(grey, AugmentRules(noise=0.1), 1.0, seed)).astype(int) for seed in SEEDS])
    assert abs(noisy.mean() - 100) < 0.5
    assert 2 < noisy.std() < 26


def test_grey_print_has_no_colour_and_half_of_the_cases_are_half(image):
    found = [pixels(augment(image, AugmentRules(grey=0.5), 1.0, seed)) for seed in SEEDS]
    grey = [bool((one[..., :1] == one).all()) for one in found]
    assert 8 <= sum(grey) <= 28
