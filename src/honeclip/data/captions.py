"""Captions for rows that have only labels, from the templates of a domain."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from honeclip.data.rows import Row
from honeclip.domains.domain import Domain, label_text
from honeclip.preprocess import rules

NO_DOMAIN = Domain(name="none", title="No domain", templates=("a photo of {label}",))


def of_rows(rows: Sequence[Row], keys: Sequence[str], domain: Domain | None, from_labels: bool) -> tuple[str, ...]:
    """The captions of `rows`: their own, or from their labels where the data set has no captions at all.

    Args:
        rows: usable rows.
        keys: one a row, says which template it takes (the hash of its pixels: not its place, not its name).
        domain: whose templates; None takes those of NO_DOMAIN.
        from_labels: whether captions are made from labels.
    """
    if not from_labels:
        return tuple(row.caption for row in rows)
    return tuple(from_template(domain, row.labels, key) for row, key in zip(rows, keys, strict=True))


def from_template(domain: Domain | None, labels: Sequence[str], key: str) -> str:
    """A caption for `labels`, the template chosen by `key`, the same in every process."""
    chosen = domain or NO_DOMAIN
    number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % len(chosen.templates)
    words = " and ".join(label_text(chosen, label) for label in labels)
    return rules.clean(chosen.templates[number].format(label=words))
