"""`honeclip serve` whose batches stop returning after the first twenty, with a short patience. Started by abuse.py.

python stuck_server.py MODEL PORT
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from typing import Any

from honeclip.serving import forward

WARM_UP = threading.Event()
AFTER = 20


def main() -> int:
    """Serves until it is stuck."""
    real, calls = forward.embed, itertools.count()

    def embed(*call: Any) -> Any:
        if WARM_UP.is_set() and next(calls) >= AFTER:
            threading.Event().wait()
        return real(*call)

    forward.embed = embed  # before the engine takes it
    from honeclip.serving import server
    from honeclip.serving.settings import Settings
    from honeclip.serving.start import Options, serve

    make = server.make

    def made(*arguments: Any) -> Any:
        WARM_UP.set()
        return make(*arguments)

    server.make = made
    settings = Settings(stuck_s=2, exit_s=8)
    return serve(Options(sys.argv[1], port=int(sys.argv[2]), device="cpu"), settings)


if __name__ == "__main__":
    os._exit(main())
