"""The command line's verbs that ask models, and the one that shows the emulator: they parse, call, print."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from deploy import emulator, where
from deploy import invoke as invocation
from deploy.ask import ask as ask_question
from model_configs.errors import Failed, KitError
from model_configs.schema import load_model, retrieval_model
from printing import out, report, write_json

app = typer.Typer()

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON document to FILE too.")]
Region = Annotated[str | None, typer.Option(help="SageMaker: the AWS region.")]


class On(str, Enum):
    """Where a model is asked."""

    local = "local"
    sagemaker = "sagemaker"
    emulator = "emulator"


OnOption = Annotated[On, typer.Option("--on", help="The server of this machine, SageMaker, or its emulator here.")]


@app.command()
def invoke(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A model of model_configs/, by name.")],
    prompt: Annotated[str | None, typer.Argument(help="A text; or --file.")] = None,
    on: OnOption = On.local,
    file: Annotated[Path | None, typer.Option(help="A body as it is: JSON, text, an image.")] = None,
    content_type: Annotated[str | None, typer.Option(help="Of the body; else by the file's name, or JSON.")] = None,
    stream: Annotated[
        bool | None, typer.Option("--stream/--no-stream", help="The answer as it comes, else as the model does.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of a generated answer.", min=1)] = None,
    endpoint: Annotated[str | None, typer.Option(help="SageMaker: its name, else the YAML's.")] = None,
    region: Region = None,
    port: Annotated[int | None, typer.Option(help="The server here, if several have the model.")] = None,
    timeout_s: Annotated[
        float | None, typer.Option(min=0.001, help="Longest wait for the next byte; else 60, on SageMaker 70.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Ask a model wherever it is, and print its answer, a stream's as it comes."""
    config = load_model(name)
    asked = invocation.question(config, prompt, file, content_type, stream, max_tokens)
    target = where.is_asked(config, on.value, endpoint, region, port, timeout_s)
    answer = invocation.ask(target, asked, lambda text: out.print(text, end=""))
    out.print()
    document = {"model": name, "on": on.value, **answer.document()}
    if asked.streams:
        report([answer.row()], document, json_file)
    elif json_file:  # a whole answer is the output, whatever reads it next
        write_json(document, json_file)


@app.command()
def ask(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A retrieval model of model_configs/, by name.")],
    question: Annotated[str, typer.Argument(help="In plain words.")],
    on: OnOption = On.local,
    k: Annotated[int | None, typer.Option("-k", help="Passages, else the YAML's.", min=1)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of the answer, else the YAML's.", min=1)] = None,
    retriever: Annotated[str | None, typer.Option(metavar="URL|sagemaker:NAME", help="Else where --on says.")] = None,
    generator: Annotated[
        str | None,
        typer.Option(metavar="MODEL|URL|sagemaker:NAME", help="Else the model of handler.answer, where --on says."),
    ] = None,
    token: Annotated[str | None, typer.Option(envvar="SERVEKIT_TOKEN", help="For URLs.")] = None,
    region: Region = None,
    json_file: JsonFile = None,
) -> None:
    """Retrieve, prompt a text generation model, and print its answer as it comes, with its sources."""
    _, settings = retrieval_model(name)
    answers = settings.answer
    model = answers.model if answers else None
    if generator is None and model is None:
        raise KitError(f"{name} names no model that writes answers", "--generator, or handler.answer in its YAML")
    wanted = max_tokens or (answers.max_tokens if answers else 128)
    found = ask_question(
        where.named(retriever, name, on.value, token, region),
        where.named(generator, model or "", on.value, token, region),
        question,
        wanted,
        lambda piece: out.print(piece, end=""),
        k,
    )
    out.print("\n")
    rows = [{"source": each["source"], "score": f"{each['score']:.3f}"} for each in found["sources"]]
    report(rows, found, json_file)


@app.command(name="emulator")
def emulator_command(
    fault: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="KEY=VALUE", help="fail_starts=1, refusals=3, slow_s=2, break_streams=1, …"),
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End it, with all that is deployed there.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Show what is deployed on the emulator of this machine, make something fail there, or end it."""
    running = emulator.running()
    if running is None:
        raise Failed("no emulator runs here")
    if fault:
        running.inject(**_faults(fault))
    state = running.state()
    rows = [
        {"endpoint": each["name"], "region": each["region"], "state": each["status"], "in flight": each["in_flight"]}
        for each in state["endpoints"]
    ]
    if stop:
        emulator.stop()
    report(rows, {"url": running.url, "stopped": stop, **state}, json_file)


def _faults(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE as YAML reads them."""
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise KitError(f"--fault {wrong[0]}: not KEY=VALUE", "kit.py emulator --help")
    return {key: yaml.safe_load(value) for key, value in (pair.split("=", 1) for pair in pairs)}
