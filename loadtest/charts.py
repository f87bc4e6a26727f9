"""Charts as inline SVG: lines over time, a distribution, one stacked bar, points of a sweep. Standard library only.

Pure functions to text. Colours, type and dark mode come from STYLE, which the page that holds the charts includes once;
words are escaped here. Knows nothing of runs and requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Tone = Literal["low", "middle", "high", "answered", "offered", "client", "network", "queue", "handler"]
State = Literal["pass", "fail", "invalid"]

WIDTH, HALF_WIDTH = 880.0, 430.0
HEIGHT = 280.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 18.0, 40.0, 44.0
LETTER = 6.6
"""Width of a letter at the charts' 12 px, on average."""
LARGEST, SMALLEST = 1e15, 1e-6
"""Beyond these a value is drawn at the edge."""

STYLE = """
:root{--page:#f6f7f9;--card:#fff;--ink:#16191f;--soft:#5b6370;--line:#dfe3e8;--grid:#eceff3;--wash:#eef2f7;
--low:#5598e7;--middle:#256abf;--high:#0d366b;--answered:#2a78d6;--offered:#7a828e;--client:#aab1bb;
--network:#5b4bb8;--queue:#e09a00;--handler:#2a78d6;--good:#0b7a3b;--bad:#c5282f;--doubt:#8a5a00;--on:#fff}
@media (prefers-color-scheme:dark){:root{--page:#101216;--card:#181b21;--ink:#eceef2;--soft:#a2a9b5;--line:#313640;
--grid:#252a32;--wash:#20252d;--low:#2f7ddb;--middle:#79b0f0;--high:#d6e7fc;--answered:#4a92e8;--offered:#9aa2ae;
--client:#6c7480;--network:#9c92ee;--queue:#d79a20;--handler:#3d88e0;--good:#46c07c;--bad:#f0696b;--doubt:#e0ab48;--on:#101216}}
.chart{display:block;width:100%;height:auto;font:12px/1.2 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.chart text{fill:var(--soft);font-variant-numeric:tabular-nums}.chart .strong{fill:var(--ink);font-weight:600}
.chart .grid{stroke:var(--grid)}.chart .axis{stroke:var(--line)}.chart .band{fill:var(--wash)}
.chart .limit{stroke:var(--bad);stroke-width:1.25;stroke-dasharray:5 4}.chart .limit-word{fill:var(--bad)}
.chart .hover{fill:var(--ink);opacity:0}.chart .hover:hover{opacity:.07}
.chart .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}.chart .dashed{stroke-dasharray:1 5}
.chart .ring{stroke:var(--card);stroke-width:2}.chart .cross{stroke:var(--bad);stroke-width:2;stroke-linecap:round}
.chart .knee{stroke:var(--good);stroke-width:1.25}.chart .path{fill:none;stroke:var(--line);stroke-width:2}
.chart .on-dark{fill:var(--on);font-weight:600}.chart .on-light{fill:#16191f;font-weight:600}
.chart .low{stroke:var(--low)}.chart .middle{stroke:var(--middle)}.chart .high{stroke:var(--high)}
.chart .answered{stroke:var(--answered)}.chart .offered{stroke:var(--offered)}
.chart .fill-low{fill:var(--low)}.chart .fill-middle{fill:var(--middle)}.chart .fill-high{fill:var(--high)}
.chart .fill-client{fill:var(--client)}.chart .fill-network{fill:var(--network)}.chart .fill-queue{fill:var(--queue)}
.chart .fill-handler{fill:var(--handler)}.chart .fill-good{fill:var(--good)}.chart .fill-soft{fill:var(--soft)}
"""


@dataclass(frozen=True)
class Series:
    """A line. points: x and y in the axes' units; where y is None, or no finite number, the line is broken."""

    label: str
    tone: Tone
    points: Sequence[tuple[float, float | None]]
    dashed: bool = False


@dataclass(frozen=True)
class Limit:
    """A horizontal limit, or a vertical one in a distribution."""

    label: str
    value: float


@dataclass(frozen=True)
class Band:
    """A shaded stretch of the x axis."""

    label: str
    start: float
    end: float


@dataclass(frozen=True)
class Note:
    """A stretch of the x axis that says something when it is pointed at; failures: marked with a cross."""

    start: float
    end: float
    words: str
    failures: int = 0


@dataclass(frozen=True)
class Quantile:
    """A named place of a distribution, in the x axis' unit."""

    label: str
    share: float
    value: float


@dataclass(frozen=True)
class Part:
    """A part of a stacked bar."""

    label: str
    tone: Tone
    value: float


@dataclass(frozen=True)
class Dot:
    """A point of a sweep."""

    x: float
    y: float
    state: State
    words: str


@dataclass(frozen=True)
class Axis:
    """Values to pixels. low and high: the ends, in the values' unit; start and end: the same in pixels."""

    low: float
    high: float
    ticks: tuple[float, ...]
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """A value's pixel; one beyond an end is at that end."""
        inside = min(max(value, self.low), self.high)
        share = (
            math.log(inside / self.low) / math.log(self.high / self.low)
            if self.logarithmic
            else (inside - self.low) / (self.high - self.low)
        )
        return self.start + share * (self.end - self.start)


def linear(values: Sequence[float], start: float, end: float, count: int = 5, exact: bool = False) -> Axis:
    """From 0 up to a round number of about `count` steps; exact: up to the largest value itself."""
    largest = min(max((value for value in values if math.isfinite(value)), default=1.0), LARGEST)
    largest = largest if largest > SMALLEST else 1.0
    step = _round_step(largest / count)
    high = largest if exact else step * math.ceil(round(largest / step, 9))
    return Axis(0.0, high, tuple(step * place for place in range(int(high / step + 1e-9) + 1)), start, end)


def logarithmic(values: Sequence[float], start: float, end: float) -> Axis:
    """Between the 1, 2 or 5 times a power of ten around the values that are more than 0."""
    found = [min(max(value, SMALLEST), LARGEST) for value in values if math.isfinite(value) and value > 0] or [1.0]
    low, high = _round_down(min(found)), _round_step(max(found))
    high = high if high > low else 10 * low
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    every = [float(f"{digit}e{power}") for power in decades for digit in (1, 2, 5)]
    ticks = [tick for tick in every if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    if len(ticks) > 9:
        tens = [tick for tick in ticks if f"{tick:e}".startswith("1")]
        ticks = tens[:: math.ceil(len(tens) / 9)]
    return Axis(low, high, tuple(ticks), start, end, logarithmic=True)


def worth_logarithmic(values: Sequence[float]) -> bool:
    """Whether the largest is so much more than the median that a linear axis would press the others flat."""
    found = sorted(value for value in values if math.isfinite(value) and value > 0)
    return bool(found) and found[-1] > 20 * found[len(found) // 2]


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    end: float,
    limits: Sequence[Limit] = (),
    bands: Sequence[Band] = (),
    notes: Sequence[Note] = (),
) -> str:
    """Lines over time. end: of the x axis, which begins with 0."""
    values = [y for each in series for _, y in each.points if y is not None]
    largest = max((value for value in values if math.isfinite(value)), default=0.0)
    shown = [limit for limit in limits if limit.value <= 3 * largest]
    drawn = [*values, *(limit.value for limit in shown)]
    x = linear([end], LEFT, WIDTH - RIGHT, 10, exact=True)
    floor, ceiling = HEIGHT - BOTTOM, TOP
    y = (logarithmic if worth_logarithmic(values) else linear)(drawn, floor, ceiling)
    body = [
        *(_band(band, x) for band in bands),
        *_axes(x, y, x_label, y_label + (", log scale" if y.logarithmic else "")),
        *(_line(each, x, y) for each in series),
        *_limit_lines(shown, y),
        *(_cross(x.at((note.start + note.end) / 2), TOP + 9) for note in notes if note.failures),
        *(_hover(note, x) for note in notes),
        _legend([(each.label, each.tone, each.dashed) for each in series], failures=any(n.failures for n in notes)),
    ]
    above = [f"{limit.label} is above" for limit in limits if limit not in shown]
    if above:
        body.append(_text(WIDTH - RIGHT, 16, "; ".join(above), "end", "limit-word"))
    return _svg(title, body)


def distribution(
    title: str,
    values: Sequence[float],
    quantiles: Sequence[Quantile],
    *,
    x_label: str,
    limits: Sequence[Limit] = (),
    width: float = WIDTH,
) -> str:
    """Which share of the values is no more than x, with some places named."""
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return _svg(title, [_text(width / 2, HEIGHT / 2, "no values", "middle", "")], width)
    shown = [limit for limit in limits if limit.value <= 3 * ordered[-1]]
    drawn = [*ordered, *(limit.value for limit in shown)]
    x = (logarithmic if worth_logarithmic(ordered) else linear)(drawn, LEFT, width - RIGHT)
    y = Axis(0, 100, (0, 25, 50, 75, 100), HEIGHT - BOTTOM, TOP)
    # At most 200 points: the last of the values up to each share.
    places = sorted({round(step * (len(ordered) - 1) / 199) for step in range(200)})
    curve = [(ordered[place], 100 * (place + 1) / len(ordered)) for place in places]
    body = [
        *_axes(x, y, x_label + (", log scale" if x.logarithmic else ""), "% within", width),
        *_limit_bars(shown, x, width),
        _line(Series("", "middle", [(ordered[0], 0.0), *curve]), x, y),
        *(_quantile(each, x, y, width) for each in quantiles),
    ]
    above = [f"{limit.label} is to the right" for limit in limits if limit not in shown]
    if above:
        body.append(_text(width - RIGHT, 16, "; ".join(above), "end", "limit-word"))
    return _svg(title, body, width)


def stacked(title: str, parts: Sequence[Part], unit: str) -> str:
    """One bar that is the whole, in its parts; a legend with the figures under it."""
    found = [Part(part.label, part.tone, _clean(part.value)) for part in parts]
    whole = sum(part.value for part in found) or 1.0
    span, height, gap = WIDTH - 2.0, 44.0, 2.0
    body, left = [], 1.0
    for part in found:
        width = span * part.value / whole
        share = f"{100 * part.value / whole:.0f} %"
        words = f"{part.label}: {amount(part.value)} {unit}, {share}"
        if width > gap:
            body.append(
                f'<g><title>{escape(words)}</title><rect class="fill-{part.tone}" x="{left:.2f}" y="4" rx="3" '
                f'width="{width - gap:.2f}" height="{height:.0f}"/>'
            )
            if width > 46:
                ink = "on-light" if part.tone in ("client", "queue") else "on-dark"
                body.append(_text(left + width / 2 - 1, 31, share, "middle", ink))
            body.append("</g>")
        left += width
    for place, part in enumerate(found):
        at = 1 + place * span / len(found)
        body.append(f'<rect class="fill-{part.tone}" x="{at:.2f}" y="63" width="11" height="11" rx="2"/>')
        body.append(_text(at + 18, 73, part.label, "start", ""))
        body.append(_text(at + 18, 90, f"{amount(part.value)} {unit}", "start", "strong"))
    return _svg(title, body, WIDTH, 98)


def scatter(
    title: str,
    dots: Sequence[Dot],
    *,
    x_label: str,
    y_label: str,
    knee: Limit | None = None,
    limits: Sequence[Limit] = (),
) -> str:
    """Points of a sweep, joined in the order of x, with the last good place marked. No dot may hide behind another."""
    found = sorted(
        (dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)), key=lambda dot: (dot.x, dot.y)
    )
    values = [dot.y for dot in found]
    shown = [limit for limit in limits if limit.value <= 3 * max(values, default=0.0)]
    x = linear([*(dot.x for dot in found), *([knee.value] if knee else [])], LEFT, WIDTH - RIGHT, 8)
    y = (logarithmic if worth_logarithmic(values) else linear)(
        [*values, *(limit.value for limit in shown)], HEIGHT - BOTTOM, TOP
    )
    body = [*_axes(x, y, x_label, y_label + (", log scale" if y.logarithmic else ""))]
    if len(found) > 1:
        path = "L".join(f"{x.at(dot.x):.2f} {y.at(dot.y):.2f}" for dot in found)
        body.append(f'<path class="path" d="M{path}"/>')
    body += _limit_lines(shown, y)
    if knee:
        at = x.at(knee.value)
        body.append(f'<line class="knee" x1="{at:.2f}" x2="{at:.2f}" y1="{TOP:.0f}" y2="{HEIGHT - BOTTOM:.0f}"/>')
        body.append(_beside(at, TOP + 14, knee.label, "strong", WIDTH))
    body += [_dot(dot, x.at(dot.x), y.at(dot.y)) for dot in found]
    body.append(_state_legend(sorted({dot.state for dot in found})))
    return _svg(title, body)


def amount(value: float) -> str:
    """A number for people: three digits that count, and thousands set apart."""
    if not math.isfinite(value):
        return "–"
    if abs(value) < SMALLEST:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}"


def _svg(title: str, body: Sequence[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    # aria-label and no <title> of the whole: browsers would show that over every point of it.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}">{"".join(body)}</svg>'
    )


def _axes(x: Axis, y: Axis, x_label: str, y_label: str, width: float = WIDTH) -> Iterator[str]:
    floor = HEIGHT - BOTTOM
    for tick in y.ticks:
        at = y.at(tick)
        yield f'<line class="grid" x1="{LEFT:.0f}" x2="{width - RIGHT:.0f}" y1="{at:.2f}" y2="{at:.2f}"/>'
        yield _text(LEFT - 8, at + 4, _tick(tick), "end", "")
    yield f'<line class="axis" x1="{LEFT:.0f}" x2="{width - RIGHT:.0f}" y1="{floor:.0f}" y2="{floor:.0f}"/>'
    for tick in x.ticks:
        at = x.at(tick)
        yield f'<line class="axis" x1="{at:.2f}" x2="{at:.2f}" y1="{floor:.0f}" y2="{floor + 4:.0f}"/>'
        yield _text(at, floor + 18, _tick(tick), "middle", "")
    yield _text((LEFT + width - RIGHT) / 2, HEIGHT - 6, x_label, "middle", "")
    middle = (TOP + floor) / 2
    yield (
        f'<text x="13" y="{middle:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 13 {middle:.0f})">{escape(y_label)}</text>'
    )


def _line(series: Series, x: Axis, y: Axis) -> str:
    pieces: list[list[str]] = [[]]
    for across, up in series.points:
        if up is None or not (math.isfinite(up) and math.isfinite(across)):
            pieces.append([])
        else:
            pieces[-1].append(f"{x.at(across):.2f} {y.at(up):.2f}")
    # A lone point is a line to itself, which the round caps make a dot.
    drawn = "".join(f"M{'L'.join(piece if len(piece) > 1 else piece * 2)}" for piece in pieces if piece)
    return f'<path class="line {series.tone}{" dashed" if series.dashed else ""}" d="{drawn}"/>' if drawn else ""


def _band(band: Band, x: Axis) -> str:
    left, right = x.at(band.start), x.at(band.end)
    words = (
        _text((left + right) / 2, TOP - 6, band.label, "middle", "") if right - left > LETTER * len(band.label) else ""
    )
    height = HEIGHT - BOTTOM - TOP
    return (
        f'<g><title>{escape(band.label)}</title><rect class="band" x="{left:.2f}" y="{TOP:.0f}" '
        f'width="{max(0.0, right - left):.2f}" height="{height:.0f}"/>{words}</g>'
    )


def _hover(note: Note, x: Axis) -> str:
    left, right = x.at(note.start), x.at(note.end)
    return (
        f'<rect class="hover" x="{left:.2f}" y="{TOP:.0f}" width="{max(0.0, right - left):.2f}" '
        f'height="{HEIGHT - BOTTOM - TOP:.0f}"><title>{escape(note.words)}</title></rect>'
    )


def _limit_lines(limits: Sequence[Limit], y: Axis) -> Iterator[str]:
    for limit in limits:
        at = y.at(limit.value)
        yield f'<line class="limit" x1="{LEFT:.0f}" x2="{WIDTH - RIGHT:.0f}" y1="{at:.2f}" y2="{at:.2f}"/>'
        yield _text(WIDTH - RIGHT - 4, at - 5, limit.label, "end", "limit-word")


def _limit_bars(limits: Sequence[Limit], x: Axis, width: float) -> Iterator[str]:
    for place, limit in enumerate(limits):
        at = x.at(limit.value)
        yield f'<line class="limit" x1="{at:.2f}" x2="{at:.2f}" y1="{TOP:.0f}" y2="{HEIGHT - BOTTOM:.0f}"/>'
        yield _beside(at, HEIGHT - BOTTOM - 8 - 15 * place, limit.label, "limit-word", width)


def _quantile(each: Quantile, x: Axis, y: Axis, width: float) -> str:
    across, up = x.at(each.value), y.at(100 * each.share)
    words = f"{each.label} {amount(each.value)}"
    # Those near the top would lie on one another: the highest is written over the plot, the others below their dots.
    level = up - 10 if each.share > 0.97 else up + 16
    dot = f'<circle class="fill-middle ring" cx="{across:.2f}" cy="{up:.2f}" r="5"/>'
    return f"<g><title>{escape(words)}</title>{dot}</g>" + _beside(across, level, words, "strong", width)


def _beside(at: float, level: float, words: str, kind: str, width: float) -> str:
    """Words right of a place, or left of it where there is no room."""
    fits = at + 8 + LETTER * len(words) < width - 4
    return _text(at + 8 if fits else at - 8, level, words, "start" if fits else "end", kind)


def _dot(dot: Dot, across: float, up: float) -> str:
    near = f'<circle class="hover" cx="{across:.2f}" cy="{up:.2f}" r="12"/>'
    return f"<g><title>{escape(dot.words)}</title>{near}{_shape(dot.state, across, up)}</g>"


def _shape(state: State, across: float, up: float) -> str:
    """Told apart by form as well as by colour."""
    if state == "pass":
        return f'<circle class="fill-good ring" cx="{across:.2f}" cy="{up:.2f}" r="6"/>'
    if state == "fail":
        return _cross(across, up)
    return (
        f'<path class="fill-soft ring" d="M{across:.2f} {up - 6:.2f}L{across + 6:.2f} {up + 5:.2f}'
        f'L{across - 6:.2f} {up + 5:.2f}Z"/>'
    )


def _cross(across: float, up: float) -> str:
    return (
        f'<path class="cross" d="M{across - 4:.2f} {up - 4:.2f}L{across + 4:.2f} {up + 4:.2f}'
        f'M{across - 4:.2f} {up + 4:.2f}L{across + 4:.2f} {up - 4:.2f}"/>'
    )


def _legend(entries: Sequence[tuple[str, Tone, bool]], failures: bool) -> str:
    found, at = [], LEFT
    for label, tone, dashed in entries:
        kind = f"line {tone}{' dashed' if dashed else ''}"
        found.append(f'<path class="{kind}" d="M{at:.0f} 12L{at + 18:.0f} 12"/>')
        found.append(_text(at + 25, 16, label, "start", ""))
        at += 25 + LETTER * len(label) + 20
    if failures:
        found += [_cross(at + 5, 12), _text(at + 16, 16, "failed requests", "start", "")]
    return "".join(found)


def _state_legend(states: Sequence[State]) -> str:
    words: dict[State, str] = {"pass": "holds the SLO", "fail": "breaks it", "invalid": "not valid"}
    found, at = [], LEFT + 6
    for state in states:
        found += [_shape(state, at, 12), _text(at + 14, 16, words[state], "start", "")]
        at += 14 + LETTER * len(words[state]) + 26
    return "".join(found)


def _text(across: float, up: float, words: str, anchor: str, kind: str) -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<text{chosen} x="{across:.2f}" y="{up:.2f}" text-anchor="{anchor}">{escape(words)}</text>'


def _tick(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= value < 1e7 else f"{value:.6g}"


def _clean(value: float) -> float:
    return min(max(value, 0.0), LARGEST) if math.isfinite(value) else 0.0


def _round_step(least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is not less."""
    power = math.floor(math.log10(least))
    return next(step for digit in (1, 2, 5, 10, 20) if (step := float(f"{digit}e{power}")) >= least * (1 - 1e-9))


def _round_down(value: float) -> float:
    power = math.floor(math.log10(value)) + 1
    steps = (float(f"{digit}e{down}") for down in (power, power - 1, power - 2) for digit in (5, 2, 1))
    return next(step for step in steps if step <= value * (1 + 1e-9))
