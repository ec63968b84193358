"""A tree of labels: from a label up to the top, by a table of parents and by the path that a label may itself be."""

from __future__ import annotations

from collections.abc import Mapping

from honeclip.errors import DomainError


def ancestors(label: str, parents: Mapping[str, str], separator: str = "/") -> tuple[str, ...]:
    """The label, its parent, and so on to the top.

    Args:
        label: a label, or a path of labels such as "animals/mammals", whose parent is "animals".
        parents: child -> parent; goes before the path.
        separator: between the levels of a path.

    Raises:
        DomainError: the way up comes back to where it was; the message shows it.
    """
    seen = [label]
    while True:
        last = seen[-1]
        above = parents.get(last, last.rpartition(separator)[0].strip())
        if not above:
            return tuple(seen)
        if above in seen:
            circle = " -> ".join([*seen[seen.index(above) :], above])
            raise DomainError(f"similarity.tree: {circle} is a circle; take one of these parents out")
        seen.append(above)
