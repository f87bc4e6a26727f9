"""Archives in a clean subprocess: TorchServe's own worker, loaded and asked over its own socket."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from archives import build
from archives.build import Archive, unpack
from archives.verify import check_sums, verify
from archives.worker import Request, Worker, WorkerDied
from model_configs.archive_files import SUFFIXES, SUMS_FILE, read_entry, read_golden
from model_configs.errors import Failed, KitError
from model_configs.schema import AnyModelConfig
from servekit.golden import Golden
from tests.handlers.test_embedding_handler import BAD_REQUESTS

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def root(minilm_archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(minilm_archive.path, tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def worker(root: Path) -> Iterator[Worker]:
    with Worker(root) as started:
        started.load("minilm")
        yield started


@pytest.mark.parametrize("archive_format", list(SUFFIXES))
def test_every_format_verifies(minilm: AnyModelConfig, archive_format: str) -> None:
    archive = build.build(minilm, archive_format=archive_format)
    result = verify(archive.path)
    assert (result.name, result.version) == ("minilm", "1.0")
    assert result.files == len(build.read_sums(archive.path))
    assert any("kernels encoder" in line or "aot encoder" in line for line in result.worker_log)


def test_an_unchanged_model_is_not_packaged_again(minilm: AnyModelConfig, minilm_archive: Archive) -> None:
    before = minilm_archive.path.stat().st_mtime_ns
    again = build.build(minilm)
    assert not again.built
    assert again.sha256 == minilm_archive.sha256
    assert again.path.stat().st_mtime_ns == before
    forced = build.build(minilm, force=True)
    assert forced.built
    assert forced.sha256 == minilm_archive.sha256


def test_the_golden_answer_does_not_come_from_the_artefact(minilm_archive: Archive) -> None:
    golden = Golden.parse(read_entry(minilm_archive.path, "artefacts/golden.json"))
    assert golden.tolerance <= 0.0001
    assert len(golden.expected) == len(golden.body["inputs"]) >= 3  # type: ignore[arg-type]


def test_bad_requests_leave_neighbours_and_worker_alone(worker: Worker) -> None:
    good = [Request(b"hello", {}), Request(b'{"inputs": ["a", "longer text than that"]}', JSON)]
    expected = worker.predict(good)
    assert [reply.status for reply in expected] == [200, 200]
    bad = [Request(body or b"", headers, form=body is None) for _, _, (body, headers) in BAD_REQUESTS]
    # A text of 100 words fits the real model; this one does not.
    bad = [
        Request(json.dumps({"inputs": "fox " * 400, "truncate": False}).encode(), JSON)
        if code == "text_too_long"
        else request
        for request, (_, code, _) in zip(bad, BAD_REQUESTS, strict=True)
    ]
    replies = worker.predict([good[0], *bad, good[1]])
    assert [replies[0], replies[-1]] == expected
    for reply, (status, code, _) in zip(replies[1:-1], BAD_REQUESTS, strict=True):
        assert (reply.status, json.loads(reply.body)["error"]["code"]) == (status, code)
        assert reply.headers["content-type"] == "application/json"
    for request, (status, _, _) in zip(bad, BAD_REQUESTS, strict=True):
        replies = worker.predict([good[0], request, good[1]])
        assert replies[1].status == status
        assert [replies[0], replies[2]] == expected
    assert worker.alive


def test_a_worker_prints_no_line_a_batch_but_metrics(worker: Worker) -> None:
    before = len(worker.output)
    worker.predict([Request(b"hello", {})])
    worker.predict([Request(b"\xff", {})])
    lines = worker.output[before:]
    assert lines
    assert [line for line in lines if not line.startswith("[METRICS]")] == []


def test_a_changed_missing_or_added_file_is_found(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, copy_function=os.link, ignore=shutil.ignore_patterns("__pycache__"))
    sums = build.read_sums(copy)
    check_sums(copy, sums)
    handler = copy / "embedding_handler.py"
    text = handler.read_text()
    handler.unlink()
    with pytest.raises(Failed, match=r"embedding_handler\.py is missing"):
        check_sums(copy, sums)
    handler.write_text(text + "# changed\n")
    with pytest.raises(Failed, match=r"embedding_handler\.py is not what was built"):
        check_sums(copy, sums)
    handler.write_text(text)
    (copy / "backdoor.py").write_text("")
    with pytest.raises(Failed, match=r"backdoor\.py is in the archive, but was not built into it"):
        check_sums(copy, sums)


def edited(root: Path, folder: Path, handler: str) -> Path:
    """The archive as a folder, with another handler and sums to match."""
    shutil.copytree(root, folder, copy_function=os.link, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("embedding_handler.py", SUMS_FILE):
        (folder / name).unlink()
    (folder / "embedding_handler.py").write_text(handler)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    sums = {name: build._sha256(folder / name) for name in names}
    (folder / SUMS_FILE).write_text(json.dumps({"sha256": sums}))
    return folder


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        ("import no_such_module\n", "no_such_module"),
        (
            "class H:\n    def initialize(self, c): raise KeyError('weights')\n    def handle(self, d, c): return []\n",
            "KeyError: 'weights'",
        ),
        ("class A: pass\nclass B: pass\n", "Expected only one class"),
        ("import os\nos._exit(3)\n", "does not load"),
    ],
)
def test_a_handler_that_does_not_load_is_told_in_its_own_words(
    root: Path, tmp_path: Path, handler: str, words: str
) -> None:
    with pytest.raises(Failed, match=words):
        verify(edited(root, tmp_path / "minilm", handler))


def test_wrong_numbers_fail(root: Path, tmp_path: Path) -> None:
    right = (root / "embedding_handler.py").read_text()
    wrong = right.replace("return vectors\n", "return -vectors\n")
    assert wrong != right
    with pytest.raises(Failed, match=r"answer 0: cosine -1\.0"):
        verify(edited(root, tmp_path / "minilm", wrong))


def test_a_module_outside_the_archive_is_not_seen(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's PYTHONPATH must not hide that something is missing."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "my_helpers.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    with pytest.raises(Failed, match="my_helpers"):
        verify(edited(root, tmp_path / "minilm", "import my_helpers\n"))


def test_a_worker_that_hangs_is_given_up(root: Path, tmp_path: Path) -> None:
    handler = (
        "import time\nclass H:\n    def initialize(self, c): time.sleep(60)\n    def handle(self, d, c): return []\n"
    )
    folder = edited(root, tmp_path / "minilm", handler)
    with Worker(folder) as worker, pytest.raises(WorkerDied, match="no answer in time"):
        worker.load("minilm", timeout_s=1.0)


def test_an_archive_without_golden_request_is_no_archive_of_ours(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="has no golden request"):
        read_golden(tmp_path)
