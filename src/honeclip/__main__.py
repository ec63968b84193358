"""`honeclip` and `python -m honeclip`: sets the stage, runs a command, turns what it raises into an exit code.

0 done, 2 bad input, 1 failure, 130 and 143 after SIGINT and SIGTERM.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys

from honeclip.errors import BadInput, HoneclipError

ENVIRONMENT = {
    # An operation that MPS lacks then runs on the CPU, with a warning, instead of ending the run. torch reads this in a
    # static initialiser: set after `import torch` it does nothing.
    "PYTORCH_ENABLE_MPS_FALLBACK": "1",
    # Tokenisers start threads; worker processes started afterwards would each print a warning about them.
    "TOKENIZERS_PARALLELISM": "false",
    # Nothing about a run leaves the machine; the hub's client is the one library here that would report its use.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # Charts are drawn into files: without a display no other back end works, and looking for one takes time.
    "MPLBACKEND": "Agg",
}
"""Set before anything heavy is imported, and only where the user has not chosen otherwise."""


def main() -> None:
    """The console script: runs the command in `sys.argv` and exits."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that lacks a caption's letters (code pages of Windows, LC_ALL=C) shows their numbers
            stream.reconfigure(errors="backslashreplace")
    code = _run(sys.argv[1:])
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.exit(code)
    # The reader went away (`honeclip ... | head`). Python flushes again on its way out and would print an error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code or 1)


def _refuse_letters_that_were_lost(arguments: list[str]) -> None:
    """Where Python takes the terminal for ASCII, the bytes of other letters come as surrogates: no model and no library
    written in Rust reads them, and a query would silently be another one.

    Raises:
        BadInput: an argument has such letters.
    """
    encoding = sys.getfilesystemencoding()
    if encoding.replace("-", "") != "utf8" and any(
        "\udc80" <= letter <= "\udcff" for one in arguments for letter in one
    ):
        raise BadInput(
            f"an argument has letters that Python cannot read here, for it takes the terminal's encoding to be {encoding}; "
            "set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        )


def _run(arguments: list[str]) -> int:
    """Runs one command; an exception that is no HoneclipError is a bug and keeps its traceback."""
    try:
        _refuse_letters_that_were_lost(arguments)
        import typer

        from honeclip.cli.app import app

        typer.main.get_command(app).main(arguments, prog_name="honeclip")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except HoneclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    main()
