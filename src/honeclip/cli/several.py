"""Commands under torchrun: two share their work out among processes, and no other may do all of it once in each."""

from __future__ import annotations

import time

from honeclip.device import world
from honeclip.errors import BadInput

SHARING = ("fit", "embed")
"""Commands whose work N processes share."""

PATIENCE_S = 30.0
"""torchrun ends all processes when one has ended. One that is still there after this is on a machine of its own."""


def check(command: str) -> None:
    """Lets the commands through that share their work, and every command in one process.

    Args:
        command: its name.

    Raises:
        BadInput: it is another one and torchrun started several processes. Rank 0 says so at once.
    """
    ours = world.of_environment()
    if ours.size == 1 or command in SHARING:
        return
    if not ours.leads:
        time.sleep(PATIENCE_S)  # whoever ends first is whom torchrun hears, and rank 0 has the words
    raise BadInput(
        f"honeclip {command} under torchrun (WORLD_SIZE={ours.size}): each process would do all of the work. Start it without "
        f"torchrun, on one device; {' and '.join(f'honeclip {one}' for one in SHARING)} share their work among processes"
    )
