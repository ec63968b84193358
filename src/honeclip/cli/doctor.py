"""`honeclip doctor`: which device and precision, why, how much memory, where things lie, and whether it computes rightly."""

from __future__ import annotations

from typing import Any

import typer

from honeclip.cli.options import Device, Json


def doctor(
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say which device honeclip uses and why, and compare one small batch on it with the CPU in float32.

    Where the device computes something else in its own precision, float32 is tried and named instead. Exits 1 where
    that differs too.

    Example: honeclip doctor --json
    """
    from honeclip import places
    from honeclip.cli.output import emit, show
    from honeclip.device import detect, facts, precision
    from honeclip.device.memory import budget
    from honeclip.model.selfcheck import checked

    found = detect.choose(device)
    chosen, check = checked(found, precision.choose(found))
    memory = budget(found)
    named = {
        "home": places.home(),
        "features": places.features(),
        "inspections": places.inspections(),
        "shards": places.shards(),
        "own domains": places.domains(),
        "hub cache": places.models(),
    }
    result: dict[str, Any] = {
        "device": found.type,
        "device_name": found.name,
        "reason": found.reason,
        "precision": chosen.name,
        "precision_reason": chosen.reason,
        "memory_budget_bytes": memory.bytes,
        "memory_reason": memory.reason,
        "self_check": check,
        "versions": facts.versions(),
        "places": {name: {"path": str(path), "bytes": places.size_bytes(path)} for name, path in named.items()},
    }
    if as_json:
        emit(result)
    else:
        show(f"device      {found.type} ({found.name}): {found.reason}")
        show(f"precision   {chosen.name}: {chosen.reason}")
        show(f"memory      {memory.bytes / 1e9:.1f} GB: {memory.reason}")
        show(f"self-check  {'passed' if check['passed'] else 'FAILED'} against the CPU in float32: {_checked(check)}")
        show("versions    " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()))
        for name, place in result["places"].items():
            show(f"{name:<12}{place['path']} ({place['bytes'] / 1e6:.1f} MB)")
    if not check["passed"]:
        raise typer.Exit(1)


def _checked(check: dict[str, Any]) -> str:
    # a figure that is not finite is None
    cosines = (
        f"image cosine {_figure(check['image_cosine'], '.6f')}, text cosine {_figure(check['text_cosine'], '.6f')}"
    )
    return f"{cosines}, loss differs by {_figure(check['loss_difference'], '.2e')}"


def _figure(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)
