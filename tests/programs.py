"""Programs that a test starts for real; where one is missing the test is skipped, and fails where everything is required."""

from __future__ import annotations

import os
import shutil

import pytest


def needed(name: str) -> str:
    """Path of a program."""
    found = shutil.which(name)
    if found is None:
        assert "HONECLIP_REQUIRE_ALL" not in os.environ, f"{name} is missing, and everything is required here"
        pytest.skip(f"{name} is not installed")
    return found
