"""The command line's verb that asks models: it parses, calls one function, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy import local
from deploy.ask import ask as ask_question
from deploy.client import Endpoint, SageMakerEndpoint, TorchServeEndpoint
from model_configs.errors import KitError
from model_configs.schema import retrieval_model
from printing import out, report

app = typer.Typer()

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A retrieval model of model_configs/, by name.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON document to FILE too.")]
SAGEMAKER = "sagemaker:"


@app.command()
def ask(
    name: ModelName,
    question: Annotated[str, typer.Argument(help="In plain words.")],
    k: Annotated[int | None, typer.Option("-k", help="Passages, else the YAML's.", min=1)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of the answer, else the YAML's.", min=1)] = None,
    retriever: Annotated[
        str | None, typer.Option(metavar="URL|sagemaker:NAME", help="Else the server of this machine.")
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(metavar="MODEL|URL|sagemaker:NAME", help="Else the model of handler.answer, on this machine."),
    ] = None,
    token: Annotated[str | None, typer.Option(envvar="SERVEKIT_TOKEN", help="For URLs.")] = None,
    region: Annotated[str | None, typer.Option(help="SageMaker: the AWS region.")] = None,
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
        _endpoint(retriever, name, token, region),
        _endpoint(generator, model or "", token, region),
        question,
        wanted,
        lambda piece: out.print(piece, end=""),
        k,
    )
    out.print("\n")
    rows = [{"source": each["source"], "score": f"{each['score']:.3f}"} for each in found["sources"]]
    report(rows, found, json_file)


def _endpoint(where: str | None, model: str, token: str | None, region: str | None) -> Endpoint:
    """sagemaker:NAME, a URL, another model's name, or None for the model on this machine."""
    if where and where.startswith(SAGEMAKER):
        return SageMakerEndpoint(where.removeprefix(SAGEMAKER), region)
    if where and "://" in where:
        if not model:
            raise KitError(f"{where}: which model there?", "handler.answer.model in the YAML")
        return TorchServeEndpoint(where, model, token)
    model = where or model
    for server in local.servers():
        if server.alive and model in [served.name for served in server.models]:
            return TorchServeEndpoint(f"http://127.0.0.1:{server.port}", model, server.token("inference"))
    raise KitError(f"no server here has {model}", f"kit.py serve {model}")
