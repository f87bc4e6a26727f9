"""A run for people: one HTML file that needs no network, a short summary.md, a headline and a table for a terminal.

Layout alone: words come from wording, charts from pictures. Knows nothing of how a run is made.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from loadtest import charts, pictures, server_side, stats, wording
from loadtest.charts import amount
from loadtest.figures import markdown_table
from loadtest.pictures import SweepPoint
from loadtest.records import ERRORS, Record
from loadtest.run import Run, ServerSide
from loadtest.stats import SHARES
from loadtest.wording import METRICS, load_in_words
from model_configs.loadtest import LoadTest

REPORT_FILE = "report.html"
SUMMARY_FILE = "summary.md"
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
TEMPLATES = Path(__file__).parent / "templates"
MAX_SAMPLE = 300


def write(run: Run, records: Sequence[Record], folder: Path, sweep: Sequence[SweepPoint] | None = None) -> None:
    """Write report.html and summary.md; sweep: the points of the sweep that the run belongs to."""
    (folder / REPORT_FILE).write_text(html(run, records, sweep))
    (folder / SUMMARY_FILE).write_text(summary_md(run))


def append_step_summary(text: str, environment: Mapping[str, str] = os.environ) -> None:
    """Show Markdown on the page of a GitHub Actions job, when this is one."""
    if file := environment.get(STEP_SUMMARY):
        with Path(file).open("a") as summary:
            summary.write(text + "\n")


def headline(run: Run) -> str:
    """One line: the verdict, the load, and the limits that it was judged by."""
    load = run.the_plan.load
    loop = load_in_words(load) if run.the_plan.closed else f"open {load.arrivals}"
    words = "; ".join(run.verdict.invalid or map(wording.check_in_words, run.verdict.checks))
    return f"{run.verdict.state.upper()}  {run.model}  {wording.rate_in_words(run)} {loop}  {words}"


def table_rows(run: Run) -> list[dict[str, str]]:
    """For printing.table: a row for each latency. A closed loop says so in every row."""
    loop = {"load": load_in_words(run.the_plan.load)} if run.the_plan.closed else {}
    return [{"metric": METRICS[name], **wording.cells(found), **loop} for name, found in wording.latencies(run)]


def summary_md(run: Run) -> str:
    """The verdict and the figures, short, in Markdown."""
    load, summary = run.the_plan.load, run.summary
    loop = load_in_words(load) if run.the_plan.closed else ""
    times = f"{load.duration_s:g} s measured after {load.warmup_s:g} s of warm-up"
    parts = [
        f"### {run.verdict.state.upper()}: {_plain(run.model)}",
        f"{_plain(load_in_words(load))}; {times}; {_plain(run.id)}",
        "\n".join(f"- not valid: {_plain(reason)}" for reason in run.verdict.invalid),
    ]
    checks = [wording.slo_row(run, check) for check in run.verdict.checks]
    rows = [(row["what"], row["measured"], row["limit"], row["word"]) for row in checks]
    parts.append(markdown_table(("SLO", "measured (95 % bound)", "limit", loop), rows))
    parts.append(markdown_table(("figure", "value", loop), list(wording.key_figures(run))))
    if found := wording.latencies(run):
        cells = [(METRICS[name], *wording.cells(each).values()) for name, each in found]
        parts.append(markdown_table((f"latency{loop and f', {loop}'}", *SHARES, "mean", "max"), cells))
    if summary.errors:
        failures = [(kind, count, _plain(summary.samples.get(kind, ""))) for kind, count in summary.errors.items()]
        parts.append(markdown_table(("failure", "requests", "a sample"), failures))
    return "\n\n".join(part for part in parts if part) + "\n"


def html(run: Run, records: Sequence[Record], sweep: Sequence[SweepPoint] | None = None) -> str:
    """The report: one file with no script, and nothing that it would load."""
    load, summary = run.the_plan.load, run.summary
    windows = pictures.windows(records, load)
    measured = stats.measured(records)
    main, first = wording.main_metric(run), "ttft_ms" if run.the_plan.closed else "ttft_sched_ms"
    over_time = [name for name in (main, first) if name in summary.latencies]
    wanted = (first, "itl_ms") if first in summary.latencies else (main,)
    drawn = [(name, summary.latencies[name]) for name in wanted if name in summary.latencies]
    page: dict[str, Any] = {
        "run": run,
        "load": load,
        "loop": load_in_words(load),
        "style": Markup(charts.STYLE),
        "state": run.verdict.state,
        "reasons": wording.reasons(run),
        "slo": [wording.slo_row(run, check) for check in run.verdict.checks],
        "figures": list(wording.key_figures(run)),
        "latencies": [
            (METRICS[name], [*wording.cells(found).values(), f"{found.n:,}"]) for name, found in wording.latencies(run)
        ],
        "over_time": [(METRICS[name], Markup(pictures.latency_over_time(name, windows, load))) for name in over_time],
        "throughput": Markup(pictures.throughput_over_time(windows, records, load)),
        "distributions": [
            (METRICS[name], Markup(pictures.distribution(name, measured, found, load.slo, half=len(drawn) > 1)))
            for name, found in drawn
        ],
        "sweep": _sweep(sweep, load) if sweep else None,
        "server": _server(run.server) if run.server else None,
        "errors": [
            (kind, f"{count:,}", ERRORS.get(kind, ""), summary.samples.get(kind, "")[:MAX_SAMPLE])
            for kind, count in summary.errors.items()
        ],
        "cold": wording.cold_facts(run.cold) if run.cold else None,
        "cost": wording.cost_facts(run.cost) if run.cost else None,
        "sound": list(wording.soundness(run, measured)),
        "machine": list(wording.machine_facts(run)),
        "plan": json.dumps(run.plan, indent=2),
    }
    return _environment().get_template(REPORT_FILE).render(page)


def _environment() -> jinja2.Environment:
    # Every value is escaped but Markup, which only the charts and their style are: names of models and payloads, and
    # a server's error texts, come from outside.
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _server(found: ServerSide) -> dict[str, Any]:
    parts = pictures.time_parts(found)
    whole_ms = sum(value for _, _, value in parts) or 1.0
    return {
        "chart": Markup(pictures.where_the_time_went(found)),
        "parts": [(name, wording.ms(value), f"{100 * value / whole_ms:.0f} %") for name, _, value in parts],
        "facts": wording.batch_facts(found),
        "advice": server_side.advice(found),
    }


def _sweep(points: Sequence[SweepPoint], load: LoadTest) -> dict[str, Any]:
    metric = pictures.swept_metric(points, load.slo)
    best = pictures.highest_that_holds(points)
    return {
        "chart": Markup(pictures.latency_against_throughput(points, metric, load)) if metric else None,
        "metric": metric or "latency",
        "best": f"{amount(best.rate)} requests/s" if best else None,
        "rows": [_sweep_row(point, metric) for point in sorted(points, key=lambda each: (each.rate, each.confirms))],
    }


def _sweep_row(point: SweepPoint, metric: str | None) -> dict[str, str]:
    latency_ms = point.latency_ms.get(metric) if metric else None
    return {
        "rate": amount(point.rate) + (" again" if point.confirms else ""),
        "achieved": amount(point.achieved_per_s),
        "goodput": amount(point.goodput_per_s),
        "latency": "n/a" if latency_ms is None else wording.ms(latency_ms),
        "state": point.state,
        "run": point.run,
    }


def _plain(text: str) -> str:
    """Words from outside as nothing but words in Markdown, on one line."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&])", r"\\\1", " ".join(text.split())[:MAX_SAMPLE])
