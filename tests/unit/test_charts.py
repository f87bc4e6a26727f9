"""charts.py: whatever is drawn is well-formed, inside its plot, and says what it is."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest import charts
from loadtest.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Band,
    Dot,
    Limit,
    Note,
    Part,
    Quantile,
    Series,
    amount,
)

SVG = "{http://www.w3.org/2000/svg}"
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ANY = st.none() | st.floats()
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
AROUND = 8.0
"""A mark's own size."""


def read(svg: str) -> ElementTree.Element:
    """The chart as XML, after a look at every coordinate in it."""
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx", "width"):
            if name in element.attrib:
                assert -1 <= float(element.attrib[name]) <= width + 1, element.attrib
        for name in ("y", "y1", "y2", "cy", "height"):
            if name in element.attrib:
                assert -1 <= float(element.attrib[name]) <= height + 1, element.attrib
        for across, up in places(element):
            assert LEFT - AROUND <= across <= width - RIGHT + AROUND
            assert 0 <= up <= HEIGHT - BOTTOM + AROUND
    return root


def places(element: ElementTree.Element) -> list[tuple[float, float]]:
    """The points of a path, in pixels."""
    found = element.attrib.get("d", "")
    assert not re.search("nan|inf|e", found), found
    numbers = [float(each) for each in NUMBER.findall(found)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def of_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if name in element.attrib.get("class", "").split()]


def words(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def titles(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}title")]


def curve(root: ElementTree.Element, tone: str) -> list[tuple[float, float]]:
    """A series' points, without its sample in the legend."""
    paths = [each for each in of_class(root, tone) if each.attrib["d"] and places(each)[0][1] > TOP - 1]
    return [place for path in paths for place in places(path)]


@given(
    st.lists(st.tuples(st.floats(0, 60), ANY), max_size=30),
    st.lists(FINITE, max_size=3),
    st.lists(st.integers(0, 3), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_lines_stay_inside_whatever_the_values_are(
    points: list[tuple[float, float | None]], limits: list[float], failures: list[int]
) -> None:
    root = read(
        charts.lines(
            "t",
            [Series("p50", "low", points), Series("p99", "high", points, dashed=True)],
            x_label="s",
            y_label="ms",
            end=60,
            limits=[Limit("SLO", limit) for limit in limits],
            bands=[Band("warm-up", 0, 5)],
            notes=[Note(place, place + 1.0, "w", count) for place, count in enumerate(failures)],
        )
    )
    for across, up in curve(root, "low"):
        assert LEFT <= across <= WIDTH - RIGHT
        assert TOP <= up <= HEIGHT - BOTTOM


@given(st.lists(ANY.map(lambda value: math.nan if value is None else value), max_size=300), st.floats(0, 1e6))
@settings(max_examples=40, deadline=None)
def test_a_distribution_stays_inside_whatever_the_values_are(values: list[float], limit: float) -> None:
    finite = sorted(value for value in values if math.isfinite(value))
    named = [Quantile("p50", 0.5, finite[len(finite) // 2])] if finite else []
    read(charts.distribution("t", values, named, x_label="ms", limits=[Limit("SLO p95", limit)], width=430))


@given(st.lists(st.tuples(FINITE, FINITE, st.sampled_from(["pass", "fail", "invalid"])), max_size=20), FINITE)
@settings(max_examples=40, deadline=None)
def test_a_sweep_stays_inside_whatever_the_values_are(
    points: list[tuple[float, float, charts.State]], at: float
) -> None:
    dots = [Dot(x, y, state, "w") for x, y, state in points]
    root = read(charts.scatter("t", dots, x_label="x", y_label="y", knee=Limit("holds", at), limits=[Limit("SLO", at)]))
    assert titles(root).count("w") == len(dots)


@given(st.lists(st.floats(), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_stacked_bar_fills_the_width_whatever_the_values_are(values: list[float]) -> None:
    root = read(charts.stacked("t", [Part(str(place), "queue", value) for place, value in enumerate(values)], "ms"))
    bars = [each for each in root.iter(f"{SVG}rect") if each.attrib["y"] == "4"]
    assert sum(float(bar.attrib["width"]) for bar in bars) <= WIDTH


@given(st.lists(st.floats(0, 1e12), max_size=20), st.sampled_from([charts.linear, charts.logarithmic]))
def test_axes_are_ascending_and_reach_around_the_values(values: list[float], kind: object) -> None:
    axis = kind(values, 0.0, 100.0)  # type: ignore[operator]
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 12
    assert all(below < above for below, above in pairwise(axis.ticks))
    assert max(values, default=0) <= axis.high * (1 + 1e-9) + charts.SMALLEST
    places = [axis.at(tick) for tick in axis.ticks]
    assert all(0 <= place <= 100 for place in places)
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [
        (412, (0, 100, 200, 300, 400, 500)),
        (0.9, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (100, (0, 20, 40, 60, 80, 100)),
        (0, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    ],
)
def test_ticks_are_round(largest: float, ticks: tuple[float, ...]) -> None:
    assert charts.linear([largest], 0, 100).ticks == pytest.approx(ticks)


def test_logarithmic_ticks_are_1_2_and_5() -> None:
    assert charts.logarithmic([3.0, 150.0], 0, 100).ticks == pytest.approx((2, 5, 10, 20, 50, 100, 200))
    assert charts.logarithmic([0.02, 9000.0], 0, 100).ticks == pytest.approx((0.1, 1, 10, 100, 1000, 10000))


def test_a_value_is_drawn_where_the_axis_says() -> None:
    root = read(
        charts.lines("t", [Series("a", "low", [(0, 0), (5, 50), (10, 100)])], x_label="s", y_label="ms", end=10)
    )
    middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    assert curve(root, "low") == [(LEFT, HEIGHT - BOTTOM), pytest.approx(middle), (WIDTH - RIGHT, TOP)]


def test_a_stall_that_presses_the_rest_flat_is_drawn_on_a_logarithmic_axis() -> None:
    calm = [(float(at), 10.0) for at in range(20)]
    for points, expected in ((calm, "ms"), ([*calm, (20.0, 2000.0)], "ms, log scale")):
        root = read(charts.lines("t", [Series("a", "low", points)], x_label="s", y_label="ms", end=21))
        assert expected in words(root)


def test_a_missing_value_breaks_the_line() -> None:
    points = [(1.0, 1.0), (2.0, 1.0), (3.0, None), (4.0, 1.0), (5.0, math.nan), (6.0, 1.0), (7.0, 1.0)]
    svg = charts.lines("t", [Series("a", "low", points)], x_label="s", y_label="ms", end=8)
    drawn = max(of_class(read(svg), "low"), key=lambda path: len(path.attrib["d"]))
    assert drawn.attrib["d"].count("M") == 3


def test_limits_are_drawn_or_said_to_be_above() -> None:
    calm = [Series("p95", "middle", [(0, 10), (5, 20)])]
    near = read(charts.lines("t", calm, x_label="s", y_label="ms", end=10, limits=[Limit("SLO p95 50 ms", 50)]))
    assert len(of_class(near, "limit")) == 1
    far = read(charts.lines("t", calm, x_label="s", y_label="ms", end=10, limits=[Limit("SLO p95 5000 ms", 5000)]))
    assert not of_class(far, "limit")
    assert "SLO p95 5000 ms is above" in words(far)


def test_failures_are_marked_and_windows_speak() -> None:
    notes = [Note(0, 2, "0–2 s, 9 requests, 3 refused", 3), Note(2, 4, "2–4 s, 8 requests")]
    root = read(charts.lines("t", [], x_label="s", y_label="ms", end=4, notes=notes))
    assert len(of_class(root, "cross")) == 2  # one, and the legend's
    assert titles(root) == [note.words for note in notes]
    assert "failed requests" in words(root)


def test_a_distribution_names_its_quantiles_on_the_curve() -> None:
    values = [float(value) for value in range(1, 101)]
    named = [Quantile("p50", 0.5, 50), Quantile("p95", 0.95, 95), Quantile("p99", 0.99, 99)]
    root = read(charts.distribution("t", values, named, x_label="ms"))
    assert titles(root) == ["p50 50.0", "p95 95.0", "p99 99.0"]
    drawn = curve(root, "line")
    assert all(below[0] <= above[0] and below[1] >= above[1] for below, above in pairwise(drawn))
    for dot in root.iter(f"{SVG}circle"):
        across, up = float(dot.attrib["cx"]), float(dot.attrib["cy"])
        assert min(math.hypot(across - x, up - y) for x, y in drawn) < 3


def test_states_of_a_sweep_are_told_apart_by_form() -> None:
    dots = [Dot(10, 5, "pass", "a"), Dot(20, 6, "fail", "b"), Dot(30, 7, "invalid", "c")]
    root = read(charts.scatter("t", dots, x_label="x", y_label="y", knee=Limit("holds 10/s", 10)))
    assert len(of_class(root, "fill-good")) == len(of_class(root, "cross")) == len(of_class(root, "fill-soft")) == 2
    assert {"holds the SLO", "breaks it", "not valid", "holds 10/s"} <= set(words(root))
    assert of_class(root, "knee")


def test_a_bars_parts_have_their_shares() -> None:
    parts = [Part("client queue", "client", 0), Part("queue", "queue", 30), Part("handler", "handler", 10)]
    root = read(charts.stacked("t", parts, "ms"))
    assert titles(root) == ["queue: 30.0 ms, 75 %", "handler: 10.0 ms, 25 %"]
    assert {"75 %", "25 %", "0 ms", "30.0 ms"} <= set(words(root))


def test_words_from_outside_stay_words() -> None:
    hostile = "<script>alert('1')</script>\"&"
    svgs = [
        charts.lines(
            hostile,
            [Series(hostile, "low", [(0, 1)])],
            x_label=hostile,
            y_label=hostile,
            end=1,
            limits=[Limit(hostile, 1)],
            bands=[Band(hostile, 0, 1)],
            notes=[Note(0, 1, hostile)],
        ),
        charts.distribution(hostile, [1], [Quantile(hostile, 0.5, 1)], x_label=hostile, limits=[Limit(hostile, 1)]),
        charts.stacked(hostile, [Part(hostile, "queue", 1)], hostile),
        charts.scatter(hostile, [Dot(1, 1, "pass", hostile)], x_label=hostile, y_label=hostile, knee=Limit(hostile, 1)),
    ]
    for svg in svgs:
        assert "<script" not in svg
        assert read(svg).attrib["aria-label"] == hostile
        assert read(svg).attrib["role"] == "img"


@pytest.mark.parametrize(
    ("value", "text"),
    [(412, "412"), (41.23, "41.2"), (1523.4, "1,523"), (0.0123, "0.0123"), (0, "0"), (-2.5, "-2.50"), (math.nan, "–")],
)
def test_amounts_have_three_digits_that_count(value: float, text: str) -> None:
    assert amount(value) == text


def test_every_class_of_a_chart_has_a_style() -> None:
    svgs = (
        charts.lines("t", [Series("a", "offered", [(0, 1)], dashed=True)], x_label="", y_label="", end=1,
                     limits=[Limit("l", 1)], bands=[Band("b", 0, 1)], notes=[Note(0, 1, "n", 1)])
        + charts.distribution("t", [1, 2], [Quantile("p50", 0.5, 1)], x_label="")
        + charts.stacked("t", [Part("a", "client", 1), Part("b", "network", 1), Part("c", "handler", 1)], "ms")
        + charts.scatter("t", [Dot(1, 1, "pass", ""), Dot(2, 2, "invalid", "")], x_label="", y_label="", knee=Limit("k", 1))
    )  # fmt: skip
    used = {name for found in re.findall(r'class="([^"]+)"', svgs) for name in found.split()} - {"chart"}
    assert used
    assert {name for name in used if f".{name}{{" not in charts.STYLE and f".{name}:" not in charts.STYLE} == set()
