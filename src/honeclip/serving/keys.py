"""API keys from a file, compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from honeclip.errors import BadInput

SHORTEST = 16


@dataclass(frozen=True)
class Keys:
    """Names of clients and the digests of their keys; without any, everybody may ask."""

    digests: tuple[tuple[str, bytes], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.digests)

    def name(self, authorization: str | None, *, page: bool = False) -> str | None:
        """Whose key a request carries; None where it carries no known one.

        All keys are compared, each in constant time, so that an answer's time says nothing about them.

        Args:
            authorization: the header: "Bearer KEY"; for a page of a browser also "Basic" with the key as password.
            page: whether "Basic" counts.
        """
        scheme, _, given = (authorization or "").partition(" ")
        if page and scheme.lower() == "basic":
            try:
                given = base64.b64decode(given.strip(), validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return None
        elif scheme.lower() != "bearer":
            return None
        digest, found = _digest(given.strip()), None
        for name, known in self.digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def read(path: Path) -> Keys:
    """The keys of a file: a line `name:key` each; empty lines and lines that begin with # are passed over.

    Raises:
        BadInput: the file cannot be read, or every fault of it by line; no key is shown.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadInput(f"--api-key-file {path}: {reason}") from None
    found: dict[str, str] = {}
    faults = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, key = (part.strip() for part in line.partition(":"))
        if not (name and colon and key):
            faults.append(f"line {number} is not name:key")
        elif len(key) < SHORTEST:
            faults.append(f"line {number}: the key of {name} has fewer than {SHORTEST} characters")
        elif any(letter.isspace() or not letter.isprintable() for letter in key):
            faults.append(f"line {number}: the key of {name} has white space or a control character in it")
        elif name in found:
            faults.append(f"line {number}: {name} stands there twice")
        elif key in found.values():
            faults.append(f"line {number}: {name} has the key of another name")
        else:
            found[name] = key
    if not found and not faults:
        faults.append("there is no key in it")
    if faults:
        raise BadInput(
            f"--api-key-file {path}: {'; '.join(faults)}. A line is name:key; `openssl rand -hex 24` makes a key"
        )
    return Keys(tuple((name, _digest(key)) for name, key in found.items()))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
