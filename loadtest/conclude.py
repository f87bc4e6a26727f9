"""From a run's records to its documents: summary, verdict, run.json, report. Knows neither Locust nor TorchServe."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from loadtest import cost, records, report, workload
from loadtest.generator import START_FILE
from loadtest.passport import passport
from loadtest.plan import Plan
from loadtest.records import Record
from loadtest.run import Cold, Cost, Run, ServerSide, sha256
from loadtest.server_side import Samples, split
from loadtest.stats import Summary, generator, measured, summarise
from loadtest.verdict import judge
from model_configs import CONFIGS_DIR
from model_configs.errors import Failed
from model_configs.schema import AnyModelConfig

RESULTS = Path(__file__).parent / "results"
LOCAL_HOSTS = {"127.0.0.1", "localhost", "::1"}
headline = report.headline


def new_folder(results: Path, model: str) -> Path:
    """Where a run that begins now is written: <results>/<model>/<UTC>-<commit>. Not made yet."""
    began = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return (results / model / f"{began}-{passport()['commit']}").resolve()


def conclude(
    plan: Plan,
    folder: Path,
    *,
    scrapes: Sequence[Samples] = (),
    config: AnyModelConfig | None = None,
    cold: Cold | None = None,
    archive_sha256: str | None = None,
    price: tuple[float, str] | None = None,
) -> Run:
    """Sum up the records in a folder, judge them, and write run.json, summary.md, report.html and the merged records.

    scrapes: the server's counts before and after the measured phase. config: the served model's; the kit's YAML of
    that name is only told apart by its sum. price: US dollars an hour, and what for.
    Raises Failed when there are no records.
    """
    found = records.read(folder)
    chosen = measured(found)
    if not found:
        raise Failed(f"{folder}: not one request was written down")
    load = plan.load
    begun = json.loads((folder / START_FILE).read_text())
    limits = load.slo.request_limits()
    summary = summarise(found, load.warmup_s, load.duration_s, limits, closed=plan.closed)
    health = generator(chosen, begun["workers"], _cpu_share(folder), planned=_planned(plan))
    run = Run(
        id=folder.name,
        model=plan.target.model,
        plan=plan.model_dump(mode="json"),
        machine=passport(),
        same_machine=urlsplit(plan.target.url).hostname in LOCAL_HOSTS,
        workload_sha256=_workload(plan),
        config_sha256=_config(plan.target.model),
        archive_sha256=archive_sha256,
        locust=importlib.metadata.version("locust"),
        summary=summary,
        generator=health,
        verdict=judge(summary, health, load.slo),
        server=_server_side(scrapes, chosen, plan, config),
        cold=cold,
        cost=_cost(price, chosen, summary, plan) if price else None,
    )
    run.write(folder)
    records.merge(folder, found)
    report.write(run, found, folder)
    return run


def _cost(price: tuple[float, str], chosen: Sequence[Record], summary: Summary, plan: Plan) -> Cost:
    load = plan.load
    tokens_per_s = cost.good_tokens_per_s(chosen, load.slo.request_limits(), load.duration_s)
    if plan.closed:
        at = f"the goodput of {load.clients} clients in a closed loop"
    else:
        at = f"the goodput at {load.rate:g} requests/s offered" if load.rate else "the goodput of the trace"
    return cost.cost(*price, summary.goodput_per_s, tokens_per_s, at)


def _planned(plan: Plan) -> int | None:
    """Requests that the timetable has in the measured phase."""
    return None if plan.closed else sum(time_s >= plan.load.warmup_s for time_s in plan.timetable())


def _server_side(
    scrapes: Sequence[Samples], chosen: Sequence[Record], plan: Plan, config: AnyModelConfig | None
) -> ServerSide | None:
    if len(scrapes) != 2 or config is None:
        return None
    serving = config.torchserve
    before, after = scrapes
    return split(
        before,
        after,
        chosen,
        closed=plan.closed,
        batch_size=serving.batchSize,
        continuous=bool(serving.continuousBatching),
    )


def _cpu_share(folder: Path) -> float | None:
    """Of the busiest worker."""
    shares = [json.loads(file.read_text())["cpu_share"] for file in folder.glob("worker.*.json")]
    return max(shares, default=None)


def _workload(plan: Plan) -> str:
    """What is asked, whatever the rate: the payloads and how each is put."""
    target, load = plan.target, plan.load
    words = [target.kind, target.stream, load.max_tokens if target.stream else None]
    return sha256(workload.sha256(workload.load(Path(plan.payloads))).encode(), json.dumps(words).encode())


def _config(model: str) -> str | None:
    file = CONFIGS_DIR / f"{model}.yaml"
    return sha256(file.read_bytes()) if file.exists() else None
