"""Prove an archive: every file as it was built, loaded as a worker loads it, and a golden request answered right.

Knows nothing of running servers.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from archives.build import read_sums, unpack
from archives.worker import Request, Worker, WorkerDied
from model_configs.archive_files import MANIFEST_FILE, read_entry, read_golden
from model_configs.errors import Failed
from servekit.fingerprint import file_sha256


@dataclass(frozen=True)
class Verified:
    """A model that loaded and answered right. load_s: initialize and warm-up; answer_ms: the golden request."""

    name: str
    version: str
    files: int
    load_s: float
    answer_ms: float
    worker_log: list[str]


def verify(archive: Path) -> Verified:
    """Check sums, load, ask. Raises Failed with the first thing that is wrong."""
    with tempfile.TemporaryDirectory(prefix="sk-verify-") as folder:
        root = unpack(archive, Path(folder))
        golden = read_golden(root)
        model = json.loads(read_entry(root, MANIFEST_FILE))["model"]
        sums = read_sums(root)
        check_sums(root, sums)
        try:
            with Worker(root) as worker:
                load_s = worker.load(model["modelName"])
                started = time.perf_counter()
                body = json.dumps(golden.body).encode()
                (reply,) = worker.predict([Request(body, {"content-type": "application/json"})])
                answer_ms = 1e3 * (time.perf_counter() - started)
        except WorkerDied as error:
            raise Failed(f"{archive.name} does not load:\n{error}") from None
    wrong = golden.verdict(reply.body) if reply.status == 200 else f"status {reply.status}: {reply.body[:200]!r}"
    if wrong:
        raise Failed(f"{archive.name} answers its golden request wrong: {wrong}")
    log = [line for line in worker.output if line.startswith(f"{model['modelName']}: ")]
    return Verified(model["modelName"], model["modelVersion"], len(sums), load_s, answer_ms, log)


def check_sums(root: Path, sums: dict[str, str]) -> None:
    """Raises Failed for a file that is missing, changed, or there without having been built."""
    for name, wanted in sums.items():
        path = root / name
        if not path.exists():
            raise Failed(f"{name} is missing from the archive")
        if file_sha256(path) != wanted:
            raise Failed(f"{name} is not what was built: its sha256 differs")
    known = {*sums, "MAR-INF/servekit.json"}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_file() and name not in known and "__pycache__" not in path.parts:
            raise Failed(f"{name} is in the archive, but was not built into it")
