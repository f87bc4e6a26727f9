"""The command line's verbs that measure: loadtest, sweep, tune, compare, report. They parse, call one function, print.

Exit codes: 0 the SLO holds, 1 it does not, 2 usage or configuration, 3 the measurement itself is not valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest import compare as comparing
from loadtest import conclude, lab, options, records, report, serving, tuned, wording
from loadtest import run as runs
from loadtest import sweep as sweeping
from loadtest import tune as tuning
from loadtest.candidates import untuned
from loadtest.plan import PLAN_FILE, Plan
from loadtest.run import Run
from loadtest.serving import Served
from loadtest.tuned import Objective
from model_configs.errors import Failed, Invalid, KitError
from model_configs.loadtest import LoadTest, Slo
from model_configs.schema import AnyModelConfig, load_model
from printing import err, out
from printing import report as print_report

app = typer.Typer()

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model of model_configs/, by name.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON document to FILE too.")]
Host = Annotated[str | None, typer.Option(metavar="URL", help="A server that is there; else one of this machine.")]
Port = Annotated[int | None, typer.Option(help="The server of this machine on this port, or where one is started.")]
TokenFile = Annotated[Path | None, typer.Option(help="TorchServe's key_file.json, for --host.")]
Region = Annotated[str | None, typer.Option(help="SageMaker: the AWS region.")]
Target = Annotated[str | None, typer.Option(help="predictions, invocations, openai-…, sagemaker or sagemaker-stream.")]
Payloads = Annotated[str | None, typer.Option(help="A folder of loadtest/payloads, or a path.")]
SloPairs = Annotated[
    list[str] | None, typer.Option("--slo", metavar="METRIC.P=MS", help="Instead of the YAML's; error_rate=SHARE too.")
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same timetable.")]
Processes = Annotated[int, typer.Option(help="Load generator processes.", min=1)]
Out = Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Else a new folder of loadtest/results.")]
Price = Annotated[float | None, typer.Option(help="US dollars an hour; else the YAML's deploy.price_per_hour.")]
Basis = Annotated[str, typer.Option(help="What that price is of.")]
FIRST_RATE = 10.0
"""A sweep's, when neither option nor YAML names one."""


@app.command()
def loadtest(
    name: ModelName,
    rate: Annotated[float | None, typer.Option(help="Requests a second; of a ramp, the first.")] = None,
    arrivals: Annotated[str | None, typer.Option(help="closed, constant, poisson, gamma, ramp or trace.")] = None,
    end_rate: Annotated[float | None, typer.Option(help="A ramp's last rate.")] = None,
    burstiness: Annotated[float | None, typer.Option(help="gamma: 1 is Poisson, less comes in bursts.")] = None,
    trace: Annotated[str | None, typer.Option(help="A file of seconds, one a line.")] = None,
    clients: Annotated[int | None, typer.Option(help="closed: clients that wait for their answers.")] = None,
    think_time: Annotated[float | None, typer.Option(help="closed: seconds between answer and request.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Seconds before the measured phase.")] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds of the measured phase.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which an answer is a failure.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Text generation: new tokens a request.")] = None,
    target: Target = None,
    stream: Annotated[bool | None, typer.Option(help="Ask for a stream.")] = None,
    payloads: Payloads = None,
    slo: SloPairs = None,
    seed: Seed = None,
    processes: Processes = 1,
    host: Host = None,
    port: Port = None,
    token_file: TokenFile = None,
    region: Region = None,
    price_per_hour: Price = None,
    price_basis: Basis = "--price-per-hour",
    to: Out = None,
    json_file: JsonFile = None,
) -> None:
    """Put a model under load and judge it by its SLO. Exit code 1 if that is broken, 3 if the run is not valid."""
    given = {
        "rate": rate, "arrivals": arrivals, "end_rate": end_rate, "burstiness": burstiness, "trace": trace,
        "clients": clients, "think_time_s": think_time, "warmup_s": warmup, "duration_s": duration,
        "timeout_s": timeout, "max_tokens": max_tokens, "target": target, "stream": stream, "payloads": payloads,
        "slo": options.slo_of(slo or []), "seed": seed,
    }  # fmt: skip
    config = _configured(name, given)
    folder = to or conclude.new_folder(conclude.RESULTS, name)
    price = (price_per_hour, price_basis) if price_per_hour else None
    with _endpoint(config, host, port, token_file, region) as served:
        run = lab.measure(served, _load(config), folder, processes=processes, price=price)
    report.append_step_summary(report.summary_md(run))
    out.print(report.headline(run))
    out.print(f"report: {folder / report.REPORT_FILE}")
    print_report(report.table_rows(run), run.document(), json_file)
    _judge(run)


@app.command()
def sweep(
    name: ModelName,
    start: Annotated[float | None, typer.Option("--from", help="Requests/s at first, else the YAML's rate.")] = None,
    tolerance: Annotated[float, typer.Option(help="How near to the limit: a share of the rate.")] = 0.05,
    target: Target = None,
    payloads: Payloads = None,
    slo: SloPairs = None,
    seed: Seed = None,
    processes: Processes = 1,
    host: Host = None,
    port: Port = None,
    token_file: TokenFile = None,
    region: Region = None,
    price_per_hour: Price = None,
    price_basis: Basis = "--price-per-hour",
    to: Out = None,
    json_file: JsonFile = None,
) -> None:
    """Find the highest rate at which a model holds its SLO: doubling, then bisection, the answer confirmed twice."""
    given = {"target": target, "payloads": payloads, "slo": options.slo_of(slo or []), "seed": seed}
    config = _configured(name, given)
    load = _load(config)
    folder = to or conclude.new_folder(conclude.RESULTS, f"{name}-sweep")
    price = (price_per_hour, price_basis) if price_per_hour else None
    with _endpoint(config, host, port, token_file, region) as served:
        found = sweeping.run_sweep(
            served, load, folder, start or load.rate or FIRST_RATE,
            tolerance=tolerance, processes=processes, price=price, say=err.print,
        )  # fmt: skip
    lines = sweeping.in_words(found)
    for line in lines:
        out.print(line)
    print_report(sweeping.rows(found), sweeping.document(found), json_file)
    if found.exit_code == 1:
        raise Failed(lines[0])
    if found.exit_code == 3:
        raise Invalid(lines[0])


@app.command()
def tune(
    name: ModelName,
    slo: SloPairs = None,
    minutes: Annotated[float, typer.Option(help="For all of it, about.")] = 20.0,
    objective: Annotated[
        Objective, typer.Option(help="rate: highest within the SLO; latency: lowest p95 at --rate.")
    ] = "rate",
    rate: Annotated[float | None, typer.Option(help="latency: requests a second.")] = None,
    clients: Annotated[int | None, typer.Option(help="Of the first rounds' closed loops, else found out.")] = None,
    seed: Annotated[int, typer.Option(help="Of timetables and of the choice of candidates.")] = 0,
    processes: Processes = 1,
    port: Annotated[int, typer.Option(help="Where candidates are served.")] = serving.PORT + 10,
    from_defaults: Annotated[
        bool, typer.Option(help="Begin with the defaults of all that is tuned, not with the YAML's values.")
    ] = False,
    write: Annotated[bool, typer.Option(help="Write the winner into model_configs/ when it is better.")] = False,
    to: Out = None,
    json_file: JsonFile = None,
) -> None:
    """Search workers, threads, batching and engine options on this machine, and show why."""
    config = untuned(load_model(name)) if from_defaults else load_model(name)
    chosen = options.slo_of(slo or [])
    found = tuning.tune(
        config,
        Slo.model_validate(chosen) if chosen else None,
        tuning.TuneOptions(
            minutes=minutes, clients=clients, objective=objective, rate=rate, seed=seed,
            folder=to, port=port, processes=processes, write=write,
        ),
    )  # fmt: skip
    for line in tuned.explain(found):
        out.print(line)
    print_report(tuned.rows(found), tuned.document(found), json_file)


@app.command()
def compare(
    base: Annotated[str, typer.Argument(metavar="A", help="A run's folder, or several with commas between.")],
    new: Annotated[str, typer.Argument(metavar="B", help="The other run's folder, or several.")],
    tolerance: Annotated[float, typer.Option(help="A change up to this share is none.")] = 0.05,
    min_ms: Annotated[float, typer.Option(help="A change of a latency up to this is none.")] = 2.0,
    force: Annotated[bool, typer.Option(help="Compare runs that are not alike.")] = False,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Say whether B is better or worse than A. Exit code 1 if it is worse in anything, 3 if one is not valid."""
    found = comparing.compare(
        comparing.folders(base), comparing.folders(new), tolerance, min_ms, force=force, seed=seed
    )
    for line in found.notes:
        out.print(line)
    print_report(comparing.rows(found), comparing.document(found), json_file)
    if found.regressions:
        raise Failed(f"worse: {', '.join(metric.name for metric in found.regressions)}")


@app.command(name="report")
def report_command(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of runs.")],
    json_file: JsonFile = None,
) -> None:
    """Write the reports of runs anew; of a folder with records alone, as from many hosts, sum them up first."""
    found = [_concluded(folder) for folder in folders]
    for run, folder in zip(found, folders, strict=True):
        out.print(report.headline(run))
        out.print(f"report: {folder / report.REPORT_FILE}")
    rows = [{"run": run.id, **row} for run in found for row in report.table_rows(run)]
    print_report(rows, {"runs": [run.document() for run in found]}, json_file)


def _concluded(folder: Path) -> Run:
    if (folder / runs.RUN_FILE).exists():
        run = runs.read(folder)
        report.write(run, records.read(folder), folder)
        return run
    if not (folder / PLAN_FILE).exists():
        raise KitError(f"{folder} holds no run", f"a folder with {PLAN_FILE} and requests.*.jsonl")
    plan = Plan.model_validate_json((folder / PLAN_FILE).read_text())
    return conclude.conclude(plan, folder)


def _configured(name: str, given: dict[str, Any]) -> AnyModelConfig:
    """The model's YAML with a load test as the command line has it."""
    config = load_model(name)
    return config.model_copy(update={"loadtest": options.overridden(config.loadtest, given)})


def _load(config: AnyModelConfig) -> LoadTest:
    if config.loadtest is None:
        raise KitError(f"{config.model.name} has no loadtest section", "see model_configs/minilm.yaml for one")
    return config.loadtest


@contextmanager
def _endpoint(
    config: AnyModelConfig, host: str | None, port: int | None, token_file: Path | None, region: str | None
) -> Iterator[Served]:
    target = serving.target_of(config, host or "", token_file)
    if host or target.kind.startswith("sagemaker"):
        yield Served(config, target.model_copy(update={"region": region}))
        return
    with serving.running_or_started(config, port, lambda line: None) as served:
        yield served


def _judge(run: Run) -> None:
    """Raises Failed, Invalid."""
    if run.verdict.state == "invalid":
        raise Invalid("; ".join(run.verdict.invalid))
    if run.verdict.state == "fail":
        broken = [check for check in run.verdict.checks if not check.holds]
        raise Failed("the SLO is broken: " + ", ".join(wording.check_in_words(check) for check in broken))
