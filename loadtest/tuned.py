"""What a search for a better configuration found, and how it is told: table, sentences, plot, document.

Pure; knows nothing of how it was measured.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import Any, Literal

from loadtest import charts, passport
from loadtest.candidates import Candidate
from loadtest.trials import Answer
from loadtest.yaml_edit import flow

SCHEMA = "servekit.tune/1"
Objective = Literal["rate", "latency"]
MATTERS = 0.05
"""Effects below this share of the best mean are not worth a sentence."""
MOST_EFFECTS = 4
WIDTH, ROW, LEFT, TOP = 880, 20, 250, 34


@dataclass(frozen=True)
class Trial:
    """One candidate. scores: round by round, more is better; answer: its last; held_per_s: of a finalist, the highest
    rate that held the SLO, 0 when none did."""

    candidate: Candidate
    key: str
    scores: tuple[float, ...]
    answer: Answer
    held_per_s: float | None = None


@dataclass(frozen=True)
class Pair:
    """The default and a challenger under the same timetable, one after the other. won: by more than noise."""

    default: Answer
    challenger: Answer
    won: bool


@dataclass(frozen=True)
class Duel:
    """The challenger is only taken when it won every pair."""

    challenger: Candidate
    rate: float
    pairs: tuple[Pair, ...]
    won: bool


@dataclass(frozen=True)
class Effect:
    """What an axis did in the first round. values: words, mean score, how many; best first."""

    axis: str
    values: tuple[tuple[str, float, int], ...]

    @property
    def spread(self) -> float:
        """Between the best and the worst mean, as a share of the best."""
        best, worst = self.values[0][1], self.values[-1][1]
        return (best - worst) / best if best else 0.0


@dataclass(frozen=True)
class Tuned:
    """A whole search. trials: best first; the default is always among them."""

    model: str
    objective: Objective
    latency: str
    """The metric and percentile that latency means here, as "e2e_sched_ms p95"."""
    rate: float | None
    """latency: the requests a second that it was measured at."""
    clients: tuple[int, ...]
    """rate: of the closed loops that scored a candidate; the better of them counts."""
    space: int
    """Configurations that there are."""
    rounds: tuple[tuple[int, float], ...]
    """Candidates and measured seconds of each round."""
    trials: tuple[Trial, ...]
    duels: tuple[Duel, ...]
    winner: Candidate
    seed: int
    took_s: float
    measured: int
    remembered: int
    """Answers that came out of the journal."""
    foundation: dict[str, Any]
    machine: dict[str, Any]
    yaml: str
    """The file with the winner's configuration, where it was written."""
    schema: str = SCHEMA

    @property
    def improved(self) -> bool:
        """Whether something better than the default was found."""
        return bool(self.winner.overrides)

    @property
    def default(self) -> Trial:
        """The YAML as it is."""
        return next(trial for trial in self.trials if not trial.candidate.overrides)

    @property
    def best(self) -> Trial:
        """The winner's trial; the default's when nothing was better."""
        return next(trial for trial in self.trials if trial.candidate == self.winner)


def effects(trials: Sequence[Trial]) -> list[Effect]:
    """Mean score of each value of each axis in the first round, the axis that made most difference first."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        for axis, text in trial.candidate.choices if trial.scores else ():
            found[axis][text].append(trial.scores[0])
    listed = []
    for axis, values in found.items():
        means = sorted(((text, fmean(each), len(each)) for text, each in values.items()), key=lambda value: -value[1])
        if len(means) > 1:
            listed.append(Effect(axis, tuple(means)))
    return sorted(listed, key=lambda effect: -effect.spread)


def rows(tuned: Tuned) -> list[dict[str, Any]]:
    """For a table: every candidate, the chosen one first."""
    latency = tuned.latency.replace("_ms", "").replace("_sched", "")
    return [
        {
            "rank": rank,
            "candidate": trial.candidate.label + (" ←" if trial.candidate == tuned.winner else ""),
            "round": "final" if trial.held_per_s is not None or _fought(tuned, trial) else len(trial.scores),
            "score": round(trial.scores[-1], 1) if trial.scores else None,
            "goodput/s": round(trial.answer.goodput_per_s, 1),
            f"{latency} ms": None if trial.answer.latency_ms is None else round(trial.answer.latency_ms, 1),
            "holds/s": None if trial.held_per_s is None else round(trial.held_per_s, 1),
            "problem": trial.answer.problem.splitlines()[-1][:60] if trial.answer.problem else None,
        }
        for rank, trial in enumerate(tuned.trials, 1)
    ]


def explain(tuned: Tuned) -> list[str]:
    """Why this configuration: one sentence a line."""
    return [*_outcome(tuned), *_reasons(tuned), *_failures(tuned)]


def document(tuned: Tuned) -> dict[str, Any]:
    """For JSON: everything that was measured, and on what."""
    found = dataclasses.asdict(tuned)
    found["improved"] = tuned.improved
    found["effects"] = [dataclasses.asdict(effect) for effect in effects(tuned.trials)]
    found["explanation"] = explain(tuned)
    return found


def markdown(tuned: Tuned) -> str:
    """The same for people: what came out, why, all candidates, the machine."""
    table = rows(tuned)
    lines = [f"# Tuning {tuned.model}", "", *(f"- {line}" for line in explain(tuned)), ""]
    lines += ["| " + " | ".join(table[0]) + " |", "|" + "---|" * len(table[0])]
    lines += ["| " + " | ".join("–" if value is None else str(value) for value in row.values()) + " |" for row in table]
    if tuned.winner.overrides:
        lines += ["", "```yaml", *(f"{path}: {flow(value)}" for path, value in tuned.winner.overrides), "```"]
    for duel in tuned.duels:
        lines += ["", f"Default against {duel.challenger.label} at {duel.rate:.1f} requests/s:", ""]
        lines += [f"- {_side(pair.default)} | {_side(pair.challenger)}" for pair in duel.pairs]
    rounds = ", ".join(f"{count} candidates for {seconds:g} s" for count, seconds in tuned.rounds)
    lines += ["", f"{tuned.space} configurations; rounds: {rounds}. Seed {tuned.seed}.", ""]
    return "\n".join([*lines, passport.in_words(tuned.machine), ""])


def page(tuned: Tuned) -> str:
    """One HTML file that needs no network: the sentences and the plot."""
    sentences = "".join(f"<li>{escape(line)}</li>" for line in explain(tuned))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Tuning {escape(tuned.model)}</title>'
        f"<style>{charts.STYLE}body{{background:var(--page);color:var(--ink);max-width:{WIDTH}px;margin:2rem auto;"
        "font:15px/1.5 system-ui,sans-serif}</style>"
        f"<h1>Tuning {escape(tuned.model)}</h1><ul>{sentences}</ul>{plot(tuned)}"
        f"<p>{escape(passport.in_words(tuned.machine))}</p></html>\n"
    )


def plot(tuned: Tuned) -> str:
    """SVG: a row for each value of each axis, a dot for each candidate's first score, a bar for their mean."""
    scores = [trial.scores[0] for trial in tuned.trials if trial.scores]
    x = charts.linear([*scores, 1e-9], LEFT, WIDTH - 20, 6)
    unit = "score: requests/s × √(limit / latency)" if tuned.objective == "rate" else "1000 / latency in ms"
    body, up = [], TOP
    for effect in effects(tuned.trials):
        body.append(f'<text class="strong" x="10" y="{up + 14}">{escape(effect.axis)}</text>')
        up += ROW
        for text, mean, count in effect.values:
            middle = up + ROW / 2
            body.append(f'<text x="{LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(text)}</text>')
            body.append(
                f'<rect class="fill-low" opacity=".35" x="{LEFT}" y="{middle - 6:.1f}" '
                f'width="{x.at(mean) - LEFT:.1f}" height="12"><title>mean {mean:.1f} of {count}</title></rect>'
            )
            body += [_dot(tuned, trial, x, middle) for trial in tuned.trials if (effect.axis, text) in _choices(trial)]
            up += ROW
        up += ROW // 2
    ticks = [
        f'<line class="grid" x1="{x.at(tick):.1f}" x2="{x.at(tick):.1f}" y1="{TOP}" y2="{up}"/>'
        f'<text x="{x.at(tick):.1f}" y="{up + 16}" text-anchor="middle">{charts.amount(tick)}</text>'
        for tick in x.ticks
    ]
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {up + 44}" role="img" aria-label="Scores by value of each axis">'
        f'<text class="strong" x="10" y="18">First round: each candidate by what it changes</text>'
        f"{''.join(ticks)}{''.join(body)}"
        f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{up + 36}" text-anchor="middle">{unit}; the bar is the mean, '
        "the winner is green</text></svg>"
    )


def _dot(tuned: Tuned, trial: Trial, x: charts.Axis, up: float) -> str:
    tone = "fill-good" if trial.candidate == tuned.winner else "fill-high"
    words = f"{trial.candidate.label}: {trial.scores[0]:.1f}"
    return (
        f'<circle class="{tone}" cx="{x.at(trial.scores[0]):.1f}" cy="{up:.1f}" r="3.5" opacity=".8">'
        f"<title>{escape(words)}</title></circle>"
    )


def _choices(trial: Trial) -> tuple[tuple[str, str], ...]:
    return trial.candidate.choices if trial.scores else ()


def headline(tuned: Tuned) -> str:
    """What was gained, in one sentence without an end."""
    if not tuned.improved:
        return "the default stays: nothing was better by more than noise"
    duel = tuned.duels[-1]
    if tuned.objective == "rate":
        default, best = tuned.default.held_per_s or 0.0, tuned.best.held_per_s or 0.0
        gain = f" (+{best / default - 1:.0%})" if default else ""
        return f"holds the SLO up to {best:.1f} requests/s, the default up to {default:.1f}{gain}"
    default_ms, best_ms = (fmean(each.latency_ms or 0.0 for each in side) for side in _sides(duel))
    return f"{tuned.latency} {best_ms:.1f} ms at {duel.rate:.1f} requests/s, of the default {default_ms:.1f} ms"


def _outcome(tuned: Tuned) -> Iterator[str]:
    tried = f"{len(tuned.trials)} of {tuned.space} configurations were measured"
    yield f"{tuned.winner.label + ': ' if tuned.improved else ''}{headline(tuned)}; {tried}."
    for duel in tuned.duels:
        won = sum(pair.won for pair in duel.pairs)
        default, other = (fmean(each.goodput_per_s for each in side) for side in _sides(duel))
        yield (
            f"{duel.challenger.label} won {won} of {len(duel.pairs)} pairs at {duel.rate:.1f} requests/s: "
            f"{other:.1f}/s within the SLO, {default:.1f}/s by the default."
        )


def _sides(duel: Duel) -> tuple[list[Answer], list[Answer]]:
    return [pair.default for pair in duel.pairs], [pair.challenger for pair in duel.pairs]


def _reasons(tuned: Tuned) -> Iterator[str]:
    chosen = dict(tuned.winner.choices)
    for effect in effects(tuned.trials)[:MOST_EFFECTS]:
        if effect.spread < MATTERS:
            continue
        (best, high, _), (worst, low, _) = effect.values[0], effect.values[-1]
        own = "" if chosen.get(effect.axis) == best else f"; chosen together with the others: {chosen[effect.axis]}"
        yield f"{effect.axis}: {best} scored {high:.1f} on average, {worst} {low:.1f}{own}."


def _failures(tuned: Tuned) -> Iterator[str]:
    broken = [trial for trial in tuned.trials if trial.answer.state == "dead"]
    if broken:
        yield f"{len(broken)} did not run: {'; '.join(trial.candidate.label for trial in broken[:3])}."


def _fought(tuned: Tuned, trial: Trial) -> bool:
    sides = [duel.challenger for duel in tuned.duels]
    return trial.candidate in sides or bool(sides and not trial.candidate.overrides)


def _side(answer: Answer) -> str:
    latency = "n/a" if answer.latency_ms is None else f"{answer.latency_ms:.1f} ms"
    return f"{answer.goodput_per_s:.1f}/s within the SLO, {latency}, {answer.state} ({answer.folder or 'no run'})"
