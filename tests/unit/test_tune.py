from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest import tuned as telling
from loadtest.candidates import Candidate, key, sample, space
from loadtest.passport import passport
from loadtest.plan import Plan, Target
from loadtest.records import Record
from loadtest.run import Run
from loadtest.stats import generator, summarise
from loadtest.trials import Answer, Ask, Journal, Question, answer_of, closed_slo, link_folder, load_of
from loadtest.tune import Search, TuneOptions, alone_in, highest_rate
from loadtest.tuned import Tuned, document, explain, rows
from loadtest.verdict import judge
from loadtest.winner import tuned_yaml, with_note, written
from loadtest.yaml_edit import edited
from model_configs import CONFIGS_DIR
from model_configs.errors import Failed, KitError
from model_configs.loadtest import LoadTest, Slo
from model_configs.schema import AnyModelConfig, load_file, load_model

MINILM, DIGITS = load_model("minilm"), load_model("digits")
CORES = 2
Truth = Callable[[AnyModelConfig], float]
"""Requests a second that a configuration can do within the SLO."""


class Broken(Exception):
    """What ends a search in the middle, as Ctrl-C does."""


class World:
    """A machine on which every configuration has a capacity, and measurements scatter around it by `noise`."""

    def __init__(self, truth: Truth, noise: float = 0.02, seed: int = 0, breaks_after: int | None = None) -> None:
        self.truth, self.noise, self.breaks_after = truth, noise, breaks_after
        self.chance = random.Random(seed)
        self.now_s = 0.0
        self.asked: list[tuple[str, Question]] = []
        self.running = 0

    @contextmanager
    def bench(self, config: AnyModelConfig) -> Iterator[Ask]:
        capacity = self.truth(config)
        if capacity < 0:
            raise Failed("a worker died while it loaded")
        self.now_s += 8
        self.running += 1
        try:
            yield lambda question, folder: self._answer(config, capacity, question)
        finally:
            self.running -= 1

    def clock(self) -> float:
        return self.now_s

    def _answer(self, config: AnyModelConfig, capacity: float, question: Question) -> Answer:
        if self.breaks_after is not None and len(self.asked) >= self.breaks_after:
            raise Broken
        self.asked.append((key(config), question))
        self.now_s += question.seconds + 2
        found = capacity * max(0.1, self.chance.gauss(1, self.noise))
        if question.kind == "clients":
            busy = min(1.0, question.amount / 8)
            return Answer(found * busy, found * busy, 50.0, 0.0, "pass", start_s=8, took_s=question.seconds + 2)
        holds = question.amount <= found
        good = question.amount if holds else found / 2
        latency = 5e3 / found
        return Answer(good, good, latency, 0.0, "pass" if holds else "fail", start_s=8, took_s=question.seconds + 2)


def searched(
    world: World,
    folder: Path,
    config: AnyModelConfig = MINILM,
    foundation: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tuned:
    load = config.loadtest
    assert load is not None
    journal = Journal(folder, foundation or {"machine": "this"})
    chosen = TuneOptions(**{"minutes": 15.0, **options})
    search = Search(config, load, chosen, world.bench, journal, cores=CORES, clock=world.clock)
    return search.run()


def by_batches(config: AnyModelConfig) -> float:
    """Batches of 16 and two workers are best; the default is neither."""
    serving = config.torchserve
    return {1: 60, 4: 90, 8: 110, 16: 130, 32: 100, 64: 80}[serving.batchSize] * (1 + 0.3 * (serving.maxWorkers == 2))


def flat(config: AnyModelConfig) -> float:
    return 100.0


def default_is_best(config: AnyModelConfig) -> float:
    """Each change costs something."""
    before, after = (one.torchserve.model_dump() | one.handler.model_dump() for one in (DIGITS, config))
    return 100.0 - 6 * sum(before[name] != after[name] for name in before)


def test_a_better_configuration_is_found_and_proven(tmp_path: Path) -> None:
    found = searched(World(by_batches), tmp_path)
    assert found.improved
    assert by_batches(found.winner.apply(MINILM)) >= 1.2 * by_batches(MINILM)
    duel = found.duels[-1]
    assert duel.won
    assert len(duel.pairs) == 3
    assert found.best.held_per_s > found.default.held_per_s  # type: ignore[operator]


@pytest.mark.parametrize("truth", [flat, default_is_best])
@pytest.mark.parametrize("noise", [0.02, 0.08])
def test_never_worse_than_the_default_whatever_the_noise(truth: Truth, noise: float, tmp_path: Path) -> None:
    for seed in range(12):
        found = searched(World(truth, noise, seed), tmp_path / str(seed), DIGITS, seed=seed)
        assert truth(found.winner.apply(DIGITS)) >= truth(DIGITS), f"seed {seed}: {found.winner.label}"


def test_random_worlds_never_get_worse(tmp_path: Path) -> None:
    for seed in range(20):

        def truth(config: AnyModelConfig, seed: int = seed) -> float:
            return 100 * random.Random(f"{seed} {key(config)}").gauss(0.95, 0.1)

        found = searched(World(truth, 0.04, seed), tmp_path / str(seed), DIGITS, seed=seed)
        assert truth(found.winner.apply(DIGITS)) >= 0.98 * truth(DIGITS)


def test_after_a_break_nothing_is_measured_twice(tmp_path: Path) -> None:
    whole = World(by_batches, noise=0)
    expected = searched(whole, tmp_path / "whole")
    first = World(by_batches, noise=0, breaks_after=len(whole.asked) // 2)
    with pytest.raises(Broken):
        searched(first, tmp_path / "broken")
    assert first.running == 0, "the server is stopped"
    second = World(by_batches, noise=0)
    found = searched(second, tmp_path / "broken")
    assert found.winner == expected.winner
    assert found.remembered >= len(first.asked)
    assert len(first.asked) + len(second.asked) == len(whole.asked)
    assert not set(map(str, first.asked)) & set(map(str, second.asked))


def test_a_finished_search_is_repeated_from_its_journal_alone(tmp_path: Path) -> None:
    once = searched(World(by_batches), tmp_path)
    again = World(by_batches, seed=1)
    assert searched(again, tmp_path).winner == once.winner
    assert not again.asked


def test_another_machine_or_model_is_measured_anew(tmp_path: Path) -> None:
    searched(World(by_batches), tmp_path)
    again = World(by_batches)
    assert searched(again, tmp_path, foundation={"machine": "another"}).remembered < len(again.asked)


def test_a_line_that_a_break_cut_off_is_asked_again(tmp_path: Path) -> None:
    journal, question = Journal(tmp_path, {}), Question("clients", 8, 4.0, 0)
    journal.add("a", "default", question, Answer(1.0))
    file = tmp_path / "journal.jsonl"
    file.write_text(file.read_text() + file.read_text()[:50])
    assert Journal(tmp_path, {}).find("a", question) == Answer(1.0)
    assert Journal(tmp_path, {}).find("b", question) is None


def test_a_candidate_that_does_not_start_is_in_the_table_and_the_search_goes_on(tmp_path: Path) -> None:
    def truth(config: AnyModelConfig) -> float:
        return -1.0 if config.torchserve.maxWorkers == 2 else by_batches(config)

    found = searched(World(truth), tmp_path)
    broken = [trial for trial in found.trials if trial.answer.state == "dead"]
    assert broken
    assert all(trial.scores == (0.0,) and "died" in trial.answer.problem for trial in broken)
    assert found.winner.apply(MINILM).torchserve.maxWorkers == 1
    assert any("did not run" in line for line in explain(found))


def test_a_default_that_does_not_start_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="died while it loaded"):
        searched(World(lambda config: -1.0), tmp_path)


def test_a_candidate_that_needs_a_tool_that_is_missing_is_left_out_and_forgotten(tmp_path: Path) -> None:
    world = World(flat)

    @contextmanager
    def bench(config: AnyModelConfig) -> Iterator[Ask]:
        if config.handler.compile.mode == "eager":
            raise KitError("no compiler", "install one")
        with world.bench(config) as ask:
            yield ask

    assert MINILM.loadtest is not None
    journal = Journal(tmp_path, {})
    found = Search(
        MINILM, MINILM.loadtest, TuneOptions(minutes=15), bench, journal, cores=CORES, clock=world.clock
    ).run()
    assert any(trial.answer.problem == "no compiler" for trial in found.trials)
    assert "no compiler" not in (tmp_path / "journal.jsonl").read_text()


def test_the_time_is_kept_about(tmp_path: Path) -> None:
    for minutes in (12.0, 20.0, 40.0):
        world = World(by_batches)
        searched(world, tmp_path / str(minutes), minutes=minutes)
        assert 0.5 * minutes < world.now_s / 60 < 1.25 * minutes


def test_the_lowest_latency_at_a_rate(tmp_path: Path) -> None:
    found = searched(World(by_batches), tmp_path, objective="latency", rate=40.0)
    assert found.improved
    assert by_batches(found.winner.apply(MINILM)) >= 1.2 * by_batches(MINILM)
    assert "40.0 requests/s" in explain(found)[0]


def test_what_is_told(tmp_path: Path) -> None:
    found = searched(World(by_batches), tmp_path)
    table = rows(found)
    assert table[0]["candidate"] == f"{found.winner.label} ←"
    assert table[0]["round"] == "final"
    assert {row["rank"] for row in table} == set(range(1, len(table) + 1))
    whole = json.loads(json.dumps(document(found)))
    assert whole["schema"] == "servekit.tune/1"
    assert whole["improved"] is True
    assert any(line.startswith("batchSize: ") for line in explain(found))
    assert "winner" in telling.plot(found)


def test_a_closed_loop_is_held_to_the_scheduled_limits() -> None:
    slo = Slo.model_validate({"e2e_sched_ms": {"p95": 100.0}, "e2e_ms": {"p95": 120.0, "p50": 20.0}, "error_rate": 0.1})
    assert dict(closed_slo(slo).request_limits()) == {"e2e_ms": 100.0}
    assert closed_slo(slo).error_rate == 0.1
    load = LoadTest(payloads="x", rate=5.0, slo=slo)
    closed = load_of(Question("clients", 16, 4.0, 7), load)
    assert (closed.arrivals, closed.clients, closed.duration_s, closed.seed) == ("closed", 16, 4.0, 7)
    opened = load_of(Question("rate", 12.5, 4.0, 7), load)
    assert (opened.arrivals, opened.rate, opened.slo) == ("poisson", 12.5, slo)


@given(capacity=st.floats(1, 1e4), off=st.floats(0.05, 20))
def test_the_highest_rate_is_found_from_wherever_it_begins(capacity: float, off: float) -> None:
    found = highest_rate(lambda rate, before: "held" if rate <= capacity else "broken", capacity * off)
    assert 0.9 * capacity <= found <= capacity


KEYS = st.sampled_from(["a", "b", "c", "on", "x y"])
SCALARS = st.one_of(st.integers(-5, 1000), st.sampled_from(["own", "off", "a: b", "#1", "", "null"]), st.booleans())
VALUES = st.one_of(SCALARS, st.lists(st.integers(1, 64), min_size=1, max_size=3).map(tuple))
SECTIONS = st.dictionaries(
    KEYS, st.one_of(SCALARS, st.dictionaries(KEYS, SCALARS, min_size=1, max_size=3)), min_size=1, max_size=4
)


@settings(max_examples=150)
@given(document=SECTIONS, path=st.tuples(KEYS, KEYS), value=VALUES, flow=st.sampled_from([None, True, False]))
def test_an_edited_yaml_reads_as_the_changed_document(
    document: dict[str, Any], path: tuple[str, str], value: Any, flow: bool | None
) -> None:
    section, name = path
    if not isinstance(document.get(section, {}), dict):
        document[section] = {"z": 0}
    text = "# head\n" + yaml.safe_dump(document, default_flow_style=flow, sort_keys=False)
    document.setdefault(section, {})[name] = list(value) if isinstance(value, tuple) else value
    changed = edited(text, {".".join(path): value})
    assert yaml.safe_load(changed) == document
    assert changed.startswith("# head\n")


@pytest.mark.parametrize("name", ["minilm", "digits", "pydoc-llama"])
def test_the_winner_is_written_with_every_comment_kept(name: str, tmp_path: Path) -> None:
    config, text = load_model(name), (CONFIGS_DIR / f"{name}.yaml").read_text()

    def check(changed: str) -> AnyModelConfig:
        (tmp_path / "x.yaml").write_text(changed)
        return load_file(tmp_path / "x.yaml")

    for winner in sample(space(config, 4), 30, 0):
        changed = tuned_yaml(text, config, winner, check)
        assert check(changed).model_dump() == winner.apply(config).model_dump()
        assert [line for line in changed.splitlines() if "#" in line] == [
            line for line in text.splitlines() if "#" in line
        ]
        unchanged = set(text.splitlines()) - set(changed.splitlines())
        assert len(unchanged) <= len(winner.overrides)


def test_a_yaml_that_cannot_be_edited_in_place_is_written_whole(tmp_path: Path) -> None:
    anchored = "model: &m {name: x}\ntorchserve: *m\n"

    def check(changed: str) -> AnyModelConfig:
        raise ValueError(changed)

    winner = Candidate((("torchserve.batchSize", 4),))
    whole = yaml.safe_load(tuned_yaml(anchored, DIGITS, winner, check))
    assert whole["torchserve"]["batchSize"] == 4
    assert whole["model"]["name"] == "digits"


def test_a_later_note_takes_the_place_of_an_earlier_one() -> None:
    text = "# about it\nmodel: {}\n# Tuned elsewhere\n"
    once = with_note(text, "# Tuned on Monday")
    assert once == "# about it\n# Tuned on Monday\nmodel: {}\n# Tuned elsewhere\n"
    assert with_note(once, "# Tuned on Tuesday") == once.replace("Monday", "Tuesday")


def test_the_winner_and_its_evidence_are_written(tmp_path: Path) -> None:
    source = tmp_path / "model_configs" / "minilm.yaml"
    source.parent.mkdir()
    text = (CONFIGS_DIR / "minilm.yaml").read_text()
    source.write_text(text)
    found = dataclasses.replace(searched(World(by_batches), tmp_path), machine=passport())
    told = written(found, MINILM, tmp_path, source, into_source=False)
    assert source.read_text() == text
    assert Path(told.yaml) == tmp_path / "minilm.yaml"
    assert key(load_file(tmp_path / "minilm.yaml")) == found.winner.key(MINILM)
    assert "# Tuned on" in (tmp_path / "minilm.yaml").read_text()
    assert json.loads((tmp_path / "tune.json").read_text())["winner"]["label"] == found.winner.label
    assert "| rank |" in (tmp_path / "tune.md").read_text()
    assert "<svg" in (tmp_path / "tune.html").read_text()
    assert written(found, MINILM, tmp_path, source, into_source=True).yaml == str(source)
    assert source.read_text() == (tmp_path / "minilm.yaml").read_text()


def test_a_default_that_stays_is_written_as_it_was(tmp_path: Path) -> None:
    source = CONFIGS_DIR / "digits.yaml"
    found = dataclasses.replace(searched(World(flat, noise=0), tmp_path, DIGITS), machine=passport())
    assert not found.improved
    told = written(found, DIGITS, tmp_path, source, into_source=True)
    assert Path(told.yaml) == tmp_path / "digits.yaml"
    assert (tmp_path / "digits.yaml").read_text() == source.read_text()
    assert "the default stays" in explain(found)[0]


def test_a_configuration_that_no_file_holds_is_written_whole(tmp_path: Path) -> None:
    raw = DIGITS.model_dump(exclude_unset=True)
    raw["torchserve"]["batchSize"] = 5
    other = type(DIGITS).model_validate(raw)
    found = dataclasses.replace(searched(World(flat, noise=0), tmp_path, other), machine=passport())
    written(found, other, tmp_path, CONFIGS_DIR / "digits.yaml", into_source=False)
    assert load_file(tmp_path / "digits.yaml").torchserve.batchSize == 5


def run_of(records: list[Record], question: Question, slo: Slo) -> Run:
    load = load_of(question, LoadTest(payloads="x", rate=1.0, warmup_s=0.0, slo=slo))
    plan = Plan(target=Target(kind="predictions", url="http://x", model="m"), load=load, payloads="x", folder="x")
    summary = summarise(records, 0.0, load.duration_s, load.slo.request_limits(), closed=plan.closed)
    health = generator(records, 1, 0.1)
    return Run(
        id="x", model="m", plan=plan.model_dump(mode="json"), machine={}, same_machine=True, workload_sha256="",
        config_sha256=None, archive_sha256=None, locust="", summary=summary, generator=health,
        verdict=judge(summary, health, load.slo),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["clients", "rate"])
@pytest.mark.parametrize(("slow_ms", "state"), [(90.0, "pass"), (110.0, "fail")])
def test_an_answer_says_how_much_was_within_the_slo(kind: Any, slow_ms: float, state: str) -> None:
    slo = Slo.model_validate({"e2e_sched_ms": {"p95": 100.0}})
    times = [place / 50 for place in range(200)]
    records = [
        Record(place, 0, "measure", "x", at, at, slow_ms if place % 4 == 0 else 10.0, status=200)
        for place, at in enumerate(times)
    ]
    answer = answer_of(run_of(records, Question(kind, 50, 4.0, 0), slo), records, 7.0, 6.0, "runs/a")
    assert answer.state == state
    assert answer.goodput_per_s == (50.0 if slow_ms < 100 else 37.5)
    assert answer.latency_ms == pytest.approx(slow_ms)
    assert (answer.start_s, answer.took_s, answer.folder, answer.problem) == (7.0, 6.0, "runs/a", "")
    # In a closed loop a limit that is passed by a tenth costs a twentieth of the score, not all that passed it.
    scores = {"rate": answer.goodput_per_s, "clients": answer.answered_per_s * min(1.0, 100 / slow_ms) ** 0.5}
    assert answer.score_per_s == pytest.approx(scores[kind])
    assert answer.answered_per_s == pytest.approx(50, rel=0.03)


@pytest.mark.parametrize(("lag_ms", "state"), [(5.0, "pass"), (60.0, "pass"), (95.0, "invalid")])
def test_a_late_generator_spoils_only_what_did_not_hold(lag_ms: float, state: str) -> None:
    """Answers that take 10 ms, counted from when they should have been sent; the limit is 100."""
    slo = Slo.model_validate({"e2e_sched_ms": {"p95": 100.0}})
    records = [
        Record(place, 0, "measure", "x", place / 50, place / 50 + lag_ms / 1e3, 10.0, status=200)
        for place in range(200)
    ]
    run = run_of(records, Question("rate", 50, 4.0, 0), slo)
    assert run.verdict.state == ("pass" if lag_ms < 10 else "invalid")
    answer = answer_of(run, records, 0.0, 0.0, "")
    assert answer.state == state
    assert ("sent late" in answer.problem) == (lag_ms > 10), "and it is told"


def test_failures_are_told_in_words() -> None:
    slo = Slo.model_validate({"e2e_sched_ms": {"p95": 100.0}})
    records = [
        Record(place, 0, "measure", "x", place / 50, place / 50, 10.0, error="refused", detail="503: queue full")
        for place in range(200)
    ]
    answer = answer_of(run_of(records, Question("rate", 50, 4.0, 0), slo), records, 0.0, 0.0, "")
    assert (answer.error_rate, answer.goodput_per_s, answer.state) == (1.0, 0.0, "fail")
    assert answer.problem == "200 of 200 refused: 503: queue full"


def test_artefacts_are_linked_once(tmp_path: Path) -> None:
    source = tmp_path / "a" / "minilm-0123"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "encoder.pt2").write_bytes(b"x")
    target = tmp_path / "b" / "c" / "minilm-0123"
    for _ in range(2):
        link_folder(source, target)
        assert (target / "deep" / "encoder.pt2").samefile(source / "deep" / "encoder.pt2")
    assert [each.name for each in target.parent.iterdir()] == ["minilm-0123"]


def test_two_searches_do_not_share_a_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path / "x"), pytest.raises(KitError, match="a search runs"), alone_in(tmp_path / "x"):
        pass
    with alone_in(tmp_path / "x"):
        pass


def test_an_answer_is_kept_whole(tmp_path: Path) -> None:
    answer = Answer(1.5, 2.5, None, 0.25, "invalid", "why", 1.0, 2.0, "runs/x")
    Journal(tmp_path, {}).add("a", "x", Question("rate", 1.5, 2.0, 3, 4), answer)
    assert Journal(tmp_path, {}).find("a", Question("rate", 1.5, 2.0, 3, 4)) == answer
    assert dataclasses.asdict(answer)["folder"] == "runs/x"
