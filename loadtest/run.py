"""A run's document, run.json: what was done, on what, and what came of it; its schema has a version.

Knows nothing of how it is made or shown. Reading checks every field; a document of another version is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from loadtest.plan import Plan
from loadtest.stats import Generator, Summary
from loadtest.verdict import Verdict
from model_configs.errors import KitError

SCHEMA = "servekit.loadtest/1"
RUN_FILE = "run.json"


@dataclass(frozen=True)
class ServerSide:
    """Where the server says the time went, over the measured phase, in milliseconds a request."""

    client_queue_ms: float
    """Lag: from the intended time to sending."""
    network_ms: float
    """What is left of the latency: the network and TorchServe's frontend."""
    queue_ms: float
    """In TorchServe's queue, maxBatchDelay included."""
    handler_ms: float
    """In the worker: the whole batch's time, which each of its requests waits for."""
    requests: int
    """Of the model, by TorchServe's own count."""
    batches: int | None
    """Calls of the handler; None under continuous batching."""
    batch_mean: float | None
    """Requests in a call."""
    batch_size: int | None
    """torchserve.batchSize, when it is known."""
    refused: int
    """503s of a full queue and other 5xx."""


@dataclass(frozen=True)
class Cold:
    """From nothing to answers, as the cold phase found it."""

    start_s: float | None
    """From starting the server to the first right answer; None when the server was there already."""
    first_request_ms: float
    """The first request of the run, alone."""


@dataclass(frozen=True)
class Cost:
    """US dollars at the measured goodput."""

    price_per_hour: float
    basis: str
    """What the price is of, in the user's words or the YAML's."""
    per_1k_requests: float | None
    per_1m_tokens: float | None
    per_1k_tokens: float | None
    at: str
    """The operating point, in words."""


@dataclass(frozen=True)
class Run:
    """Everything of a run but its records."""

    id: str
    """UTC time and commit, the folder's name."""
    model: str
    plan: dict[str, Any]
    machine: dict[str, Any]
    """passport.passport()."""
    same_machine: bool
    """Whether the generator shared the server's machine."""
    workload_sha256: str
    """Of the payloads and of what the plan asks of them; runs of different ones do not compare."""
    config_sha256: str | None
    """Of the model's YAML; None when the server is not the kit's."""
    archive_sha256: str | None
    locust: str
    summary: Summary
    generator: Generator
    verdict: Verdict
    server: ServerSide | None = None
    cold: Cold | None = None
    cost: Cost | None = None
    schema: str = SCHEMA

    @property
    def the_plan(self) -> Plan:
        """The plan, read."""
        return Plan.model_validate(self.plan)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def write(self, folder: Path) -> None:
        """Write run.json."""
        (folder / RUN_FILE).write_text(json.dumps(self.document(), indent=2) + "\n")


def read(path: Path) -> Run:
    """A run by its folder or its run.json. Raises KitError when there is none, or one of another schema."""
    file = path / RUN_FILE if path.is_dir() else path
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise KitError(f"{path} is no run: {error}", "a folder that kit.py loadtest wrote") from None
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        raise KitError(f"{file}: schema {found!r} is not {SCHEMA!r}", "run kit.py loadtest again")
    try:
        return TypeAdapter(Run).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise KitError(f"{file}: {where}: {first['msg']}", "run kit.py loadtest again") from None


def sha256(*parts: bytes) -> str:
    """Of parts, each told apart from the next."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
