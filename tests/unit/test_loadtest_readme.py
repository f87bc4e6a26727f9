"""loadtest/README.md names every column, kind and payload that there is, and the image for many hosts holds its files."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from loadtest import run, stats, verdict, workload
from loadtest.percentiles import Percentile, needed_for
from loadtest.records import ERRORS, NAMES
from model_configs import ROOT
from model_configs.loadtest import Arrivals

README = (ROOT / "loadtest" / "README.md").read_text()
DOCKER = ROOT / "docker" / "loadtest"


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> dict[str, str]:
    """A section's table: first cell to second."""
    lines = [line.strip("|").split("|") for line in section(title).splitlines() if line.startswith("|")]
    return {line[0].strip(" `"): line[1].strip() for line in lines[2:]}


def named(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def pins(file: Path) -> dict[str, str]:
    """The versions that Python 3.11 gets."""
    lines = [line for line in file.read_text().splitlines() if "==" in line and '< "3.11"' not in line]
    return dict(line.partition(";")[0].strip().split("==") for line in lines)


def test_every_column_of_a_record_is_told_in_order() -> None:
    assert tuple(rows("requests.jsonl")) == NAMES


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("the document", run.Run),
        ("summary", stats.Summary),
        ("summary.latencies.METRIC", stats.Distribution),
        ("summary.latencies.METRIC.percentiles.P", Percentile),
        ("generator", stats.Generator),
        ("verdict", verdict.Verdict),
        ("verdict.checks[]", verdict.Check),
        ("server", run.ServerSide),
        ("cold", run.Cold),
        ("cost", run.Cost),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_key_of_a_run_is_told_in_order(key: str, kind: Any) -> None:
    assert named(rows("run.json")[key]) == [each.name for each in fields(kind)]


def test_what_is_told_is_what_there_is() -> None:
    assert set(rows("Arrivals")) == set(get_args(Arrivals))
    assert set(rows("Payloads")) == {path.name for path in workload.PAYLOADS.iterdir() if path.is_dir()}
    assert set(named(section("The verdict").split("Kinds of failure:")[1])) == set(ERRORS)
    assert {*stats.LATENCIES, "itl_ms"} <= set(named(section("Metrics")))
    assert run.SCHEMA in section("run.json")


def test_the_rules_of_validity_have_the_codes_figures() -> None:
    text = " ".join(section("The verdict").split())
    assert f"lag p99 over {verdict.MAX_LAG_MS:g} ms, or over {100 * verdict.MAX_LAG_OF_LIMIT:g} % of" in text
    assert f"less than {100 * verdict.MIN_ACHIEVED:g} % of the requests" in text
    assert f"more than {100 * verdict.MAX_CPU_SHARE:g} % of its core" in text
    assert {state: rows("The verdict")[state] for state in verdict.EXIT_CODES} == {
        state: str(code) for state, code in verdict.EXIT_CODES.items()
    }
    metrics = section("Metrics")
    for name, share in stats.SHARES.items():
        assert re.search(rf"\b{name} (needs )?{needed_for(share)}\b", metrics), name


def test_the_image_pins_what_the_kit_is_tested_with() -> None:
    image = pins(DOCKER / "requirements.txt")
    known = pins(ROOT / "requirements.txt")
    assert image == {name: known.get(name) for name in image}


def test_the_image_holds_every_file_that_the_generator_loads_and_nothing_large_is_needed() -> None:
    program = (
        "import locust, loadtest.locustfile, sys; "
        "print(*(m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)), sep='\\n')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    files = [Path(line) for line in ran.stdout.splitlines()]
    own = {file.relative_to(ROOT) for file in files if file.is_relative_to(ROOT) and "site-packages" not in file.parts}
    packages = {file.parts[file.parts.index("site-packages") + 1] for file in files if "site-packages" in file.parts}
    copied = [
        Path(word)
        for line in (DOCKER / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ")
        for word in line.split()[1:-1]
    ]
    assert all((ROOT / path).exists() for path in copied)
    assert Path("loadtest/locustfile.py") in own
    assert not [path for path in own if not any(path.is_relative_to(each) for each in copied)]
    assert not packages & {"torch", "numpy", "transformers", "ts", "model_archiver"}


def test_the_composition_is_a_master_and_workers_of_one_image() -> None:
    found = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    master, worker = found["services"]["master"], found["services"]["worker"]
    for service in (master, worker):
        assert (DOCKER / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).exists()
        assert service["image"] == master["image"]
        assert service["volumes"] == ["../../loadtest/results:/servekit/loadtest/results"]
    assert master["command"].startswith("--master --headless --expect-workers ${WORKERS:-2} ")
    assert worker["command"] == "--worker --master-host master"
    assert worker["deploy"]["replicas"] == "${WORKERS:-2}"
