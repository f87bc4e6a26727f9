"""Search for a faster configuration of a model on this machine, prove it against the default, write it down.

Candidates are halved by short closed-loop runs; for the finalists and the default the highest rate within the SLO is
searched; then the best of them has to beat the default, pair by pair, under the same timetable. If it does not, the
default stays. Everything measured goes into a journal first, so that a search that was broken off goes on where it was.

Knows nothing of TorchServe and Locust: trials.py asks them.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deploy import local
from loadtest import passport, trials, winner
from loadtest.candidates import Candidate, combine, key, sample, space
from loadtest.halving import NOISE, Round, Schedule, affordable, halving, ranked
from loadtest.percentiles import needed_for
from loadtest.search import Found, Outcome, search
from loadtest.serving import PORT
from loadtest.stats import SHARES
from loadtest.sweep import MIN_TIMEOUT_S, TIMEOUT_OF_LIMIT
from loadtest.trials import Answer, Ask, Bench, Journal, Question, ServerBench
from loadtest.tuned import Duel, Objective, Pair, Trial, Tuned, document, effects, explain, rows
from model_configs import CONFIGS_DIR
from model_configs.errors import Failed, KitError
from model_configs.loadtest import LoadTest, Slo
from model_configs.schema import AnyModelConfig
from printing import err
from servekit.cpus import read_machine

__all__ = ["TuneOptions", "Tuned", "document", "explain", "rows", "tune"]

RESULTS = Path(__file__).parent / "results" / "tune"
RUNS_FOLDER = "runs"
FINALISTS = 3
"""The default among them."""
FEWEST = 4
MOST = 48
ROUND_S = 4.0
WARMUP_S = 1.0
DUEL_S = 10.0
PAIRS = 3
MOST_DUELS = 2
JOB_QUEUE_SIZE = 100
"""TorchServe's own, when the YAML names none."""
FIRST_CLIENTS = 4
FALLEN = 0.8
"""More clients are no longer tried once the score is below this share of the best."""
FINAL_SHARE = 0.6
"""A final that takes more of the time is made with one challenger only."""
SEARCH_RUNS = 8
"""Runs that a search for the highest rate takes, about."""
FIRST_OF_SCORE = 0.7
"""Where that search begins."""
BESIDES = 1.5
"""What a candidate takes, by what the default took: its end, and a compilation where that has to be."""
MOST_STEPS = 14
TOLERANCE = 0.05
CONFIRMATIONS = 1
"""Duels confirm what counts."""
OUTCOMES: dict[str, Outcome] = {"pass": "held", "fail": "broken", "invalid": "generator", "dead": "broken"}
ABOVE = 1.05
"""A duel's rate is at least this many times what the default holds."""


@dataclass(frozen=True)
class TuneOptions:
    """minutes: for all of it, about. clients: of the closed loops, else found out. rate: latency's, requests a second.

    folder: journal, runs and evidence; loadtest/results/tune/<model> if not given. processes: of the load generator.
    write: also into model_configs/<model>.yaml.
    """

    minutes: float = 20.0
    clients: int | None = None
    objective: Objective = "rate"
    rate: float | None = None
    seed: int = 0
    folder: Path | None = None
    port: int = PORT + 10
    processes: int = 1
    write: bool = False


def tune(config: AnyModelConfig, slo: Slo | None, options: TuneOptions) -> Tuned:
    """Search, and write <model>.yaml, tune.json, tune.md and tune.html into the folder.

    slo: the YAML's own if None. Raises KitError for what cannot be searched, Failed when the default does not run.
    """
    load = _load(config, slo, options)
    folder = (options.folder or RESULTS / config.model.name).resolve()
    foundation = trials.foundation(config, load)
    with alone_in(folder), err.status("starting") as status:
        for left in local.servers(folder / trials.SERVER_FOLDER):
            local.stop(left)  # by a search that was killed
        search = Search(
            config,
            load,
            options,
            ServerBench(load, folder, options.port, options.processes),
            Journal(folder, foundation),
            cores=read_machine().available,
            note=lambda words: status.update(words),
            say=err.print,
        )
        found = search.run()
    found = replace(found, machine=passport.passport(), foundation=foundation)
    shutil.rmtree(folder / trials.STORE_FOLDER, ignore_errors=True)
    return winner.written(found, config, folder, CONFIGS_DIR / f"{config.model.name}.yaml", into_source=options.write)


class Search:
    """One search. bench starts candidates; note: what is being done; say: what was done, a line each."""

    def __init__(
        self,
        config: AnyModelConfig,
        load: LoadTest,
        options: TuneOptions,
        bench: Bench,
        journal: Journal,
        *,
        cores: int,
        clock: Callable[[], float] = time.monotonic,
        note: Callable[[str], None] = lambda words: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.config, self.load, self.options, self.cores = config, load, options, cores
        self._bench, self._journal, self._clock, self._note, self._say = bench, journal, clock, note, say
        self._began = clock()
        self._trials: dict[Candidate, Trial] = {}
        self._duels: list[Duel] = []
        self._asked: Counter[str] = Counter()
        self._metric, self._share = trials.latency_of(load.slo)

    def run(self) -> Tuned:
        """Raises Failed when the default does not run, KitError when it cannot be started for the set-up's fault."""
        everything = space(self.config, self.cores, self.options.seed)
        default = everything[0]
        self._note("the default")
        with self._asking(default) as ask:
            questions = self._first_questions(ask)
            cost_s, run_s = self._costs(ask, questions)
        budget_s = 60 * self.options.minutes
        finalists = FINALISTS
        if self._final_cost_s(finalists, cost_s, run_s, questions[0]) > FINAL_SHARE * budget_s:
            finalists = 2
        final_s = self._final_cost_s(finalists, cost_s, run_s, questions[0])
        each_s = BESIDES * (cost_s + len(questions) * run_s)
        # The one that joins the first round is paid for here.
        rounds_s = budget_s - final_s - each_s - len(questions) * questions[0].seconds
        plan = affordable(
            min(FEWEST, len(everything)),
            min(MOST, len(everything)),
            questions[0].seconds,
            finalists,
            each_s,
            rounds_s,
            runs=len(questions),
        )
        chosen = sample(everything, plan.rounds[0][0], self.options.seed)
        minutes = (plan.cost_s(each_s, len(questions)) + budget_s - rounds_s) / 60
        rounds = f"{len(plan.rounds)} {'round' if len(plan.rounds) == 1 else 'rounds'}"
        more = f", more than the {self.options.minutes:g} that were asked for" if rounds_s <= 0 else ""
        self._say(
            f"{len(chosen)} of {len(everything)} configurations in {rounds}, then a final: about {minutes:.0f} minutes"
            f"{more}, less what the journal remembers"
        )
        best = self._halve(chosen, plan, finalists, questions, self._began + budget_s - final_s)
        taken = self._final(default, [each for each in best if each != default], questions)
        return self._tuned(taken, len(everything), plan, questions)

    def _first_questions(self, ask: Callable[[Question], Answer]) -> list[Question]:
        """What every candidate is asked in the first round: runs that are long enough for the SLO's percentile."""
        rate, seed = self.options.rate, self.options.seed
        if self.options.objective == "latency" and rate is not None:
            return [Question("rate", rate, self._long_enough(rate), seed)]
        clients, rate = self._clients(ask)
        return [Question("clients", each, self._long_enough(rate), seed) for each in clients]

    def _clients(self, ask: Callable[[Question], Answer]) -> tuple[list[int], float]:
        """The number with which the default scores most, and twice that, where what is faster shows; answers a second.

        Fewer would leave it idle, many more would put every answer beyond the SLO.
        """
        most = self.config.torchserve.jobQueueSize or JOB_QUEUE_SIZE
        tried: dict[int, Answer] = {}
        clients = min(self.options.clients or FIRST_CLIENTS, most)
        while True:
            answer = ask(Question("clients", clients, ROUND_S, self.options.seed))
            if answer.state == "dead":
                raise Failed(f"the default was not measured: {answer.problem}")
            tried[clients] = answer
            past = answer.score_per_s < FALLEN * max(each.score_per_s for each in tried.values())
            if self.options.clients or past or clients == most:
                break
            clients = min(2 * clients, most)
        best = max(tried, key=lambda clients: tried[clients].score_per_s)
        if not any(each.goodput_per_s for each in tried.values()):
            raise Failed(f"no answer of the default is within the SLO, with {best} clients or any other number")
        wanted = {best, best if self.options.clients else min(2 * best, most)}
        return sorted(wanted), tried[best].answered_per_s

    def _long_enough(self, rate: float) -> float:
        needed = needed_for(SHARES[self._share])
        return max(ROUND_S, round(1.5 * needed / rate, 1))

    def _costs(self, ask: Callable[[Question], Answer], questions: Sequence[Question]) -> tuple[float, float]:
        """Seconds that a start takes, and those that a run takes beyond what it measures, going by the default's."""
        answers = [(question, ask(question)) for question in questions]
        if broken := next((answer for _, answer in answers if answer.state == "dead"), None):
            raise Failed(f"the default was not measured: {broken.problem}")
        around_s = max(answer.took_s - question.seconds for question, answer in answers)
        return max(answer.start_s for _, answer in answers), max(0.0, around_s)

    def _final_cost_s(self, finalists: int, start_s: float, run_s: float, first: Question) -> float:
        """A search for each finalist's highest rate, and one duel."""
        searching = self.options.objective == "rate"
        search_s = finalists * (start_s + SEARCH_RUNS * (2 * first.seconds + run_s)) if searching else 0.0
        return search_s + 2 * PAIRS * (start_s + run_s + max(DUEL_S, first.seconds))

    def _halve(
        self,
        chosen: Sequence[Candidate],
        plan: Schedule,
        finalists: int,
        questions: Sequence[Question],
        until: float,
    ) -> list[Candidate]:
        """The finalists. until: by our clock; what was not measured then is left out."""
        rounds = halving(chosen, plan, finalists)
        this = next(rounds)
        while True:
            scores = self._round(this, len(plan.rounds), questions, until)
            if this.number == 1 and (joined := self._combined(scores)):
                score = self._score(joined, self._stretched(questions, this), f"round 1 of {len(plan.rounds)}, joined")
                scores[joined] = score
            try:
                this = rounds.send(scores)
            except StopIteration as end:
                return list(end.value)

    def _round(
        self, this: Round[Candidate], of: int, questions: Sequence[Question], until: float
    ) -> dict[Candidate, float]:
        scores: dict[Candidate, float] = {}
        for place, candidate in enumerate(this.candidates, 1):
            if self._clock() > until and len(scores) >= FINALISTS:
                self._say(f"time is up: {len(this.candidates) - len(scores)} of round {this.number} are left out")
                break
            left_s = max(0.0, until - self._clock())
            where = (
                f"round {this.number} of {of}, {place} of {len(this.candidates)}, {left_s / 60:.0f} min to the final"
            )
            scores[candidate] = self._score(candidate, self._stretched(questions, this), where)
        return scores

    def _stretched(self, questions: Sequence[Question], this: Round[Candidate]) -> list[Question]:
        return [replace(question, seconds=this.seconds) for question in questions]

    def _score(self, candidate: Candidate, questions: Sequence[Question], where: str) -> float:
        """Ask a candidate; the best of its answers counts."""
        self._note(f"{where}: {candidate.label}")
        with self._asking(candidate) as ask:
            answers = [ask(question) for question in questions]
        best = max(answers, key=self._worth)
        score = self._worth(best)
        before = self._trials.get(candidate)
        own_key = before.key if before else candidate.key(self.config)
        self._trials[candidate] = Trial(candidate, own_key, (*(before.scores if before else ()), score), best)
        self._say(f"{where}: {candidate.label}: {self._in_words(best)}")
        return score

    def _worth(self, answer: Answer) -> float:
        """More is better: goodput, or the inverse of the latency; nothing for one that fails requests."""
        if answer.state == "dead" or answer.error_rate > max(self.load.slo.error_rate, 0.01):
            return 0.0
        if self.options.objective == "rate":
            return answer.score_per_s
        return 1e3 / answer.latency_ms if answer.latency_ms else 0.0

    def _in_words(self, answer: Answer) -> str:
        latency = "n/a" if answer.latency_ms is None else f"{answer.latency_ms:.1f} ms"
        problem = f" ({answer.problem.splitlines()[-1][:80]})" if answer.problem else ""
        within = f"{answer.goodput_per_s:.1f}/s within the SLO, of {answer.answered_per_s:.1f}/s"
        return f"{within}; {self._metric} {self._share} {latency}{problem}"

    def _combined(self, scores: Mapping[Candidate, float]) -> Candidate | None:
        """A candidate with the best value of each axis, which may not be among those that were drawn.

        The default's value stays where none is better by more than noise.
        """
        measured = [trial for candidate, trial in self._trials.items() if candidate in scores]
        own = dict(measured[0].candidate.choices)
        wanted = {}
        for effect in effects(measured):
            means = {text: mean for text, mean, _ in effect.values}
            best, mean = effect.values[0][:2]
            keeps = means.get(own[effect.axis], 0.0) >= mean * (1 - NOISE)
            wanted[effect.axis] = own[effect.axis] if keeps else best
        joined = combine(self.config, self.cores, wanted)
        return None if joined is None or joined in scores else joined

    def _final(self, default: Candidate, others: Sequence[Candidate], questions: Sequence[Question]) -> Candidate:
        """Whoever beats the default, the default if nobody does."""
        if self.options.objective == "latency":
            contenders = [(candidate, float(questions[0].amount)) for candidate in others]
        else:
            held = self._held(default, questions[0].seconds)
            found = [(candidate, self._held(candidate, questions[0].seconds)) for candidate in others]
            better = {candidate: rate for candidate, rate in found if rate > held * (1 + NOISE)}
            simplest_first = sorted(better, key=lambda candidate: len(candidate.overrides))
            contenders = [(each, _between(held, better[each])) for each in ranked(better, simplest_first)]
        for candidate, rate in contenders[:MOST_DUELS]:
            duel = self._duel(default, candidate, rate)
            self._duels.append(duel)
            if duel.won:
                return candidate
        return default

    def _held(self, candidate: Candidate, seconds: float) -> float:
        """The highest rate at which a candidate holds the SLO, 0 when none was found."""
        trial = self._trials[candidate]
        start = max(0.5, FIRST_OF_SCORE * max(trial.scores))
        self._note(f"final: the highest rate of {candidate.label}")
        with self._asking(candidate) as ask:

            def step(rate: float, before: int) -> Outcome:
                long = round(max(2 * seconds, self._long_enough(rate)), 1)
                return OUTCOMES[ask(Question("rate", rate, long, self.options.seed + before, before)).state]

            held = highest_rate(step, round(start, 1))
        self._trials[candidate] = replace(trial, held_per_s=held)
        self._say(f"final: {candidate.label} holds the SLO up to {held:.1f} requests/s")
        return held

    def _duel(self, default: Candidate, challenger: Candidate, rate: float) -> Duel:
        """Pairs of runs, each on a server of its own, since starts differ too; the first lost pair ends it."""
        pairs: list[Pair] = []
        about = challenger.key(self.config)
        seconds = max(DUEL_S, self._long_enough(rate))
        while len(pairs) < PAIRS and all(pair.won for pair in pairs):
            number = len(pairs) + 1
            where = f"final: pair {number} of {PAIRS} at {rate:.1f} requests/s"
            question = Question("rate", round(rate, 2), seconds, self.options.seed + number, number)
            answers = []
            for candidate in (default, challenger):
                self._note(f"{where}: {candidate.label}")
                with self._asking(candidate, f"pair {number} with {about}") as ask:
                    answers.append(self._valid(ask, question))
            pairs.append(Pair(answers[0], answers[1], self._wins(answers[0], answers[1])))
            self._say(f"{where}: default {self._in_words(answers[0])}; {challenger.label} {self._in_words(answers[1])}")
        return Duel(challenger, rate, tuple(pairs), all(pair.won for pair in pairs))

    def _valid(self, ask: Callable[[Question], Answer], question: Question) -> Answer:
        """A run, made once more when it was not valid."""
        answer = ask(question)
        return ask(replace(question, repeat=-question.repeat)) if answer.state == "invalid" else answer

    def _wins(self, default: Answer, challenger: Answer) -> bool:
        if "dead" in (default.state, challenger.state) or challenger.state == "invalid":
            return False
        if default.state == "invalid":
            # Overload by the default leaves no CPU for a generator on the same machine. That the challenger holds the
            # same timetable in a valid run is better than that.
            return challenger.state == "pass"
        return self._worth(challenger) > self._worth(default) * (1 + NOISE)

    @contextmanager
    def _asking(self, candidate: Candidate, start: str = "") -> Iterator[Callable[[Question], Answer]]:
        """Asks a candidate what the journal does not know; its server is only started for that.

        start: tells apart what is to be asked of another start of the same candidate.
        """
        config = candidate.apply(self.config)
        about = key(config) + start
        with ExitStack() as stack:
            server: Ask | None = None
            failure: Answer | None = None

            def answer(question: Question) -> Answer:
                nonlocal server, failure
                known = self._journal.find(about, question)
                self._asked["remembered" if known else "measured"] += 1
                if known:
                    return known
                if failure:
                    return failure
                folder = self._journal.folder / RUNS_FOLDER / self._journal.key(about, question)
                try:
                    server = server or stack.enter_context(self._bench(config))
                    found = server(question, folder)
                except Failed as error:
                    found = failure = Answer(problem=str(error).strip())
                except KitError as error:
                    # A tool that this candidate alone needs; may be there the next time, so it is not remembered.
                    if not candidate.overrides:
                        raise
                    failure = Answer(problem=str(error))
                    return failure
                self._journal.add(about, candidate.label, question, found)
                return found

            yield answer

    def _tuned(self, taken: Candidate, total: int, plan: Schedule, questions: Sequence[Question]) -> Tuned:
        best = sorted(
            self._trials.values(),
            key=lambda trial: (
                trial.candidate != taken,
                -(trial.held_per_s if trial.held_per_s is not None else -1.0),
                -len(trial.scores),
                -trial.scores[-1],
            ),
        )
        return Tuned(
            model=self.config.model.name,
            objective=self.options.objective,
            latency=f"{self._metric} {self._share}",
            rate=self.options.rate,
            clients=tuple(int(question.amount) for question in questions if question.kind == "clients"),
            space=total,
            rounds=plan.rounds,
            trials=tuple(best),
            duels=tuple(self._duels),
            winner=taken,
            seed=self.options.seed,
            took_s=round(self._clock() - self._began, 1),
            measured=self._asked["measured"],
            remembered=self._asked["remembered"],
            foundation={},
            machine={},
            yaml="",
        )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else searches in this folder meanwhile. Raises KitError when somebody does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KitError(f"a search runs in {folder}", "wait for it, or give another --out") from None
        yield


def highest_rate(ask: Callable[[float, int], Outcome], start: float) -> float:
    """The highest rate that held, as a sweep finds it; 0 when none did. ask: a rate, how often it was asked before."""
    searching = search(start, TOLERANCE, CONFIRMATIONS, MOST_STEPS)
    asked: Counter[float] = Counter()
    probe = next(searching)
    while True:
        outcome = ask(probe.rate, asked[probe.rate])
        asked[probe.rate] += 1
        try:
            probe = searching.send(outcome)
        except StopIteration as stop:
            found: Found = stop.value
            return found.rate or 0.0


def _between(held: float, better: float) -> float:
    """A rate that the default does not hold and the challenger does; well within, when the default holds none.

    Nearer to the default's: what a challenger holds once it may break a minute later, at its own edge.
    """
    return max(held * ABOVE, held ** (2 / 3) * better ** (1 / 3)) if held else 0.9 * better


def _load(config: AnyModelConfig, slo: Slo | None, options: TuneOptions) -> LoadTest:
    load = config.loadtest
    if load is None:
        raise KitError(f"{config.model.name} has no loadtest section", "see model_configs/minilm.yaml for one")
    slo = slo or load.slo
    limits = [limit for metric, _, limit in slo.limits() if metric.startswith("e2e")]
    # As a sweep's steps: an overloaded candidate's run is over soon after, with the same verdict.
    timeout_s = max(MIN_TIMEOUT_S, TIMEOUT_OF_LIMIT * max(limits) / 1e3) if limits else load.timeout_s
    changes = {"warmup_s": WARMUP_S, "slo": slo, "timeout_s": min(load.timeout_s, timeout_s)}
    if options.objective == "latency" and options.rate is None:
        raise KitError("the lowest latency at which rate?", "--rate REQUESTS_PER_SECOND")
    if options.objective == "rate" and not list(slo.limits()):
        raise KitError(f"{config.model.name}: an SLO with no latency has no highest rate", "--slo e2e_sched_ms.p95=100")
    return load.model_copy(update=changes)
