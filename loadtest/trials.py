"""One question to one candidate's server, its answer, and the journal that remembers it across breaks.

Knows nothing of which candidates there are and of what is asked next; tune.py does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from archives import STORE, assets
from loadtest import lab, passport, workload
from loadtest import records as record_files
from loadtest.records import Record
from loadtest.run import Run
from loadtest.serving import Served, started
from loadtest.stats import SCHEDULED, measured
from loadtest.sweep import is_saturating, outcome_of
from loadtest.verdict import MIN_ACHIEVED, State
from model_configs import HANDLERS_DIR
from model_configs.loadtest import LoadTest, Slo
from model_configs.schema import AnyModelConfig
from servekit import fingerprint

JOURNAL_FILE = "journal.jsonl"
SERVER_FOLDER = "server"
STORE_FOLDER = "store"
KEY_LENGTH = 12
OPEN_ARRIVALS = ("constant", "poisson", "gamma")
STATES: dict[str, State] = {"held": "pass", "broken": "fail", "generator": "invalid", "too_few": "invalid"}


@dataclass(frozen=True)
class Question:
    """What one run is to tell. amount: clients of a closed loop, or requests a second of an open one."""

    kind: Literal["clients", "rate"]
    amount: float
    seconds: float
    seed: int
    repeat: int = 0
    """Tells apart what is asked more than once."""


@dataclass(frozen=True)
class Answer:
    """What one run told. problem: why there is no figure, or why it is not to be trusted."""

    goodput_per_s: float = 0.0
    answered_per_s: float = 0.0
    latency_ms: float | None = None
    """Of the SLO's first limit: its metric at its percentile; None when too few were measured."""
    error_rate: float = 0.0
    state: Literal["pass", "fail", "invalid", "dead"] = "dead"
    """Of an open loop, by state_of. dead: there was no server to measure, or no run."""
    problem: str = ""
    start_s: float = 0.0
    """What building the archive and starting the server took; the same for all runs of one start."""
    took_s: float = 0.0
    """The run itself, with all that is around the measured seconds."""
    folder: str = ""
    """The run's folder, relative to the journal's."""
    closed: bool = False
    fit: float = 1.0
    """The smallest share of a limit in what was measured, at most 1: 0.5 for a latency of twice its limit."""

    @property
    def score_per_s(self) -> float:
        """More is better. An open loop's goodput; a closed loop's throughput × √fit.

        Goodput is a cliff in a closed loop: with N clients latency is N/throughput, so that all answers pass the limit
        together. 720/s and 410/s were the same server's, whose throughput had changed by a sixth.
        """
        return self.answered_per_s * self.fit**0.5 if self.closed else self.goodput_per_s


Ask = Callable[[Question, Path], Answer]
"""Measures a server that runs, into a folder. Raises Failed."""
Bench = Callable[[AnyModelConfig], AbstractContextManager[Ask]]
"""Starts a server of this configuration for a time. Raises Failed when it does not come up."""


class Journal:
    """Answers by what was asked of what, on disk as soon as they are there. foundation: what all of them rest on."""

    def __init__(self, folder: Path, foundation: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._foundation = json.dumps(foundation, sort_keys=True)
        self._file = folder / JOURNAL_FILE
        self._known = dict(self._read())

    def find(self, candidate: str, question: Question) -> Answer | None:
        """The answer of an earlier measurement of the same; candidate: its key."""
        return self._known.get(self.key(candidate, question))

    def add(self, candidate: str, label: str, question: Question, answer: Answer) -> None:
        """Remember an answer."""
        key = self.key(candidate, question)
        self._known[key] = answer
        line = {
            "key": key,
            "label": label,
            "question": dataclasses.asdict(question),
            "answer": dataclasses.asdict(answer),
        }
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def key(self, candidate: str, question: Question) -> str:
        """Of one measurement: a changed model, handler, machine, workload or SLO gives another."""
        parts = [self._foundation, candidate, json.dumps(dataclasses.asdict(question), sort_keys=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[: 2 * KEY_LENGTH]

    def _read(self) -> Iterator[tuple[str, Answer]]:
        for line in self._file.read_text().splitlines() if self._file.exists() else ():
            try:
                found = json.loads(line)
            except ValueError:  # the line that a break cut off
                continue
            yield found["key"], Answer(**found["answer"])


def foundation(config: AnyModelConfig, load: LoadTest) -> dict[str, Any]:
    """What every answer depends on besides the candidate: model, code, load and machine. Raises KitError."""
    weights = assets.find_weights(config)
    package = HANDLERS_DIR / "servekit"
    code = [HANDLERS_DIR / config.model.handler, *sorted([*package.rglob("*.py"), *package.rglob("*.cpp")])]
    card = passport.passport()
    return {
        "model": config.model.model_dump(mode="json"),
        "weights": {str(p): fingerprint.file_sha256(weights / p) for p in assets.model_files(weights, config)},
        "code": _sha256_of(code),
        "load": load.model_dump(mode="json", exclude={"arrivals", "rate", "end_rate", "clients", "duration_s"}),
        "workload": workload.sha256(workload.load(workload.find(load.payloads))),
        "machine": {key: card[key] for key in ("cpu", "usable_cpus", "memory_gib", "python", "packages")},
    }


def closed_slo(slo: Slo) -> Slo:
    """The SLO for a closed loop, which has no intended times: each _sched limit holds for the metric without.

    In a closed loop nobody queues in front of the client, so the two are the same there.
    """
    kept = slo.model_dump(exclude_none=True)
    for metric in SCHEDULED:
        plain = metric.replace("_sched", "")
        limits = kept.pop(metric, {})
        mine = kept.setdefault(plain, {}) if limits else {}
        for name, limit in limits.items():
            mine[name] = min(limit, mine.get(name, limit))
    return Slo.model_validate(kept)


def load_of(question: Question, load: LoadTest) -> LoadTest:
    """The load section that asks a question."""
    raw = load.model_dump(exclude_none=True, exclude={"end_rate", "trace", "rate", "slo"})
    raw |= {"duration_s": question.seconds, "seed": question.seed}
    if question.kind == "clients":
        raw |= {"arrivals": "closed", "clients": int(question.amount), "slo": closed_slo(load.slo).model_dump()}
    else:
        kind = load.arrivals if load.arrivals in OPEN_ARRIVALS else "poisson"
        raw |= {"arrivals": kind, "rate": question.amount, "slo": load.slo.model_dump()}
    return LoadTest.model_validate(raw)


class ServerBench:
    """Starts TorchServe on this machine. folder: the search's, where archives and the server's own files go."""

    def __init__(self, load: LoadTest, folder: Path, port: int, processes: int = 1) -> None:
        self._load, self._folder, self._port, self._processes = load, folder, port, processes

    @contextmanager
    def __call__(self, config: AnyModelConfig) -> Iterator[Ask]:
        """A server of this configuration, for as long as questions come. Raises KitError, Failed."""
        began = time.monotonic()
        # Archives as folders of hard links: nothing is packed and unpacked for a start.
        model = config.model.model_copy(update={"format": "no-archive"})
        plain = config.model_copy(update={"model": model})
        with started(plain, self._port, store=self._store(config), run_dir=self._folder / SERVER_FOLDER) as served:
            start_s = time.monotonic() - began

            def ask(question: Question, folder: Path) -> Answer:
                return self._measured(served, question, folder, start_s)

            yield ask

    def _measured(self, served: Served, question: Question, folder: Path, start_s: float) -> Answer:
        began = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)  # what a break left there
        found = lab.measure(served, load_of(question, self._load), folder, processes=self._processes)
        took_s, name = time.monotonic() - began, str(folder.relative_to(self._folder))
        return answer_of(found, record_files.read(folder), start_s, took_s, name)

    def _store(self, config: AnyModelConfig) -> Path:
        """A store for all candidates with the same handler settings, which is what artefacts are made for.

        A store keeps the last artefacts only; in one for all of them each candidate would be compiled again in every
        round. What any other store has already is linked.
        """
        settings = config.resolved_handler.model_dump_json()
        store = self._folder / STORE_FOLDER / hashlib.sha256(settings.encode()).hexdigest()[:KEY_LENGTH]
        for prepared in [*(self._folder / STORE_FOLDER).glob("*/.prepared"), STORE / ".prepared"]:
            for made in prepared.glob(f"{config.model.name}-*"):
                link_folder(made, store / ".prepared" / made.name)
        return store


def answer_of(run: Run, records: Sequence[Record], start_s: float, took_s: float, folder: str) -> Answer:
    """What a run says. records: all of it, in which an overload shows that its percentiles do not show yet."""
    summary, problem = run.summary, "; ".join(run.verdict.invalid)
    if summary.failed:
        kind, count = next(iter(summary.errors.items()))
        problem = f"{count} of {summary.requests} {kind}: {' '.join(summary.samples.get(kind, '').split())}"[:200]
    metric, share = latency_of(run.the_plan.load.slo)
    found = summary.latencies.get(metric)
    return Answer(
        goodput_per_s=summary.goodput_per_s,
        answered_per_s=summary.answered_per_s,
        latency_ms=found.percentiles[share].value if found else None,
        error_rate=summary.error_rate,
        state=state_of(run, records),
        problem=problem,
        start_s=start_s,
        took_s=took_s,
        folder=folder,
        closed=run.the_plan.closed,
        fit=min([1.0, *(each.limit / each.value for each in run.verdict.checks if each.percentile and each.value)]),
    )


def state_of(run: Run, records: Sequence[Record]) -> State:
    """As a sweep judges its steps, but for one: that a late generator does not spoil what held the SLO all the same.

    Scheduled latencies begin at the intended time, so that lag makes them longer, never shorter. On a machine that the
    server fills, the generator is late long before the SLO breaks; only the default and the candidates are compared
    here, under one timetable, and the one that leaves it no CPU is the one that is set back.
    """
    if run.the_plan.closed:
        return run.verdict.state
    outcome, summary = outcome_of(run, records), run.summary
    scheduled = any(metric in SCHEDULED for metric, _, _ in run.the_plan.load.slo.limits())
    sent = summary.achieved_per_s >= MIN_ACHIEVED * (summary.offered_per_s or 0.0) and not run.generator.lost
    if outcome == "generator" and scheduled and sent and all(check.holds for check in run.verdict.checks):
        return "fail" if is_saturating(measured(records)) else "pass"
    return STATES[outcome]


def latency_of(slo: Slo) -> tuple[str, str]:
    """The metric and percentile that stand for latency: the SLO's first limit."""
    return next(((metric, share) for metric, share, _ in slo.limits()), ("e2e_ms", "p95"))


def link_folder(source: Path, target: Path) -> None:
    """A folder's files as hard links, or as copies on another file system; nothing when it is there already."""
    if target.exists():
        return
    draft = target.with_name(f".linking-{target.name}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(source, draft, copy_function=_link)
    except shutil.Error:  # somebody's newer build has removed it meanwhile
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.rename(target)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _sha256_of(files: list[Path]) -> str:
    return hashlib.sha256("".join(map(fingerprint.file_sha256, files)).encode()).hexdigest()
