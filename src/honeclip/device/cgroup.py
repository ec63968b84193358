"""The memory limit of the control groups (cgroups) that this process is in, versions 1 and 2.

Containers and batch systems set it; psutil reports the whole machine's memory inside of one as well.
"""

from __future__ import annotations

from pathlib import Path

UNLIMITED = 1 << 60
"""A version 1 group without a limit gives a number near 2 ** 63."""


def limit_bytes(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The tightest memory limit of the control groups that this process is in; None without one.

    Args:
        root: where the control groups are mounted.
        own: the file that says which ones are this process's.
    """
    limits = [_number(folder / names[0]) for folder, names in _folders(root, own)]
    found = [one for one in limits if one is not None and one < UNLIMITED]
    return min(found, default=None)


def used_bytes(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes that the control group with the tightest limit holds, without file cache that it would give up; or None."""
    tightest: tuple[int, int] | None = None
    for folder, (limit_name, used_name) in _folders(root, own):
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is None or limit >= UNLIMITED or used is None:
            continue
        given_up = _statistic(folder / "memory.stat", ("inactive_file", "total_inactive_file"))
        tightest = min(tightest or (limit, used), (limit, max(0, used - given_up)))
    return tightest[1] if tightest else None


def _folders(root: Path, own: Path) -> list[tuple[Path, tuple[str, str]]]:
    """This process's group and every group above it, with the names of the limit and the use; versions 2 and 1.

    In a container the path may not be visible; then only the groups that are remain.
    """
    v2, v1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    found = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, names = root, v2
        elif "memory" in controllers.split(","):
            base, names = root / "memory", v1
        else:
            continue
        inside = Path(path.lstrip("/"))
        found += [(base / part, names) for part in (inside, *inside.parents) if ".." not in part.parts]
    return [(folder, names) for folder, names in found if folder.is_dir()]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def _statistic(path: Path, names: tuple[str, ...]) -> int:
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    return max((int(value) for name, value in pairs if name in names), default=0)
