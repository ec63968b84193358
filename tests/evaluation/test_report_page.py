"""The report: report.json of the contract, and one self-contained page that says what was found."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from honeclip.evaluation.report import Report, write

HOSTILE = '<script>alert("x")</script>'
EVENTS = [
    {"event": "start", "step": 0},
    *({"event": "step", "step": step, "loss": 4 / step, "lr": 1e-3 / step} for step in range(1, 30)),
    *(
        {"event": "evaluate", "step": step, "score": step / 60, "words": "mean of both R@10"}
        for step in (0, 10, 20, 29)
    ),
]


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, text by the last tag, rows of tables, all of the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.within: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "small" and self.rows:
            self.rows[-1][-1] += "|"

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.rstrip("\n")
        self.within.append((self.tags[-1][0] if self.tags else "", data.strip()))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def said(self, tag: str) -> list[str]:
        return [text for name, text in self.within if name == tag and text]


def read(folder) -> tuple[Page, str, dict]:
    html = (folder / "index.html").read_text(encoding="utf-8")
    return Page(html), html, json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.fixture
def before(embeddings, report) -> Report:
    return report(embeddings(good=3, seed=1))


@pytest.fixture
def after(embeddings, report) -> Report:
    return report(embeddings(good=40))


def test_report_json_is_that_of_the_contract(before, after, tmp_path):
    write(tmp_path / "r", before=before, after=after)
    stored = json.loads((tmp_path / "r" / "report.json").read_text())
    assert (stored["before"], stored["after"]) == (before.metrics, after.metrics)
    assert stored["environment"] == after.environment
    assert stored["difference"]["retrieval"]["image_to_text"]["R@1"]["value"] == pytest.approx(
        after.metrics["retrieval"]["image_to_text"]["R@1"]["value"]
        - before.metrics["retrieval"]["image_to_text"]["R@1"]["value"]
    )


def test_an_evaluation_alone_has_no_before(after, tmp_path):
    where = after.save(str(tmp_path / "r"))
    assert where == tmp_path / "r" / "index.html"
    page, html, stored = read(tmp_path / "r")
    assert set(stored) == {"after", "environment"}
    assert "before" not in page.text
    assert after.metrics["retrieval"]["image_to_text"]["R@10"]["value"] > 0.5
    assert "honeclip evaluate m --data stamps" in page.text
    assert html.startswith("<!doctype html>")


def test_the_page_holds_every_figure_with_its_interval(before, after, tmp_path):
    write(tmp_path / "r", before=before, after=after)
    page, _, stored = read(tmp_path / "r")
    groups = [index for index, row in enumerate(page.rows) if len(row) == 1]
    for start, way in zip(groups, ("image_to_text", "text_to_image"), strict=False):
        for row, (name, new) in zip(page.rows[start + 1 :], stored["after"]["retrieval"][way].items(), strict=False):
            digits = 1 if name == "median_rank" else 3
            old, change = stored["before"]["retrieval"][way][name], stored["difference"]["retrieval"][way][name]
            assert row[0] == name.replace("_", " ")
            for cell, one in ((row[1], old), (row[2], new)):
                assert cell == "{value:.{d}f}|{low:.{d}f} to {high:.{d}f}".format(**one, d=digits)
            signed = "|better{value:+.{d}f}|{low:+.{d}f} to {high:+.{d}f}".format(**change, d=digits).replace("-", "−")
            assert row[3] == signed
    accuracy = next(row for row in page.rows if row[0] == "accuracy")
    assert accuracy[2].startswith(f"{stored['after']['zeroshot']['accuracy']['value']:.3f}|")
    assert accuracy[4] == "0.333"


def test_the_page_has_charts_pictures_classes_and_curves(before, after, tmp_path):
    write(tmp_path / "r", before=before, after=after, events=EVENTS, settings={"train": {"lr": 0.001}})
    page, _, _ = read(tmp_path / "r")
    charts = [one for one in page.of("svg") if one.get("role") == "img"]
    assert len(charts) == 5
    assert all(one["aria-label"] for one in charts)
    for title in ("Loss", "Validation", "Learning rate", "Scores with their intervals"):
        assert title in page.said("h3")
    assert "On the validation split: mean of both R@10." in page.text
    assert len(page.of("img")) == 12
    assert "(before: " in page.text
    for heading in ("Zero-shot, class by class", "Data and machine", "Settings", "Where it fails"):
        assert heading in page.said("h2")
    assert ("dt", "train.lr") in page.within
    assert ("dd", "cores 2") in page.within


def test_one_file_that_loads_nothing(before, after, tmp_path):
    write(tmp_path / "r", before=before, after=after, events=EVENTS)
    page, html, _ = read(tmp_path / "r")
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["index.html", "report.json"]
    for tag in ("script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"):
        assert page.of(tag) == [], tag
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), "no handlers"
            if name in ("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"):
                assert (value or "#").startswith(("#", "data:image/")), (tag, value)
    assert not re.findall(r"https?:", html)
    assert not re.findall(r"url\((?!#)|@import", html)


def test_hostile_words_stay_words(embeddings, report, tmp_path):
    of = embeddings(captions=[f"{HOSTILE} {row}" for row in range(60)])
    given = report(of, environment={"model": HOSTILE, HOSTILE: HOSTILE}, repeat=HOSTILE, notes=(HOSTILE,))
    write(tmp_path / "r", after=given, title=HOSTILE, settings={HOSTILE: [HOSTILE]}, notes=(HOSTILE,))
    page, html, _ = read(tmp_path / "r")
    assert page.of("script") == []
    assert HOSTILE not in html
    assert page.text.count(HOSTILE) > 20


def test_a_hostile_class_too(embeddings, tmp_path, pairs):
    from honeclip.evaluation.answers import answer, metrics
    from honeclip.evaluation.zeroshot import Classes

    of = embeddings()
    known = Classes((HOSTILE, "b & b"), of.text[:2], 10.0)
    found = answer(of, [((HOSTILE, "b & b")[row % 2],) for row in range(60)], known)
    Report(metrics(found, data=HOSTILE, split="test", size_px=32), found, (), {}, "").save(tmp_path / "r")
    page, html, _ = read(tmp_path / "r")
    assert page.of("script") == []
    assert HOSTILE not in html
    assert "b & b" in page.text


def test_a_picture_that_is_gone_leaves_an_empty_frame(after, tmp_path):
    gone = after.examples[0].image
    gone.unlink()
    after.save(tmp_path / "r")
    page, _, _ = read(tmp_path / "r")
    assert page.text.count("cannot be shown") == 1
    assert len(page.of("img")) == 11


def test_pictures_can_be_left_out(after, tmp_path):
    write(tmp_path / "r", after=after, pictures=False)
    page, _, _ = read(tmp_path / "r")
    assert page.of("img") == []
    assert "caption 1" not in page.text


def test_notes_are_shown_and_missing_pairs_said(before, embeddings, report, tmp_path):
    other = report(embeddings(captions=[f"other {row}" for row in range(60)]))
    write(tmp_path / "r", before=before, after=other, notes=("Mind the step.",))
    page, _, stored = read(tmp_path / "r")
    assert "Mind the step." in page.said("li")
    assert "were not asked the same queries" in page.text
    assert "difference" not in stored
    assert "(before: " not in page.text


def test_an_old_report_is_replaced(before, after, tmp_path):
    before.save(tmp_path / "r")
    after.save(tmp_path / "r")
    assert json.loads((tmp_path / "r" / "report.json").read_text())["after"] == after.metrics


def test_a_report_waits_on_disk_unchanged(before, after, tmp_path):
    restored = Report.from_json(json.loads(json.dumps(before.to_json())))
    assert restored.metrics == before.metrics
    assert restored.examples == ()
    for folder, one in (("a", before), ("b", restored)):
        write(tmp_path / folder, before=one, after=after)
    assert (tmp_path / "a" / "index.html").read_bytes() == (tmp_path / "b" / "index.html").read_bytes()


def test_the_same_report_gives_the_same_bytes(before, after, tmp_path):
    for folder in "ab":
        write(tmp_path / folder, before=before, after=after, events=EVENTS)
    assert (tmp_path / "a" / "index.html").read_bytes() == (tmp_path / "b" / "index.html").read_bytes()


def test_few_events_draw_no_curve(after, tmp_path):
    events = [EVENTS[1], {"event": "step", "step": 2, "loss": None}, {"event": "evaluate", "step": 2, "score": None}]
    write(tmp_path / "r", after=after, events=events)
    assert len([one for one in read(tmp_path / "r")[0].of("svg") if one.get("role")]) == 2


def test_tiny_data_makes_a_page_too(embeddings, report, tmp_path):
    """Three rows: no R@k at all."""
    report(embeddings(rows=3, good=1), with_classes=False).save(tmp_path / "r")
    page, _, stored = read(tmp_path / "r")
    assert list(stored["after"]["retrieval"]["image_to_text"]) == ["median_rank"]
    assert "median rank" in page.text
