"""Charts: where the figures are drawn, that words stay words, and that nothing in a chart reaches out of it."""

from __future__ import annotations

import re
import warnings
from xml.etree import ElementTree

import pytest

from honeclip.pictures.charts import MOST_POINTS, Dot, Field, Series, dots, heat, lines

SVG = "{http://www.w3.org/2000/svg}"
RISING = Series("after", [0, 1, 2, 4], [0.1, 0.5, 0.7, 0.9], 1)


def parsed(svg: str) -> ElementTree.Element:
    """The chart as a browser would read it: the namespace of SVG is implied inside HTML."""
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def words(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in parsed(svg).iter(f"{SVG}text")]


def markers(svg: str, colour: str) -> list[tuple[float, float]]:
    """Where round markers of a colour were put, in the chart's own units."""
    drawn = [one for one in parsed(svg).iter(f"{SVG}use") if f"fill: var(--{colour})" in one.get("style", "")]
    return [(float(one.get("x")), float(one.get("y"))) for one in drawn]


def strokes(svg: str, colour: str) -> list[list[tuple[float, float]]]:
    """The points of every line of a colour that is inside the axes."""
    drawn = [
        one.get("d")
        for one in parsed(svg).iter(f"{SVG}path")
        if one.get("clip-path") and f"stroke: var(--{colour})" in one.get("style", "")
    ]
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)] for path in drawn]


def affine(points: list[float], values: list[float]) -> bool:
    """Whether points lie where values say: equal up to an origin and a scale."""
    scale = (points[-1] - points[0]) / (values[-1] - values[0])
    return [round(points[0] + scale * (value - values[0]), 2) for value in values] == pytest.approx(points, abs=0.02)


@pytest.fixture
def line_chart() -> str:
    flat = Series("chance", RISING.x, [0.2] * 4, None)
    before = Series("before", RISING.x, [0.1, 0.1, 0.3, 0.2], 0)
    return lines([before, RISING, flat], x_label="step", y_label="share", says="it rose")


def test_lines_go_through_their_points(line_chart):
    (path,) = strokes(line_chart, "series-1")
    assert affine([x for x, _ in path], list(RISING.x))
    assert affine([y for _, y in path], list(RISING.y))
    assert path[0][1] > path[-1][1], "up is more"
    assert set(path) <= set(markers(line_chart, "series-1")), "each of few points has a marker"


def test_a_line_without_a_colour_is_dashed_and_has_no_markers(line_chart):
    assert "stroke-dasharray" in line_chart
    (chance,) = [path for path in strokes(line_chart, "soft") if len(path) == 4]
    assert len({y for _, y in chance}) == 1


def test_intervals_stand_upright_through_their_points():
    spans = [(0.05, 0.2), (0.4, 0.6), (0.7, 0.7), (0.8, 1.0)]
    with_intervals = [Series("a", [128, 160, 224, 288], RISING.y, number, spans) for number in (0, 1)]
    chart = lines(with_intervals, x_label="px", y_label="share", says="it rose", ticks=[128, 160, 224, 288])
    assert {"128", "160", "224", "288"} <= set(words(chart))
    paths = strokes(chart, "series-1")
    (curve,), upright = [path for path in paths if len(path) == 4], [path for path in paths if len(path) == 2]
    for point, line, (low, high) in zip(curve, upright, spans, strict=True):
        assert [x for x, _ in line] == pytest.approx([point[0]] * 2)
        ends, scale = [y for _, y in line], (curve[0][1] - curve[-1][1]) / (RISING.y[-1] - RISING.y[0])
        assert abs(ends[0] - ends[1]) == pytest.approx(scale * (high - low), abs=0.05)
    (other,) = [path for path in strokes(chart, "series-0") if len(path) == 4]
    assert other[0][0] != curve[0][0], "beside each other, so that both intervals are seen"


def test_words_stay_words(line_chart):
    assert {"step", "share", "before", "after", "chance"} <= set(words(line_chart))
    assert parsed(line_chart).get("aria-label") == "it rose"
    assert parsed(line_chart).get("role") == "img"


def test_one_line_needs_no_legend():
    assert "after" not in words(lines([RISING], x_label="step", y_label="share", says="it rose"))


def test_steps_have_whole_numbers():
    shown = words(lines([RISING], x_label="step", y_label="share", says=""))
    assert {"0", "1", "2", "3", "4"} <= set(shown)


def test_a_logarithmic_axis_is_one():
    svg = lines([Series("a", [1, 10, 100], [0, 0.5, 1], 1)], x_label="k", y_label="s", says="", log_x=True)
    (path,) = strokes(svg, "series-1")
    assert affine([x for x, _ in path], [0, 1, 2])
    assert {"1", "10", "100"} <= set(words(svg))


def test_long_series_are_thinned_and_keep_both_ends():
    total = 20 * MOST_POINTS + 7
    whole = lines([Series("a", [0, total - 1], [0, 1], 1)], x_label="x", y_label="y", says="", y_range=(0, 1))
    thin = lines(
        [Series("a", range(total), [i / (total - 1) for i in range(total)], 1)],
        x_label="x",
        y_label="y",
        says="",
        y_range=(0, 1),
    )
    (ends,), (path,) = strokes(whole, "series-1"), strokes(thin, "series-1")
    assert len(path) <= MOST_POINTS + 1
    assert (path[0], path[-1]) == (pytest.approx(ends[0], abs=0.01), pytest.approx(ends[-1], abs=0.01))


DOTS = [Dot(0.0, 0.0, 0.1), Dot(0.5, 0.4, 0.7), Dot(1.0, 0.9, 1.0)]


def test_dots_and_intervals_stand_at_their_values():
    svg = dots(["a", "b", "c"], [("model", DOTS)], x_label="share", says="")
    found = markers(svg, "series-1")
    assert affine([x for x, _ in found], [0, 0.5, 1])
    origin, scale = found[0][0], found[2][0] - found[0][0]
    spans = [[(x - origin) / scale for x, _ in path] for path in strokes(svg, "series-1")]
    assert spans == [pytest.approx([one.low, one.high], abs=1e-3) for one in DOTS]
    assert [y for _, y in found] == sorted(y for _, y in found), "the first name is at the top"


def test_two_series_share_rows_without_hiding_each_other():
    svg = dots(["a", "b"], [("before", [DOTS[1], None]), ("after", [DOTS[1], DOTS[2]])], x_label="share", says="")
    before, after = (
        [one for one in markers(svg, colour) if one[1] > 25]  # above them is the legend
        for colour in ("series-0", "series-1")
    )
    assert {"before", "after", "a", "b"} <= set(words(svg))
    assert len(after) > len(before), "a missing figure draws nothing"
    assert before[0][0] == pytest.approx(after[0][0])
    assert abs(before[0][1] - after[0][1]) > 4


@pytest.mark.parametrize("text", ['<script>alert("x")</script>', "5 $ & 10 $ x_1", "a 'quoted' name"])
def test_any_text_is_shown_as_it_is(text):
    svg = lines([RISING, Series(text, [0, 4], [0, 1], 0)], x_label=text, y_label=text, says=text)
    assert words(svg).count(text) == 3
    assert parsed(svg).get("aria-label") == text
    assert not list(parsed(svg).iter(f"{SVG}script"))


def test_the_page_colours_a_chart(line_chart):
    drawn = line_chart + dots(["a"], [("x", DOTS[:1]), ("y", DOTS[1:2]), ("z", DOTS[2:])], x_label="", says="")
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == []
    assert set(re.findall(r"var\((--[\w-]+)\)", drawn)) <= {
        "--ink",
        "--soft",
        "--line",
        "--series-0",
        "--series-1",
        "--series-2",
    }


def test_a_chart_reaches_nothing_outside_of_itself(line_chart):
    assert "<style" not in line_chart, "a style sheet would hold for the whole page"
    assert "http" not in line_chart
    assert "xlink" not in line_chart
    known = {one.get("id") for one in parsed(line_chart).iter() if one.get("id")}
    named = set(re.findall(r'url\(#(\w+)\)|href="#(\w+)"', line_chart))
    assert {first or second for first, second in named} <= known


def test_charts_of_one_page_may_share_names_only_for_equal_things(line_chart):
    other = dots(["a", "b", "c"], [("model", DOTS)], x_label="share", says="")
    held: dict[str, bytes] = {}
    for svg in (line_chart, other):
        for one in parsed(svg).iter():
            if one.get("id"):
                assert (
                    held.setdefault(one.get("id"), ElementTree.tostring(one).strip())
                    == ElementTree.tostring(one).strip()
                )


def test_the_same_figures_give_the_same_bytes():
    drawn = {lines([RISING], x_label="x", y_label="y", says="s") for _ in range(2)}
    assert len(drawn) == 1


def test_drawing_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dots(["a"], [("x", DOTS[:1])], x_label="", says="")
    assert dict(matplotlib.rcParams) == before


def test_a_heat_map_writes_its_figures_and_colours_them_by_sign_and_strength():
    fields = [
        [Field(0.0, "0.50"), None],
        [Field(1.0, "0.71", strong=True), Field(-0.5, "0.32")],
        [Field(2.0, "0.9"), None],
    ]
    svg = heat(["starter", "runs/a", "<b>"], ["stamps", "plants"], fields, says="runs/a is better")
    assert words(svg) == ["stamps", "plants", "starter", "runs/a", "<b>", "0.50", "0.71", "0.32", "0.9"]
    drawn = [one.get("style", "") for one in parsed(svg).iter(f"{SVG}path")]
    strength = {
        hue: [float(re.search(r"opacity: ([\d.]+)", style)[1]) for style in drawn if f"fill: var(--{hue})" in style]
        for hue in ("series-1", "series-2")
    }
    assert strength == {"series-1": [0.6, 0.6], "series-2": [0.3]}
    bold = [
        one for one in parsed(svg).iter(f"{SVG}text") if "bold" in one.get("style", "") or "700" in one.get("style", "")
    ]
    assert ["".join(one.itertext()) for one in bold] == ["0.71"]
