"""The road of NAVER's article, from TorchServe's defaults to a distilled student, through HTTP under Locust:
python -m loadtest.bench_classifier.

Stages: default settings (4 workers × all threads) → threads aligned with the cores → pinned → the ladder → distilled.
All answer the same digit images; the teacher's stages the ConvNeXt, the last its student. Clients share the CPUs.
Also the accuracy of every step on the test images. Needs what `make digits` makes.
Writes docs/benchmarks/classifier.{json,md,png} and the README's table; the last line is the JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from archives import STORE, assets, build
from archives.distillation.digits import write_images
from deploy import local, readiness
from deploy.render import Ports, ServerOptions
from loadtest import lab
from loadtest.figures import BENCHMARKS, markdown_table, write_readme
from loadtest.passport import in_words, passport
from loadtest.run import Run
from loadtest.serving import Served, target_of
from model_configs.archive_files import read_golden
from model_configs.errors import Failed
from model_configs.loadtest import LoadTest
from model_configs.schema import AnyModelConfig, load_model
from servekit.classifiers import LADDER
from servekit.classifiers.readers import load_reader
from servekit.cpus import usable_cpus
from servekit.machine_cache import VARIABLE

BENCH_STORE = STORE / "bench"
TEACHER, STUDENT = "digits-teacher", "digits"
DEFAULT_WORKERS = 4
PORT = 18280
USERS = 8
WARMUP_S = 5.0
SECONDS = 30.0
LOCUST_TABLE = re.compile(r"^Type +Name +# reqs.*?^ +Aggregated.*?$", re.MULTILINE | re.DOTALL)
out = Console(highlight=False)


@dataclass(frozen=True)
class Stage:
    """One step of the road. torchserve, handler: what the model's YAML says otherwise; stock: TorchServe's defaults."""

    title: str
    model: str
    torchserve: dict[str, Any] = field(default_factory=dict)
    handler: dict[str, Any] = field(default_factory=dict)
    stock: bool = True

    def config(self) -> AnyModelConfig:
        """The model's YAML with this stage's changes."""
        base = load_model(self.model)
        serving = type(base.torchserve).model_validate({**base.torchserve.model_dump(), **self.torchserve})
        settings = type(base.handler).model_validate({**base.handler.model_dump(exclude_unset=True), **self.handler})
        return base.model_copy(update={"torchserve": serving, "handler": settings})


def stages(cpus: int) -> list[Stage]:
    """The road on a machine of this many CPUs."""
    workers = {"minWorkers": cpus, "maxWorkers": cpus}
    one_by_one = {"batchSize": 1, "maxBatchDelay": 100}  # what TorchServe does when it is told nothing
    aligned = {**one_by_one, **workers}
    default = {**one_by_one, "minWorkers": DEFAULT_WORKERS, "maxWorkers": DEFAULT_WORKERS}
    eager = {"step": "eager", "threads": 1}
    return [
        Stage(f"default: {DEFAULT_WORKERS} workers × {cpus} threads", TEACHER, default,
              {"step": "eager", "pinning": "off", "threads": cpus}),
        Stage(f"aligned: {cpus} workers × 1 thread", TEACHER, aligned, {**eager, "pinning": "off"}),
        Stage("pinned to its cores", TEACHER, aligned, eager),
        Stage("the kit's server, step: auto", TEACHER, workers, {"threads": 1}, stock=False),
        Stage("distilled, step: auto", STUDENT, stock=False),
    ]  # fmt: skip


def measure(stage: Stage, seconds: float) -> dict[str, Any]:
    """Build, serve and load one stage. Raises Failed when a request failed."""
    config = stage.config()
    store = BENCH_STORE if stage.torchserve or stage.handler else STORE
    archive = build.build(config, store)
    served = local.served_model(config, archive.path.name, read_golden(archive.path))
    server = local.start(ServerOptions(store, Ports(PORT), stock=stage.stock), [served])
    try:
        readiness.wait_ready(server)
        target = target_of(config, f"http://127.0.0.1:{server.port}", server.folder / local.KEY_FILE)
        load = LoadTest(payloads="digits", arrivals="closed", clients=USERS, warmup_s=WARMUP_S, duration_s=seconds)
        with tempfile.TemporaryDirectory() as folder:
            return figures_of(lab.measure(Served(config, target), load, Path(folder)), Path(folder))
    finally:
        local.stop(server)


def figures_of(run: Run, folder: Path) -> dict[str, Any]:
    """A stage's figures, and the table that Locust printed. Raises Failed when a request failed."""
    if run.summary.failed:
        raise Failed(f"{run.summary.failed} requests failed: {run.summary.samples}")
    table = LOCUST_TABLE.search((folder / lab.LOCUST_LOG).read_text())
    shares = {name: each.value for name, each in run.summary.latencies["e2e_ms"].percentiles.items()}
    return {
        "text": table.group() if table else "",
        "requests": run.summary.requests,
        "requests_per_s": round(run.summary.answered_per_s, 2),
        **{f"{name}_ms": None if value is None else round(value, 1) for name, value in shares.items()},
    }


def accuracy(name: str, data: Path) -> dict[str, float]:
    """Share of the test images, by step, whose best label is right; steps that are not possible are left out."""
    config = load_model(name)
    settings = type(config.handler).model_validate({"candidates": tuple(LADDER), "min_agreement": 0.0})
    config = config.model_copy(update={"handler": settings})
    weights = assets.find_weights(config)
    artefacts = assets.prepare(config, weights, STORE / ".prepared")
    reader = load_reader(name, weights, settings)
    files = sorted((data / "test").rglob("*.png"))
    inputs = [reader.stack([example]) for example in reader.read([file.read_bytes() for file in files])]
    shares = {}
    for step, rung in LADDER.items():
        if not rung.impossible(reader.spec, artefacts):
            runner = rung.Runner(reader.spec, artefacts)
            found = [reader.spec.labels[int(runner(each).argmax())] for each in inputs]
            right = [label == file.parent.name for label, file in zip(found, files, strict=True)]
            shares[step] = round(sum(right) / len(right), 4)
    return shares


def markdown(document: dict[str, Any]) -> str:
    """docs/benchmarks/classifier.md."""
    first = document["stages"][0]
    rows = [
        [
            each["title"], each["requests_per_s"], f"{each['requests_per_s'] / first['requests_per_s']:.1f}×",
            each["p50_ms"], each["p95_ms"], each["p99_ms"],
        ]
        for each in document["stages"]
    ]  # fmt: skip
    tables = "\n\n".join(f"{each['title']}\n\n```\n{each['text']}\n```" for each in document["stages"])
    steps = list(dict.fromkeys(step for shares in document["accuracy"].values() for step in shares))
    shares = [
        [name, *(f"{own[step]:.2%}" if step in own else "–" for step in steps)]
        for name, own in document["accuracy"].items()
    ]
    return f"""# From TorchServe's defaults to a distilled student

Written by `make bench-classifier`. {in_words(document["passport"])}.

{document["users"]} Locust users in a closed loop on the same CPUs, digit images of 8 × 8 pixels as PNG files,
{document["seconds"]:.0f} s a stage after {WARMUP_S:.0f} s of warm-up.
The teacher is a ConvNeXt on 64 × 64 pixels, the student an EfficientNet on 32 × 32.

{markdown_table(["stage", "requests/s", "against default", "p50 ms", "p95 ms", "p99 ms"], rows)}

![the road](classifier.png)

Accuracy on the {document["test_images"]} test images, by step:

{markdown_table(["model", *steps], shares)}

In Locust's words:

{tables}
"""


def write_plot(document: dict[str, Any]) -> None:
    """docs/benchmarks/classifier.png: throughput and p99 of each stage."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = document["stages"][::-1]
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 3.6), layout="constrained", sharey=True)
    for axes, key, label in ((panels[0], "requests_per_s", "requests/s"), (panels[1], "p99_ms", "p99, ms")):
        bars = axes.barh([row["title"] for row in rows], [row[key] for row in rows], color="#4c78a8")
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.margins(x=0.2)
    figure.suptitle(f"{document['users']} clients, {document['passport']['cpu']}", fontsize=10)
    figure.savefig(BENCHMARKS / "classifier.png", dpi=110)


def readme(document: dict[str, Any]) -> str:
    """The README's table."""
    rows = [[each["title"], f"{each['requests_per_s']:.0f}", f"{each['p99_ms']:.0f}"] for each in document["stages"]]
    return markdown_table(["digits, 8 clients", "requests/s", "p99 ms"], rows)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each stage")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON document to FILE too")
    arguments = parser.parse_args()
    # Measured by these very servers, not remembered from some other day.
    shutil.rmtree(BENCH_STORE / "cache", ignore_errors=True)
    os.environ[VARIABLE] = str(BENCH_STORE / "cache")
    results = []
    for stage in stages(usable_cpus()):
        results.append({"title": stage.title, **measure(stage, arguments.seconds)})
        out.print(f"\n{stage.title}\n{results[-1]['text']}")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder))
        shares = {name: accuracy(name, Path(folder)) for name in (TEACHER, STUDENT)}
        test_images = len(list(Path(folder).glob("test/*/*.png")))
    document = {
        "passport": passport(),
        "users": USERS,
        "seconds": arguments.seconds,
        "stages": results,
        "accuracy": shares,
        "test_images": test_images,
    }
    for path in filter(None, (BENCHMARKS / "classifier.json", arguments.json)):
        path.write_text(json.dumps(document, indent=2) + "\n")
    (BENCHMARKS / "classifier.md").write_text(markdown(document))
    write_plot(document)
    write_readme("bench-classifier", readme(document))
    print(json.dumps(document))


if __name__ == "__main__":
    main()
