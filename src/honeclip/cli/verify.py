"""`honeclip verify`: the cached step against a plain one, on the user's own model, data and device."""

from __future__ import annotations

from typing import Annotated

import typer

from honeclip.cli.options import Data, Device, Json


def verify(
    data: Data,
    model: Annotated[str, typer.Option("--model", help="Any model source.", metavar="M")] = "starter",
    batch: Annotated[int, typer.Option("--batch", help="Effective batch in pairs.", min=2)] = 32,
    micro_batch: Annotated[int, typer.Option("--micro-batch", help="Pairs through a tower at once.", min=1)] = 4,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="A key of the config, as in fit: loss.kind=siglip.", metavar="A.B=V"),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compare the gradients of the cached step with those of a plain step, every parameter, scale and bias included.

    In float64 on the CPU the two must agree to 1e-9; in float32 on the device the cached step must be as close to the
    float64 truth as the plain one. Exits 1 where it is not.

    Example: honeclip verify --data pairs.csv --model starter --batch 32 --micro-batch 4
    """
    from honeclip.cli.output import emit, show
    from honeclip.training.verify import verify as work

    found = work(data, model, batch=batch, micro_batch=micro_batch, sets=sets or (), device=device)
    if as_json:
        emit(found)
    else:
        show(
            f"{'passed' if found['passed'] else 'NOT passed'}: batch {found['batch']} in micro-batches of "
            f"{found['micro_batch']}, {found['kept']} with their graphs kept, on {found['device']}"
        )
        show(f"largest relative error of any parameter, float64: {found['max_relative_error_float64']:.1e}")
        show(f"  the worst one: {found['worst_parameter']}")
        show(f"gradient of the logit scale, cached / plain: {found['logit_scale_ratio']:.9f}")
        errors = f"plain {found['error_plain_float32']:.1e}, cached {found['error_cached_float32']:.1e}"
        show(f"error of float32 against float64: {errors}")
    if not found["passed"]:
        raise typer.Exit(1)
