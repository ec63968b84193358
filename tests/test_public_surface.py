"""What `import honeclip` promises: these names, quickly, and no others."""

from __future__ import annotations

import subprocess
import sys

import pytest

import honeclip

NAMES = ["Clip", "Report", "Run", "StepResult", "cached_step", "evaluate", "fit", "load"]


def test_all_is_exactly_the_public_names():
    assert honeclip.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_with_a_docstring(name):
    assert getattr(honeclip, name).__doc__
    assert name in dir(honeclip)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        _ = honeclip.Trainer


def test_import_is_light():
    code = (
        "import sys, honeclip; print([name for name in ('torch', 'typer', 'numpy', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
