"""Whether a model is truly ready: every worker READY and a golden request answered right.

TorchServe's /ping says 200 while a model loads and while its worker crashes again and again (ApiUtils.java counts a
worker as healthy until its retries are used up). Knows nothing of how a server is started.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from deploy.http_client import Unreachable
from deploy.local import LOG_FILE, ServedModel, Server, tail
from deploy.logs import Follower
from model_configs.errors import Failed

POLL_S = 0.2
JAVA_START_S = 60
DEATH_MARK = "Backend worker process died."
FRONTEND_DEATH_MARK = "Load model failed"


@dataclass(frozen=True)
class Readiness:
    """One model's state. problem is empty when it is ready; answer_ms is the golden request's time, when asked."""

    model: str
    ready: bool
    workers_ready: int
    workers: int
    answer_ms: float | None
    problem: str

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def check(server: Server, model: ServedModel) -> Readiness:
    """Ask once. Never raises for a server that is down: that is a problem like another."""
    if not server.alive:
        return Readiness(model.name, False, 0, model.workers, None, "the server does not run")
    try:
        described = server.management().get(f"/models/{model.name}/{model.version}")
        if described.status != 200:
            return Readiness(model.name, False, 0, model.workers, None, f"describe-model says {described.status}")
        states = [worker["status"] for worker in json.loads(described.body)[0]["workers"]]
        ready, wanted = states.count("READY"), max(model.workers, len(states))
        if ready < wanted:
            problem = f"{ready} of {wanted} workers are READY ({', '.join(states) or 'none started'})"
            return Readiness(model.name, False, ready, wanted, None, problem)
        started = time.perf_counter()
        reply = server.inference().post(
            f"/predictions/{model.name}/{model.version}", json.dumps(model.golden.body).encode()
        )
        answer_ms = 1e3 * (time.perf_counter() - started)
    except Unreachable as error:
        return Readiness(model.name, False, 0, model.workers, None, str(error))
    if reply.status != 200:
        problem = f"the golden request got {reply.status}: {reply.body[:200]!r}"
    else:
        problem = model.golden.verdict(reply.body)
    return Readiness(model.name, not problem, ready, wanted, round(answer_ms, 1), problem)


def wait_ready(server: Server, say: Callable[[str], None] = lambda line: None) -> list[Readiness]:
    """Wait until every model is ready; say gets each new line of the log.

    Raises Failed with the worker's own error as soon as one dies while loading, or when startupTimeout is over.
    """
    deadline = time.monotonic() + JAVA_START_S + max(model.startup_timeout_s for model in server.models)
    log = Follower(server.folder / LOG_FILE)
    while True:
        for line in log.lines():
            say(line)
            if DEATH_MARK in line or FRONTEND_DEATH_MARK in line:
                time.sleep(1.0)  # the traceback follows the mark, line by line
                raise Failed(f"a worker died while it loaded:\n{worker_error(tail(server.folder, 400))}")
        results = [check(server, model) for model in server.models]
        if all(result.ready for result in results):
            return results
        if not server.alive:
            raise Failed(f"TorchServe ended while it started:\n{tail(server.folder)}")
        # Workers that are READY and answer wrong will not get better by waiting.
        wrong = [result for result in results if result.problem and result.workers_ready == result.workers]
        if wrong:
            raise Failed(f"{wrong[0].model}: {wrong[0].problem}")
        if time.monotonic() > deadline:
            raise Failed(f"not ready in time: {'; '.join(result.problem for result in results)}\n{tail(server.folder)}")
        time.sleep(POLL_S)


def worker_error(log: str) -> str:
    """The first dying worker's traceback out of a server's log, without time and thread; the log's end if none."""
    lines = log.splitlines()
    marks = [number for number, line in enumerate(lines) if DEATH_MARK in line]
    if not marks:
        return "\n".join(lines[-40:])
    thread = lines[marks[0]].split(" ")[1]
    own = [line.split(" ", 2) for line in lines[marks[0] + 1 :]]
    words = [parts[2] for parts in own if len(parts) == 3 and parts[1] == thread]
    end = next((number for number, word in enumerate(words) if DEATH_MARK in word), len(words))
    return "\n".join(words[:end])
