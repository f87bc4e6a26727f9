"""What is known of the models behind a gateway, and what follows for /ping. Pure: times come from a monotonic clock.

The rules, and why they are as they are:
- a worker that is not READY shows at once; TorchServe's own ping counts it as healthy for minutes;
- a worker that was restarted again and again shows although it is READY whenever somebody looks: by its process id;
- a wrong answer to the golden request shows at once, until a right one;
- no answer to it, or the refusal of a full queue, is no verdict: a server under load answers late, and whoever ends it
  for that makes the load of the others worse. One that hangs is ended by TorchServe itself after responseTimeout, and
  then shows as a worker that is not READY;
- a TorchServe whose process is gone is gone around by nginx, as long as another one is well.
Knows nothing of HTTP or processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SILENT_S = 30.0
"""That TorchServe's management API may take to answer before it counts as hung: longer than any pause of a JVM's."""
RESTARTS, RESTARTS_WINDOW_S = 3, 300.0
"""TorchServe waits 0, 1, 1, 2, 3, 5, … s between restarts: a worker that cannot live makes three within seconds."""
GOLDEN_EVERY_S = 10.0
GOLDEN_SHARE = 0.02
"""Of a model's time, at most, that golden requests take."""
RETRY_S = 1.0
"""Between golden requests while the last one was not right."""


@dataclass(frozen=True)
class Worker:
    """As describe-model tells it."""

    status: str
    pid: int


class ModelState:
    """One model of one TorchServe. workers: as many as it should have."""

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self._wanted = workers
        self._workers: Sequence[Worker] = ()
        self._described_s: float | None = None
        self._restarts: deque[float] = deque(maxlen=RESTARTS)
        self._known: set[int] = set()
        self._proven = False
        self._wrong = ""
        self._golden_due_s = 0.0

    def described(self, now_s: float, workers: Sequence[Worker]) -> None:
        """TorchServe told about its workers."""
        self._described_s, self._workers = now_s, workers
        for pid in {worker.pid for worker in workers if worker.pid > 0} - self._known:
            if len(self._known) >= self._wanted:
                self._restarts.append(now_s)
                self._golden_due_s = now_s
            self._known.add(pid)

    def golden_due(self, now_s: float) -> bool:
        """Whether the golden request is to be asked now: workers that cannot answer are not asked."""
        return self._workers_problem() == "" and self._described_s is not None and now_s >= self._golden_due_s

    def answered(self, now_s: float, took_s: float, wrong: str) -> None:
        """The golden request was answered. wrong: what is wrong with the answer, empty if nothing."""
        self._wrong = wrong
        self._proven = self._proven or not wrong
        self._golden_due_s = now_s + (RETRY_S if wrong else max(GOLDEN_EVERY_S, took_s / GOLDEN_SHARE))

    def busy(self, now_s: float) -> None:
        """The golden request was not answered in time, or was refused by a full queue."""
        self._golden_due_s = now_s + (GOLDEN_EVERY_S if self._proven else RETRY_S)

    def problem(self, now_s: float) -> str:
        """Why this model is not well; empty if it is."""
        if self._described_s is None:
            return "TorchServe has not answered yet"
        if now_s - self._described_s > SILENT_S:
            return f"TorchServe's management API has not answered for {now_s - self._described_s:.0f} s"
        if problem := self._workers_problem():
            return problem
        if len(self._restarts) == RESTARTS and now_s - self._restarts[0] <= RESTARTS_WINDOW_S:
            return f"{RESTARTS} restarts of workers within {RESTARTS_WINDOW_S:g} s"
        if self._wrong:
            return self._wrong
        return "" if self._proven else "the golden request has not been answered yet"

    def document(self, now_s: float) -> dict[str, Any]:
        """For JSON."""
        ready = sum(worker.status == "READY" for worker in self._workers)
        return {"model": self.name, "workers_ready": ready, "workers": self._wanted, "problem": self.problem(now_s)}

    def _workers_problem(self) -> str:
        states = [worker.status for worker in self._workers]
        ready, wanted = states.count("READY"), max(self._wanted, len(states))
        return (
            "" if ready == wanted else f"{ready} of {wanted} workers are READY ({', '.join(states) or 'none started'})"
        )


class ServerState:
    """One TorchServe."""

    def __init__(self, port: int, models: Sequence[ModelState]) -> None:
        self.port = port
        self.models = models
        self.gone = False
        """Its process has ended."""

    def problems(self, now_s: float) -> list[str]:
        """Of all its models, beside having gone."""
        told = [(model.name, model.problem(now_s)) for model in self.models]
        return [f"port {self.port}, {name}: {problem}" for name, problem in told if problem]

    def document(self, now_s: float) -> dict[str, Any]:
        """For JSON."""
        return {"port": self.port, "gone": self.gone, "models": [model.document(now_s) for model in self.models]}


def problems(servers: Sequence[ServerState], now_s: float) -> list[str]:
    """Why /ping is not 200; empty if it is."""
    if not servers:
        return ["there is no TorchServe"]
    there = [server for server in servers if not server.gone]
    if not there:
        return [f"port {server.port}: TorchServe has ended" for server in servers]
    return [problem for server in there for problem in server.problems(now_s)]
