"""The one tree of errors. The command line and the server turn each into an exit code or a status at their edge.

HoneclipError                 exit 1: the work could not be done
├── BadInput                  exit 2: something that was given is wrong; the message names it, the rule and the way out
│   ├── ConfigError           a config key or value
│   ├── DomainError           a domain file
│   ├── DataError             a manifest, an image, a caption
│   ├── ModelError            a model source or a model folder
│   ├── RunError              a run folder: it exists, is damaged, or belongs to another config
│   └── StepError             encoders, inputs or a loss that the exact step cannot compute exactly
├── NonFiniteError            a loss or a gradient became NaN or infinite
├── MemoryExhausted           no smaller piece of work is left to try
├── Unreachable               a file behind an address that does not answer, however often it is asked
├── RanksError                another process of a run on several is gone, or ended
└── Interrupted               exit 128 + signal: stopped by SIGINT or SIGTERM after saving
"""

from __future__ import annotations


class HoneclipError(Exception):
    """Base of every error that honeclip raises on purpose. Its text is written for the person at the keyboard."""

    exit_code = 1


class BadInput(HoneclipError):
    """Something the user gave is wrong; nothing was changed."""

    exit_code = 2


class ConfigError(BadInput):
    """One or more wrong config keys or values, all of them in one message."""


class DomainError(BadInput):
    """A domain that is unknown, or a domain file with a fault."""


class DataError(BadInput):
    """A manifest, image or caption that cannot be used."""


class TooManyPixels(DataError):
    """An image that is larger than the limit, or than its reader can decode; nothing of it was decoded."""


class ModelError(BadInput):
    """A model source that is unknown, incomplete or out of reach."""


class RunError(BadInput):
    """A run folder that is in the way, damaged, or made with other settings."""


class StepError(BadInput):
    """Encoders, inputs or a loss for which the cached step would not be exact."""


class NonFiniteError(HoneclipError):
    """A loss or a gradient became NaN or infinite; the message names the step, the part and the last good checkpoint."""


class MemoryExhausted(HoneclipError):
    """Out of memory with the smallest piece of work; the message says what would fit."""


class Unreachable(HoneclipError):
    """A file behind an address could not be read in several tries; it may be there again later."""


class RanksError(HoneclipError):
    """Another process of a run on several is gone, says nothing for too long, or ended and why."""


class Interrupted(HoneclipError):
    """A run that was stopped by a signal after it had saved.

    Args:
        signal_number: SIGINT (2) or SIGTERM (15); the exit code is 128 plus it.
        message: what was saved and how to go on.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
