"""The site: it builds with every warning an error, asks nobody for anything, and has every command, option and config key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import typer
from typer.testing import CliRunner

from honeclip import config
from honeclip.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
SITE = "https://site.invalid/"

COMMANDS = sorted(typer.main.get_command(app).commands)


def build(into: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # not --quiet, with which mkdocs does not count its warnings
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(into), *options],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    into = tmp_path_factory.mktemp("site") / "built"
    done = build(into)
    assert done.returncode == 0, done.stdout + done.stderr
    return into


class Page(HTMLParser):
    """What a page links to, what it loads, and which places it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.places |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(values["href"])
        self.loads += [values[name] for name in ("src", "srcset", "poster", "data") if values.get(name) and tag != "a"]
        self.loads += re.findall(r"url\(([^)]+)\)", values.get("style") or "")


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    """Address below SITE -> page."""
    return {
        f"{file.parent.relative_to(site).as_posix()}/".removeprefix("./"): Page(file.read_text(encoding="utf-8"))
        for file in site.rglob("index.html")
    }


def test_every_link_and_picture_leads_to_something(site, pages):
    assert len(pages) > 60
    for at, page in pages.items():
        for link in page.links + page.loads:
            if link.startswith(("mailto:", "data:", "javascript:")):
                continue
            to = urlsplit(urljoin(SITE + at, link))
            if to.netloc != "site.invalid":
                continue
            path = unquote(to.path).lstrip("/")
            assert path in pages or (site / path).is_file(), f"{at}: {link}"
            if to.fragment and path in pages:
                assert unquote(to.fragment) in pages[path].places, f"{at}: {link}"


def test_every_block_of_code_and_table_is_read_as_one(site):
    for file in site.rglob("index.html"):
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"```|\|-{3,}\||^\{:|<p>- ", text, re.MULTILINE), file


def test_links_of_the_readme_lead_to_files():
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text):
            assert (ROOT / link).exists(), f"{name}: {link}"


def test_no_page_loads_anything_from_elsewhere(site, pages):
    for at, page in pages.items():
        assert [one for one in page.loads if urlsplit(one).netloc] == [], at
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"(?:@import\s+|url\()\s*[\"']?([^\"')\s]+)", sheet.read_text(encoding="utf-8"))
        assert [one for one in addresses if urlsplit(one).netloc] == [], sheet


def test_what_is_no_page_is_not_on_the_site(site):
    assert not (site / "hooks").exists()
    assert (site / "deploy" / "Containerfile").is_file()


def told(command: str) -> str:
    """`honeclip COMMAND --help`, wide enough to break no line."""
    done = CliRunner().invoke(app, [*command.split(), "--help"], terminal_width=1000, max_content_width=1000)
    assert done.exit_code == 0, done.output
    return done.output


def listed(text: str, title: str) -> list[str]:
    """The first words of the lines below a title of the help."""
    block = text.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
    return [line.split("  ")[1] for line in block.splitlines() if re.match(r"  \S", line)]


def cells(page: str) -> Iterator[list[str]]:
    """The rows of all tables of a page, as text."""
    for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL):
        yield [unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in re.findall(r"<td>(.*?)</td>", row, re.DOTALL)]


def sections(page: str) -> dict[str, str]:
    """Heading -> what stands below it, of a page of a command."""
    parts = re.split(r"<h[123] id=[^>]*>(.*?)<", page)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_of_the_help_has_a_page(site):
    named = [line.split()[0] for line in told("").partition("Commands:\n")[2].splitlines()]
    assert len(named) > 18
    assert sorted(named) == COMMANDS
    assert sorted(one.name for one in (site / "commands").iterdir() if one.is_dir()) == COMMANDS
    index = (site / "commands" / "index.html").read_text(encoding="utf-8")
    assert [row[0] for row in cells(index) if row] == [f"honeclip {name}" for name in named]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_has_the_options_of_its_command(site, command):
    found = sections((site / "commands" / command / "index.html").read_text(encoding="utf-8"))
    text = told(command)
    below = [line.split()[0] for line in text.partition("\nCommands:\n")[2].splitlines() if line.strip()]
    assert list(found) == [f"honeclip {command}", *(f"honeclip {command} {name}" for name in below)]
    for heading, content in found.items():
        text = told(heading.removeprefix("honeclip "))
        wanted = [name.removeprefix("-h, ") for title in ("Arguments", "Options") for name in listed(text, title)]
        assert [row[0] for row in cells(content) if row] == wanted
        assert "--help" in wanted


def test_every_config_key_is_on_its_page_with_its_default(site):
    page = (site / "config" / "index.html").read_text(encoding="utf-8")
    shown = {row[0]: row[1:] for row in cells(page) if row}
    assert list(shown) == list(config.keys())
    assert all(all(row) for row in shown.values()), "a key without default, values or meaning"
    for name, (default, _values, _meaning) in shown.items():
        config.load(sets=[f"{name}={default}"])
    assert shown["train.length"][0] == '"auto"'
    assert shown["model.freeze"][1] == "auto, none, image, text, towers"


@pytest.fixture
def broken(tmp_path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """broken("text") -> the build of a copy of the site with a page more."""

    def made(text: str) -> subprocess.CompletedProcess[str]:
        for name in ("docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "bench"):
            (tmp_path / name).symlink_to(ROOT / name)
        (tmp_path / "docs").unlink()
        (tmp_path / "docs").mkdir()
        for one in (ROOT / "docs").iterdir():
            (tmp_path / "docs" / one.name).symlink_to(one)
        page = tmp_path / "docs" / "serving.md"
        page.unlink()
        page.write_text(text, encoding="utf-8")
        (tmp_path / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), encoding="utf-8")
        return build(tmp_path / "built", "--config-file", str(tmp_path / "mkdocs.yml"))

    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["# A\n\n[b](nowhere.md)\n", "# A\n\n![b](nowhere.png)\n", "# A\n\n[b](scale.md#no)\n"]
)
def test_a_link_to_nothing_fails_the_build(broken, text):
    done = broken(text)
    assert done.returncode == 1
    assert "serving.md" in done.stderr


@pytest.mark.slow
def test_pages_in_a_browser_ask_for_nothing_elsewhere(site, browser):
    page = browser.new_page()
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.on("pageerror", lambda one: faults.append(str(one)))
    for name in ("index.html", "config/index.html", "tutorials/mac/index.html"):
        page.goto((site / name).as_uri(), wait_until="networkidle")
        assert page.locator("article h1").count() == 1
    page.close()
    assert faults == []
    assert {urlsplit(one).scheme for one in asked} <= {"file", "data", "blob"}
