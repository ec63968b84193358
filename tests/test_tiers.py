"""Each test has one tier, and those that are known to start processes are not taken for small ones."""

from __future__ import annotations

from pathlib import Path

TIERS = {"unit", "integration", "e2e"}


def test_each_test_has_one_tier_by_what_it_uses(request):
    tiers = {}
    for item in request.session.items:
        (tier,) = TIERS & {mark.name for mark in item.iter_markers()}
        tiers.setdefault(Path(item.path).name, set()).add(tier)
    known = {"test_step.py": "unit", "test_run_folder.py": "integration", "test_kills.py": "e2e", "test_api.py": "e2e"}
    for name, tier in known.items():
        assert tiers.get(name, {tier}) == {tier}
