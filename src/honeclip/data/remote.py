"""Files behind an address: whatever URL fsspec reaches (s3://, gs://, https://, ...), read by ranges, with patience.

fsspec and the library of a protocol have their own settings, by their own variables and files (FSSPEC_S3_ENDPOINT_URL,
AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...); nothing of that is set or stored here. A read that fails is tried again after
`WAITS_S`; what may come back is told from what will not: a file that is gone, or one that may not be read.
"""

from __future__ import annotations

import errno
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from honeclip.errors import DataError, HoneclipError, Unreachable

WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Before each further try."""

BLOCK_BYTES = 2**20
"""Read at least at once where a file is gone through from its beginning."""

S3 = {"retries": {"total_max_attempts": 2, "mode": "standard"}}
"""botocore's own tries come within each of ours: two of them, not the five it takes by itself."""

EXTRAS = {"s3": "honeclip[s3]"}
"""Protocols for which there is an optional extra."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_VERSIONS = (
    "ETag",
    "etag",
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "updated",
    "modified",
    "created",
)
"""What a protocol says by which a changed file is known, the surest first."""

T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """A file behind an address, or a pattern of several.

    Attributes:
        url: where it is.
        size: bytes.
        version: 16 hex digits that change when the file does, by its ETag or time of change. Where its protocol says neither,
            they change whenever it is asked, and nothing that is known of the file is believed; "" before that.
    """

    url: str
    size: int = 0
    version: str = ""

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]

    def __str__(self) -> str:
        return self.url

    def read(self, offset: int, length: int) -> bytes:
        """A stretch of its bytes; fewer where it ends before.

        Raises:
            OSError: it is gone, may not be read, or is shorter than it was.
            Unreachable: it could not be read in any of several tries.
        """

        def once() -> bytes:
            system, path = _system(self.url)
            return bytes(system.cat_file(path, start=offset, end=offset + length))

        return tried(self.url, once) if length else b""


def is_address(text: str) -> bool:
    """Whether this is a URL and no path."""
    return _ADDRESS.match(text.rpartition("::")[2]) is not None


def local(url: str) -> Path | None:
    """The path that a file:// address means; None for all others."""
    scheme, _, path = url.partition("://")
    return Path(path) if scheme.lower() in ("file", "local") else None


def find(url: str) -> Remote:
    """Size and version of the file behind an address, asked now.

    Raises:
        DataError: there is none, it may not be read, or its protocol is not known here.
        Unreachable: nothing answers.
    """

    def once() -> dict[str, Any]:
        system, path = _system(url)
        system.invalidate_cache()  # it may have changed since it was last asked
        return dict(system.info(path))

    try:
        facts = tried(url, once)
    except FileNotFoundError:
        raise DataError(f"{url}: there is no such shard") from None
    except OSError as error:
        raise DataError(error.strerror or f"{url}: {error}") from None
    if facts.get("type") == "directory":
        raise DataError(
            f"{url}: this is a folder; name the shards in it, such as {url.rstrip('/')}/shard-{{000..009}}.tar"
        )
    if facts.get("size") is None:
        raise DataError(f"{url}: its server does not say how long it is, so no part of it can be asked for")
    version = next((f"{name} {facts[name]}" for name in _VERSIONS if facts.get(name)), f"asked {time.time_ns()}")
    return Remote(url, int(facts["size"]), hashlib.sha256(version.encode()).hexdigest()[:16])


def opened(remote: Remote) -> Any:
    """A file object to go through from its beginning; what is skipped in long stretches is not read."""
    system, path = _system(remote.url)
    return system.open(path, "rb", block_size=BLOCK_BYTES, cache_type="readahead")


def tried(url: str, work: Callable[[], T]) -> T:
    """What `work` gives, tried again where the network or a server fails.

    Args:
        url: the file, for messages.
        work: reads something of it.

    Raises:
        OSError: the file is gone, may not be read, or is shorter than it was.
        Unreachable: every try failed.
    """
    started = time.monotonic()
    for wait_s in (*WAITS_S, None):
        try:
            return work()
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(errno.ENOENT, f"{url} is gone") from None
        except PermissionError as error:
            raise PermissionError(errno.EACCES, f"{url} may not be read: {_line(error)}") from None
        except (HoneclipError, TypeError, AttributeError, LookupError, ArithmeticError):
            raise  # faults of the file, or of this code, and none of the network
        except Exception as error:
            reason = _line(error)
            if isinstance(error, OSError) and error.errno == errno.EINVAL:  # a range behind the end
                raise OSError(errno.EINVAL, f"{url} is shorter than it was") from None
            if wait_s is None or "Credentials" in type(error).__name__:
                break
        time.sleep(wait_s)
    raise Unreachable(
        f"{url} cannot be read: {reason} (tried for {time.monotonic() - started:.0f} s). Is its server or the network gone, "
        "or a setting wrong (for s3:// AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...)? What was saved stays: start again later"
    )


def _system(url: str) -> tuple[Any, str]:
    """fsspec's file system of an address, which it keeps for the next call, and the path in it."""
    import fsspec

    protocol = url.rpartition("::")[2].partition("://")[0].lower()
    if protocol == "memory":
        raise DataError(f"{url}: what lies in the memory of one process is not there for those that decode pictures")
    own = {"config_kwargs": S3} if "config_kwargs" not in fsspec.config.conf.get("s3", {}) else {}
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **({"s3": own} if protocol == "s3" else {}))
    except ImportError as error:
        way = f"pip install '{EXTRAS[protocol]}'" if protocol in EXTRAS else str(error)
        raise DataError(f"{url}: addresses of {protocol}:// need a package that is not installed: {way}") from None
    except ValueError as error:
        raise DataError(
            f"{url}: {error}; addresses are those that fsspec knows, such as s3://, gs:// and https://"
        ) from None
    return found


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
