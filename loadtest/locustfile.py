"""Locust with a timetable of our own: every request at its intended time, each written down as a line.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8080 --model minilm --rate 50

The model's YAML, if there is one, says what is sent and what the service promises; options say otherwise. The token is
read from --token-file or the environment's SERVEKIT_TOKEN. Works with Locust's web UI, --headless, --processes and on
many hosts: the master says when the run begins, and each worker sends its share of one timetable. Locust's users are
only a pool (loadtest/generator.py); its own table counts each request once, from when it was sent.
"""

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Locust comes before anything that opens sockets: it makes them gevent's.
import gevent
from locust import User, constant, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtest import conclude, options, workload
from loadtest.clients import Client, client_of
from loadtest.dialects import Call
from loadtest.generator import START_FILE, Shift
from loadtest.plan import PLAN_FILE, Plan, Target
from loadtest.records import Record
from loadtest.serving import STREAMING, target_of
from model_configs.errors import Failed, KitError
from model_configs.loadtest import LoadTest
from model_configs.schema import load_model, model_names
from printing import explain

START_DELAY_S = 2.0
"""From the test's start to the run's beginning: for the users to be there."""
GRACE_S = 5.0
"""After the last answer may have come, for what hangs."""
DONE = "servekit-done"


class TimetableUser(User):
    """One of the pool."""

    wait_time = constant(0)
    shift: Shift
    new_client: Callable[[], Client]
    at_work = 0
    """Users of this process that still take requests."""

    @task
    def work(self) -> None:
        """Take requests until there are none."""
        client = type(self).new_client()
        TimetableUser.at_work += 1
        try:
            self.shift.work(client)
        finally:
            TimetableUser.at_work -= 1
            client.close()
        raise StopUser


def add_arguments(parser: ArgumentParser) -> None:
    """The options of a run; those that are not given are the YAML's."""
    add: Any = parser.add_argument
    add("--plan", help="A plan.json that says everything; kit.py loadtest writes it", include_in_web_ui=False)
    add("--model", help="The model's name on the server; its YAML is read if the kit has one")
    add("--target", help="predictions, invocations, openai-…, sagemaker or sagemaker-stream")
    add("--payloads", help="A folder of loadtest/payloads, or a path")
    add("--arrivals", help="closed, constant, poisson, gamma, ramp or trace")
    for name, text in (
        ("--rate", "Requests a second"),
        ("--end-rate", "A ramp's last rate"),
        ("--burstiness", "gamma: 1 is Poisson, less comes in bursts"),
        ("--warmup", "Seconds before the measured phase"),
        ("--duration", "Seconds of the measured phase"),
        ("--timeout", "Seconds after which an answer is a failure"),
    ):
        add(name, type=float, help=text)
    add("--trace", help="A file of seconds, one a line")
    add("--clients", type=int, help="closed: clients that wait for their answers")
    add("--max-tokens", type=int, help="Text generation: new tokens a request")
    add("--seed", type=int, help="The same seed gives the same timetable")
    add("--slo", action="append", default=[], help="METRIC.p95=MS; instead of the YAML's", include_in_web_ui=False)
    add("--token-file", help="TorchServe's key_file.json", include_in_web_ui=False)
    add("--region", help="SageMaker: the AWS region")
    add("--out", help="Where runs are written", default="loadtest/results", include_in_web_ui=False)


def plan_of(parsed: Any, host: str | None) -> Plan:
    """The run that the options ask for. Raises KitError."""
    if parsed.plan:
        return Plan.model_validate_json(Path(parsed.plan).read_text())
    if not parsed.model:
        raise KitError("--model: which?", f"one of the kit's: {', '.join(model_names())}; or any name with --payloads")
    config = load_model(parsed.model) if parsed.model in model_names() else None
    given = {
        **{key: getattr(parsed, key) for key in ("target", "payloads", "arrivals", "rate", "end_rate", "burstiness")},
        **{key: getattr(parsed, key) for key in ("trace", "clients", "max_tokens", "seed")},
        "warmup_s": parsed.warmup,
        "duration_s": parsed.duration,
        "timeout_s": parsed.timeout,
        "slo": options.slo_of(parsed.slo),
    }
    load = options.overridden(config.loadtest if config else None, given)
    target = _target(parsed, host, load, target_of(config, host or "", None) if config else None)
    folder = conclude.new_folder(Path(parsed.out), parsed.model)
    return Plan(target=target, load=load, payloads=str(workload.find(load.payloads).resolve()), folder=str(folder))


def _target(parsed: Any, host: str | None, load: LoadTest, own: Target | None) -> Target:
    kind = load.target or (own.kind if own else "predictions")
    if not host and not kind.startswith("sagemaker"):
        raise KitError("--host: which server?", "--host http://127.0.0.1:8080")
    return Target(
        kind=kind,
        url=host or "",
        model=parsed.model,
        version=own.version if own else None,
        token_file=parsed.token_file,
        stream=load.stream if load.stream is not None else kind in STREAMING or bool(own and own.stream),
        region=parsed.region,
    )


def on_init(environment: Environment, **_: object) -> None:
    """Check the options before anything starts, size the pool, and listen to the workers."""
    runner: Any = environment.runner
    if isinstance(runner, WorkerRunner):
        return
    if isinstance(runner, MasterRunner):
        runner.register_message(DONE, _worker_is_done)
    parsed: Any = environment.parsed_options
    with _usage_errors():
        plan = plan_of(parsed, environment.host)
    parsed.num_users = plan.load.clients if plan.closed else plan.load.users
    parsed.spawn_rate = parsed.num_users


def on_test_start(environment: Environment, **_: object) -> None:
    """The master or the only process fixes the beginning; everyone who sends takes his part."""
    runner: Any = environment.runner
    parsed: Any = environment.parsed_options
    if isinstance(runner, WorkerRunner):
        orders = json.loads(parsed.servekit_orders)
        rank = orders["workers"].index(runner.client_id)
        plan = Plan.model_validate_json(orders["plan"])
        _begin(environment, plan, rank, len(orders["workers"]), orders["start_at"])
        return
    with _usage_errors():
        plan = plan_of(parsed, environment.host)
    start_at = time.time() + START_DELAY_S
    folder = Path(plan.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN_FILE).write_text(plan.model_dump_json(indent=2) + "\n")
    workers = [client.id for client in runner.clients.ready] if isinstance(runner, MasterRunner) else []
    (folder / START_FILE).write_text(json.dumps({"start_at": start_at, "workers": max(1, len(workers))}) + "\n")
    if isinstance(runner, MasterRunner):
        parsed.servekit_orders = json.dumps({"plan": plan.model_dump_json(), "start_at": start_at, "workers": workers})
        Master.plan, Master.waiting_for = plan, set(workers)
        gevent.spawn(_end_at_last, environment, start_at + plan.total_s + plan.load.timeout_s + 2 * GRACE_S)
    else:
        _begin(environment, plan, 0, 1, start_at)


class Master:
    """What a master knows of the run."""

    plan: Plan
    waiting_for: set[str]


def _begin(environment: Environment, plan: Plan, worker: int, workers: int, start_at: float) -> None:
    """Take a part of the run: users find it in their class."""

    def done(call: Call, record: Record) -> None:
        failure = None if record.error is None else RuntimeError(f"{record.error}: {record.detail}")
        environment.events.request.fire(  # type: ignore[no-untyped-call]
            request_type="POST",
            name=call.path or plan.target.model,
            response_time=record.e2e_ms,
            response_length=record.bytes,
            exception=failure,
            context={},
        )

    TimetableUser.shift = Shift(plan, worker, workers, start_at, done)
    TimetableUser.new_client = staticmethod(client_of(plan.target, plan.load))
    TimetableUser.at_work = 0
    watch = gevent.spawn(TimetableUser.shift.watch_the_cpu)
    gevent.spawn(_wait_for_the_end, environment, plan, start_at, watch)


def _wait_for_the_end(environment: Environment, plan: Plan, start_at: float, watch: gevent.Greenlet) -> None:
    watch.join()
    last = start_at + plan.total_s + plan.load.timeout_s + GRACE_S
    while TimetableUser.at_work and time.time() < last:
        gevent.sleep(0.05)
    runner: Any = environment.runner
    if isinstance(runner, WorkerRunner):
        TimetableUser.shift.close()
        runner.send_message(DONE, {"worker": runner.client_id})
    else:
        _end(environment, plan, TimetableUser.shift.close)


def _worker_is_done(environment: Environment, msg: Any, **_: object) -> None:
    Master.waiting_for.discard(msg.data["worker"])
    if not Master.waiting_for:
        _end(environment, Master.plan)


def _end_at_last(environment: Environment, last: float) -> None:
    """A worker that died says nothing."""
    plan = Master.plan
    gevent.sleep(max(0.0, last - time.time()))
    if Master.waiting_for and Master.plan is plan:
        _end(environment, plan)


def _end(environment: Environment, plan: Plan, close: Callable[[], None] = lambda: None) -> None:
    """Write and say what was measured; without the web UI that is all. kit.py loadtest concludes by itself."""
    runner: Any = environment.runner
    parsed: Any = environment.parsed_options
    runner.stop()
    close()
    environment.process_exit_code = 0
    if not parsed.plan:
        try:
            run = conclude.conclude(plan, Path(plan.folder))
            environment.process_exit_code = run.verdict.exit_code
            print(f"\n{conclude.headline(run)}\n{plan.folder}/report.html\n", flush=True)
        except (Failed, KitError) as error:
            explain(str(error))
            environment.process_exit_code = 3
    if parsed.headless:
        runner.quit()


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Ends the process with the kit's two lines; Locust would log an exception and go on."""
    try:
        yield
    except KitError as error:
        explain(str(error), error.hint)
        sys.exit(2)


events.init_command_line_parser.add_listener(add_arguments)  # type: ignore[no-untyped-call]
events.init.add_listener(on_init)  # type: ignore[no-untyped-call]
events.test_start.add_listener(on_test_start)  # type: ignore[no-untyped-call]
