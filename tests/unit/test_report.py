"""report.py with wording.py and pictures.py: what the page, the summary, the headline and the table say of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import pytest

from loadtest import pictures, report
from loadtest.records import Record
from loadtest.run import Cold, Run, ServerSide
from loadtest.wording import load_in_words
from model_configs.loadtest import LoadTest, Percentiles, Slo
from tests.fakes.sample_run import (
    CLASSIFIER_LOAD,
    SERVER,
    STREAM_LOAD,
    classifier_records,
    failing,
    sample_run,
    stream_records,
)

HOSTILE = "<script>alert(1)</script>\"'&|`[x](http://example.org)\n\n# big"
VOID = {"meta", "link", "br", "hr", "img", "input"}
CLOSED = LoadTest(
    payloads="digits",
    arrivals="closed",
    clients=8,
    rate=20,
    warmup_s=2,
    duration_s=30,
    slo=Slo(e2e_ms=Percentiles(p95=40)),
)
CLASSIFIED = classifier_records()
STREAMED = stream_records()
FAILED = failing(classifier_records(slow_from_s=30), 0.02)


@dataclass(frozen=True)
class Point:
    """A sweep's point, as the report asks for it."""

    rate: float
    state: Literal["pass", "fail", "invalid"]
    latency_ms: dict[str, float | None]
    confirms: bool = False
    run: str = "20260131T101500Z"

    @property
    def achieved_per_s(self) -> float:
        return 0.99 * self.rate

    @property
    def goodput_per_s(self) -> float:
        return 0.98 * self.rate


def p95(value: float | None) -> dict[str, float | None]:
    return {"e2e_sched_ms.p95": value, "ttft_sched_ms.p95": None}


SWEEP = [
    Point(100, "pass", p95(20)),
    Point(400, "fail", p95(900)),
    Point(200, "pass", p95(40)),
    Point(200, "pass", p95(41), confirms=True),
    Point(300, "invalid", p95(None)),
    Point(500, "pass", p95(30)),
]


class Page(HTMLParser):
    """The text of a page by the tags around it, every tag's attributes, and tags that were not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.feed(html)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def page(run: Run, records: list[Record] = CLASSIFIED, sweep: list[Point] | None = None) -> Page:
    found = Page(report.html(run, records, sweep))
    assert found.open == []
    return found


CLASSIFIER = sample_run(CLASSIFIED)
STREAM = sample_run(STREAMED, STREAM_LOAD, model="pydoc-llama", server=replace(SERVER, batches=None, batch_mean=None))
FAIL = sample_run(FAILED)
INVALID = sample_run(CLASSIFIED, lag_ms=60)
CLOSED_RUN = sample_run(classifier_records(CLOSED), CLOSED)


def test_a_run_is_written_as_a_page_and_a_summary(tmp_path: Path) -> None:
    report.write(CLASSIFIER, CLASSIFIED, tmp_path)
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "summary.md").read_text().startswith("### PASS: digits\n")


def test_the_page_has_its_sections() -> None:
    always = [
        "Service level",
        "Latency",
        "Throughput",
        "Where the time went",
        "Can it be believed?",
        "Machine and plan",
    ]
    assert [each for each in page(CLASSIFIER).headings if each in always] == always
    assert {"Cold start", "Cost"} <= set(page(CLASSIFIER).headings)
    bare = page(replace(CLASSIFIER, server=None, cold=None, cost=None))
    assert not {"Where the time went", "Cold start", "Cost", "Failures"} & set(bare.headings)


def test_the_page_tells_the_slo_with_its_bound() -> None:
    found = page(CLASSIFIER).text
    assert "E2E from the intended time, p95 25.4 ms (≤ 25.6) ≤ 50 ms ✓ holds" in found
    assert "failed requests 0 % ≤ 0.1 % ✓ holds" in found
    assert "of 150/s offered" in found


def test_a_stream_has_distributions_of_ttft_and_itl() -> None:
    found = page(STREAM, STREAMED)
    labels = [attributes["aria-label"] for tag, attributes in found.tags if tag == "svg"]
    assert {"Distribution of ttft_sched_ms", "Distribution of itl_ms"} <= set(labels)
    assert "TPOT" in found.text
    assert "calls of the handler" not in found.text
    assert "ttft" not in " ".join(attributes.get("aria-label", "") for _, attributes in page(CLASSIFIER).tags)


def test_failures_are_told_by_kind_with_a_sample() -> None:
    found = page(FAIL, FAILED)
    assert "Failures" in found.headings
    assert "refused 193 429 or 503: a queue was full 503 queue full" in found.text
    assert "✕ FAIL" in found.text
    assert "failed requests: 2.14 %, allowed ≤ 0.1 %" in found.text


def test_a_sweep_is_drawn_with_its_knee() -> None:
    found = page(CLASSIFIER, CLASSIFIED, SWEEP)
    assert "The highest rate that holds the SLO: 200 requests/s." in found.text
    assert "holds 200/s" in found.text
    assert "200 again 198 196 41.0 ms PASS" in found.text
    assert "300 297 294 n/a INVALID" in found.text
    assert "Latency against throughput" not in page(CLASSIFIER).headings


def test_a_rate_that_holds_beyond_one_that_failed_is_luck() -> None:
    best = pictures.highest_that_holds(SWEEP)
    assert best
    assert best.rate == 200
    assert pictures.highest_that_holds([Point(1, "fail", {})]) is None
    assert "No rate of the sweep held the SLO." in page(CLASSIFIER, CLASSIFIED, [Point(1, "fail", p95(900))]).text


def test_a_run_that_is_not_valid_is_never_green() -> None:
    found = page(INVALID)
    assert "⚠ INVALID" in found.text
    assert "the generator sent late: p99 62.3 ms" in found.text
    assert "is no baseline" in found.text
    assert "not judged" in found.text
    # pass is the only class that is shown in green
    assert not [tag for tag, attributes in found.tags if {"pass", "fail"} & set(attributes.get("class", "").split())]
    assert "✓" not in found.text
    assert report.headline(INVALID).startswith("INVALID  digits")
    assert "PASS" not in found.text + report.headline(INVALID) + report.summary_md(INVALID)
    assert "holds" not in report.summary_md(INVALID)


def test_too_few_values_are_said_and_not_guessed() -> None:
    few = LoadTest(payloads="digits", rate=20, warmup_s=0, duration_s=10, slo=Slo(e2e_sched_ms=Percentiles(p99=50)))
    run = sample_run(classifier_records(few), few)
    assert "n/a (need ≥ 459)" in page(run, classifier_records(few)).text
    assert report.table_rows(run)[0]["p99"] == "n/a (need ≥ 459)"
    assert "n/a (need ≥ 459)" in report.summary_md(run)


def test_nothing_measured_still_has_a_page() -> None:
    run = sample_run([], server=None, price_per_hour=None)
    assert "No request was answered well." in page(run, []).text
    assert report.table_rows(run) == []
    assert "no request was measured" in report.headline(run)


def test_a_run_of_failures_alone_still_has_a_page() -> None:
    records = failing(CLASSIFIED[:900], 1.1, kind="connection", detail="refused")
    run = sample_run(records, server=None)
    assert "No request was answered well." in page(run, records).text
    assert "errors 100 %" in report.headline(run)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (CLASSIFIER_LOAD, "open loop, Poisson arrivals, 150 requests/s"),
        (STREAM_LOAD, "open loop, gamma arrivals of burstiness 0.5, 9 requests/s"),
        (CLOSED, "closed loop, 8 clients, think time 0 s"),
        (
            CLOSED.model_copy(update={"clients": 1, "think_time_s": 0.5}),
            "closed loop, 1 client, think time 0.5 s",
        ),
        (
            LoadTest(payloads="x", arrivals="ramp", rate=1, end_rate=9),
            "open loop, a ramp from 1 to 9 requests/s",
        ),
        (LoadTest(payloads="x", arrivals="trace", trace="day.txt"), "open loop, the trace day.txt"),
    ],
)
def test_the_load_is_told_in_words(load: LoadTest, words: str) -> None:
    assert load_in_words(load) == words


def test_a_closed_loop_says_so_at_every_table() -> None:
    loop = "closed loop, 8 clients, think time 0 s"
    assert loop in report.headline(CLOSED_RUN)
    assert all(row["load"] == loop for row in report.table_rows(CLOSED_RUN))
    tables = [part for part in report.summary_md(CLOSED_RUN).split("\n\n") if part.startswith("|")]
    assert len(tables) == 3
    assert all(loop in table.splitlines()[0] for table in tables)
    found = page(CLOSED_RUN, classifier_records(CLOSED))
    assert found.text.count(loop) == 4  # the head, the SLO, latencies, throughput
    assert "intended time, over time" not in found.text
    assert all(
        "sched" not in row["metric"] and "intended" not in row["metric"] for row in report.table_rows(CLOSED_RUN)
    )


def test_the_headline_is_one_line() -> None:
    assert report.headline(CLASSIFIER) == (
        "PASS  digits  150/150 requests/s open poisson  errors 0 %, limit 0.1 %; "
        "e2e_sched_ms p95 25.4 ms (≤ 25.6), limit 50"
    )


def test_the_tables_rows_have_the_same_columns() -> None:
    rows = report.table_rows(STREAM)
    assert [list(row) for row in rows] == [["metric", "p50", "p90", "p95", "p99", "mean", "max"]] * 7
    assert re.fullmatch(r"[\d.]+ ms \(≤ [\d.]+\)", rows[0]["p95"])


def test_words_from_outside_are_shown_as_words() -> None:
    records = [replace(record, payload=HOSTILE) for record in failing(CLASSIFIED, 0.02, detail=HOSTILE)]
    run = sample_run(records, model=HOSTILE)
    run = replace(
        run,
        id=HOSTILE,
        machine={**run.machine, "cpu": HOSTILE, "packages": {HOSTILE: HOSTILE}},
        plan={**run.plan, "payloads": HOSTILE, "target": {**run.plan["target"], "url": HOSTILE}},
        cold=Cold(None, 1.0),
        cost=run.cost and replace(run.cost, basis=HOSTILE, at=HOSTILE),
        locust=HOSTILE,
        verdict=replace(run.verdict, state="invalid", invalid=(HOSTILE,)),
    )
    text = report.html(run, records, [Point(1, "pass", p95(1), run=HOSTILE)])
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 10
    found = Page(text)
    assert not {"script", "img", "a"} & {tag for tag, _ in found.tags}
    markdown = report.summary_md(run)
    assert not re.search(r"(?<!\\)<script|(?<!\\)\[x\]|^# big", markdown, re.MULTILINE)
    rows = [line for line in markdown.splitlines() if line.startswith("| refused")]
    assert len(rows) == 1
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 4


@pytest.mark.parametrize("run", [CLASSIFIER, FAIL, INVALID], ids=["pass", "fail", "invalid"])
def test_the_page_loads_nothing(run: Run) -> None:
    target = {**run.plan["target"], "url": "the server"}  # the only address that the page tells
    text = report.html(replace(run, plan={**run.plan, "target": target}), CLASSIFIED, SWEEP)
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"] * text.count("<svg")
    assert not re.search(r"@import|url\(|<link|<script|<img|<iframe|src=|href=|srcset=", text)


def test_every_chart_is_well_formed_and_has_a_name() -> None:
    text = report.html(STREAM, STREAMED, SWEEP)
    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(svgs) == 7  # E2E and TTFT over time, throughput, two distributions, the sweep, the split
    for svg in svgs:
        root = ElementTree.fromstring(svg)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"]
        assert not re.search(r"\b(nan|inf|None)\b", svg)


def test_windows_hold_every_request_of_the_run_once() -> None:
    found = pictures.windows(CLASSIFIED, CLASSIFIER_LOAD)
    assert sum(len(window.records) for window in found) == len(CLASSIFIED)
    assert len(found) <= pictures.MAX_WINDOWS + 1
    edges = [window.start_s for window in found]
    assert edges == sorted(edges)
    assert CLASSIFIER_LOAD.warmup_s in edges  # no window is of both phases


def test_a_stall_shows_in_the_window_of_the_intended_time() -> None:
    stalled = [
        replace(record, sent_s=max(record.sent_s, 32.0)) if 30 <= record.intended_s < 32 else record
        for record in CLASSIFIED
    ]
    found = {window.start_s: window for window in pictures.windows(stalled, CLASSIFIER_LOAD)}
    slowest = max(found.values(), key=lambda window: window.quantile("e2e_sched_ms", 0.95) or 0)
    assert 29 <= slowest.start_s < 32


def test_cold_and_cost_are_told() -> None:
    found = page(CLASSIFIER).text
    assert "from start to the first right answer 11.6 s" in found
    assert "the first request, alone 24.8 ms" in found
    assert "price $0.170 an hour, c7i.large, on demand" in found
    assert "from start to the first right answer it ran already" in page(replace(CLASSIFIER, cold=Cold(None, 3))).text


def test_littles_law_is_checked() -> None:
    assert "they agree" in page(CLASSIFIER).text
    crowded = replace(CLASSIFIER, summary=replace(CLASSIFIER.summary, in_flight_mean=9.0))
    assert "in flight were 9.00: they differ" in page(crowded).text


def test_advice_is_on_the_page() -> None:
    full = ServerSide(0.1, 1, 40, 10, requests=9000, batches=1200, batch_mean=7.5, batch_size=8, refused=0)
    assert "calls hold 7.5 of 8 requests: the workers are saturated" in page(replace(CLASSIFIER, server=full)).text
    assert "What that says of the settings" not in page(replace(CLASSIFIER, server=None)).text


def test_the_step_summary_is_appended_where_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "summary"
    file.write_text("before\n")
    report.append_step_summary("### PASS", {"GITHUB_STEP_SUMMARY": str(file)})
    assert file.read_text() == "before\n### PASS\n"
    report.append_step_summary("### PASS", {})
    assert file.read_text() == "before\n### PASS\n"
