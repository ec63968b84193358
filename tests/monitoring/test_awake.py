"""A Mac is kept awake by caffeinate for as long as a run, with a warning where it runs on its battery."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from honeclip.monitoring.awake import Battery, awake, parsed

# as pmset of macOS 12 to 15 prints them
ON_BATTERY = """Now drawing from 'Battery Power'
 -InternalBattery-0 (id=4653155)\t68%; discharging; 4:31 remaining present: true
"""
JUST_UNPLUGGED = """Now drawing from 'Battery Power'
 -InternalBattery-0 (id=23199843)\t100%; discharging; (no estimate) present: true
"""
CHARGING = """Now drawing from 'AC Power'
 -InternalBattery-0 (id=4653155)\t68%; charging; 1:12 remaining present: true
"""
FULL = """Now drawing from 'AC Power'
 -InternalBattery-0 (id=4653155)\t100%; charged; 0:00 remaining present: true
"""
NOT_CHARGING = """Now drawing from 'AC Power'
 -InternalBattery-0 (id=4653155)\t80%; AC attached; not charging present: true
"""
NO_BATTERY = "Now drawing from 'AC Power'\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (ON_BATTERY, Battery(True, 68, "4:31")),
        (JUST_UNPLUGGED, Battery(True, 100, "")),
        (CHARGING, Battery(False, 68, "")),
        (FULL, Battery(False, 100, "")),
        (NOT_CHARGING, Battery(False, 80, "")),
        (NO_BATTERY, Battery(False)),
        ("", Battery(False)),
        ("pmset: something else\n", Battery(False)),
    ],
)
def test_what_pmset_prints_is_read(text, found):
    assert parsed(text) == found


needs_scripts = pytest.mark.skipif(sys.platform == "win32", reason="programs the POSIX way")


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A PATH with a caffeinate that writes down its arguments and its process, and stays until it is told to end."""
    folder = tmp_path / "bin"
    folder.mkdir()
    os.mkfifo(tmp_path / "begun")
    caffeinate = f'#!/bin/sh\necho "$$ $@" > {tmp_path / "begun"}\nexec /bin/sleep 600\n'
    write(folder / "caffeinate", caffeinate)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def write(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@needs_scripts
def test_a_mac_stays_awake_for_the_run_and_no_longer(programs, tmp_path):
    write(programs / "pmset", f'#!/bin/sh\necho "Now drawing from \'AC Power\'"\necho "$@" > {tmp_path / "asked"}\n')
    said: list[str] = []
    with awake(said.append, "darwin"):
        process, *arguments = (tmp_path / "begun").read_text().split()
        assert arguments == ["-i", "-w", str(os.getpid())]
        assert alive(int(process))
    assert not alive(int(process))
    assert said == ["this Mac stays awake until the run has ended (caffeinate)"]
    assert (tmp_path / "asked").read_text() == "-g batt\n"


@needs_scripts
def test_on_battery_it_is_warned(programs, tmp_path):
    write(programs / "pmset", f"#!/bin/sh\nprintf '%s' \"{ON_BATTERY}\"\n")
    said: list[str] = []
    with pytest.raises(ZeroDivisionError), awake(said.append, "darwin"):
        process = int((tmp_path / "begun").read_text().split()[0])
        raise ZeroDivisionError
    assert not alive(process), "an error ends it as well"
    assert len(said) == 1
    assert "Warning: it runs on its battery (68 %, 4:31 h left); plug it in" in said[0]


@needs_scripts
def test_a_caffeinate_that_has_gone_by_itself_is_no_trouble(programs, tmp_path):
    said: list[str] = []
    with awake(said.append, "darwin"):
        os.kill(int((tmp_path / "begun").read_text().split()[0]), signal.SIGTERM)
    assert said == ["this Mac stays awake until the run has ended (caffeinate)"], "pmset is missing: nothing to warn of"


@needs_scripts
@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_other_systems_are_left_as_they_are(programs, platform):
    said: list[str] = []
    with awake(said.append, platform):
        pass
    assert said == []


def test_a_mac_without_caffeinate_trains_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    with awake(said.append, "darwin"):
        pass
    assert said == []
