"""The command line's verb that makes indexes. It parses, calls one function, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from archives import STORE, indexing
from model_configs.errors import KitError
from model_configs.schema import retrieval_model
from printing import err, report

app = typer.Typer()

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A retrieval model of model_configs/, by name.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON document to FILE too.")]


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

    config, _ = retrieval_model(name)
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
            embed=embedding.embed(embedder, err.print),
            spec_fingerprint=encoder_fingerprint(embedder.spec),
            dimension=embedder.dimension,
            folder=indexing.index_folder(config),
            say=err.print,
            progress=lambda done, of: progress.update(bar, completed=done, total=of),
        )
    report([built.row()], built.document(), json_file)
