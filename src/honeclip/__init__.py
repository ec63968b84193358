"""honeclip fine-tunes CLIP on the image-text pairs of one field, on the machine you have.

Names are imported when they are first used, so that `import honeclip` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from honeclip.evaluation.evaluate import evaluate
    from honeclip.evaluation.report import Report
    from honeclip.model.clip import Clip
    from honeclip.model.load import load
    from honeclip.stepping.step import StepResult, cached_step
    from honeclip.training.run import Run, fit

    __version__: str

__all__ = ["Clip", "Report", "Run", "StepResult", "cached_step", "evaluate", "fit", "load"]

_HOMES = {
    "Clip": "honeclip.model.clip",
    "Report": "honeclip.evaluation.report",
    "Run": "honeclip.training.run",
    "StepResult": "honeclip.stepping.step",
    "cached_step": "honeclip.stepping.step",
    "evaluate": "honeclip.evaluation.evaluate",
    "fit": "honeclip.training.run",
    "load": "honeclip.model.load",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'honeclip' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    """Of the installed package, which has it from the git tag; of sources that are not installed it is not known."""
    from importlib import metadata

    try:
        return metadata.version("honeclip")
    except metadata.PackageNotFoundError:
        return "0+unknown"
