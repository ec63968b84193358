"""Limits of control groups, read from trees as the kernel lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from honeclip.device import cgroup

GB = 1_000_000_000
UNLIMITED_V1 = 9223372036854771712


def group(folder: Path, **files) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "cgroup"


@pytest.fixture
def own(tmp_path) -> Path:
    return tmp_path / "own"


def test_version_2_takes_the_tightest_group_on_the_way_up(root, own):
    own.write_text("0::/batch/job\n")
    group(root)
    group(root / "batch", memory__max=4 * GB, memory__current=3 * GB, memory__stat="anon 1\ninactive_file 500000000")
    group(root / "batch" / "job", memory__max="max", memory__current=2 * GB)
    assert cgroup.limit_bytes(root, own) == 4 * GB
    assert cgroup.used_bytes(root, own) == 2_500_000_000
    group(root / "batch" / "job", memory__max=1 * GB, memory__current=GB // 2)
    assert cgroup.limit_bytes(root, own) == 1 * GB
    assert cgroup.used_bytes(root, own) == GB // 2


def test_version_2_inside_a_container(root, own):
    own.write_text("0::/\n")
    group(root, memory__max=2 * GB, memory__current=100)
    assert (cgroup.limit_bytes(root, own), cgroup.used_bytes(root, own)) == (2 * GB, 100)


def test_version_1_beside_other_controllers(root, own):
    own.write_text("9:name=systemd:/\n5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    group(root / "cpu,cpuacct")
    group(root / "memory", memory__limit_in_bytes=UNLIMITED_V1, memory__usage_in_bytes=9 * GB)
    stat = "inactive_file 1\ntotal_inactive_file 1000"
    inside = {"memory__limit_in_bytes": 3 * GB, "memory__usage_in_bytes": 5000, "memory__stat": stat}
    group(root / "memory" / "docker" / "abc", **inside)
    assert cgroup.limit_bytes(root, own) == 3 * GB
    assert cgroup.used_bytes(root, own) == 4000


def test_version_1_in_a_container_that_does_not_see_its_path(root, own):
    own.write_text("4:memory:/docker/abc\n")
    group(root / "memory", memory__limit_in_bytes=3 * GB, memory__usage_in_bytes=7)
    assert (cgroup.limit_bytes(root, own), cgroup.used_bytes(root, own)) == (3 * GB, 7)


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("0::/", {"memory__max": "max", "memory__current": 5}),
        ("0::/", {}),
        ("0::/../other", {"memory__max": "max"}),
        ("4:memory:/", {}),
        ("3:cpuset:/", {"memory__max": 5}),
        ("", {"memory__max": 5}),
    ],
)
def test_without_a_limit_there_is_none(root, own, line, files):
    own.write_text(line and f"{line}\n")
    group(root, **files)
    assert cgroup.limit_bytes(root, own) is None
    assert cgroup.used_bytes(root, own) is None


def test_a_path_with_colons_and_one_that_leads_out(root, own):
    own.write_text("0::/a:b\n")
    group(root / "a:b", memory__max=7)
    assert cgroup.limit_bytes(root, own) == 7
    own.write_text("0::/../a:b\n")
    assert cgroup.limit_bytes(root, own) is None


def test_a_system_without_control_groups(tmp_path):
    assert cgroup.limit_bytes(tmp_path / "none", tmp_path / "neither") is None
    assert cgroup.used_bytes(tmp_path / "none", tmp_path / "neither") is None
