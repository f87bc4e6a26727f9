"""The command line's verbs of retrieval: index, ask. They parse, call one function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from archives import STORE, indexing
from deploy import local
from deploy.ask import ask as ask_question
from deploy.endpoint import Endpoint, SageMakerEndpoint, TorchServeEndpoint
from model_configs import schema
from model_configs.errors import KitError
from printing import err, out, report
from servekit.settings import RetrievalSettings

app = typer.Typer()

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A retrieval model of model_configs/, by name.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON document to FILE too.")]
SAGEMAKER = "sagemaker:"


@app.command()
def index(
    name: ModelName,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE]...", help="Folders, files, URLs, pydoc:topics; else those of the YAML."),
    ] = None,
    depth: Annotated[int, typer.Option(help="Of a URL: how many links away.", min=0)] = 2,
    json_file: JsonFile = None,
) -> None:
    """Make a retrieval model's index; what was embedded before and has not changed is not embedded again."""
    from archives.indexing import build, embedding  # they take seconds to import
    from servekit.retrieval.index import encoder_fingerprint

    config, _ = _retrieval(name)
    given = sources or list(config.index.sources if config.index else [])
    if not given:
        raise KitError(f"{name}: an index of what?", f"kit.py index {name} FOLDER")
    with err.status(f"loading the encoder of {name} (the first time compiles it: about 40 s)"):
        embedder = embedding.embedder_for(config, STORE)
    columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("passages", total=None)
        built = build.build_index(
            config,
            given,
            depth=depth,
            embed=embedding.embed(embedder),
            spec_fingerprint=encoder_fingerprint(embedder.spec),
            dimension=embedder.dimension,
            folder=indexing.index_folder(config),
            say=err.print,
            progress=lambda done, of: progress.update(bar, completed=done, total=of),
        )
    report([built.row()], built.document(), json_file)


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
    _, settings = _retrieval(name)
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


def _retrieval(name: str) -> tuple[Any, RetrievalSettings]:
    config = schema.load_model(name)
    if not isinstance(config.handler, RetrievalSettings):
        raise KitError(f"{name} is no retrieval model", "one whose model.handler is retrieval_handler.py")
    return config, config.handler
