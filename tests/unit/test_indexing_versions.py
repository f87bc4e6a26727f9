"""Versions in a folder: whole or not there, two kept, one builder at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from archives.indexing import versions
from archives.indexing.versions import building, current, publish
from model_configs import ROOT
from model_configs.errors import KitError

KEYS = [f"{number:016x}" for number in range(6)]


def made(folder: Path, key: str, content: str = "x") -> Path:
    with building(folder, "m") as draft:
        (draft / "file").write_text(content)
        return publish(draft, folder, key)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_there_is_no_current_version_before_the_first(tmp_path: Path) -> None:
    assert current(tmp_path / "none") is None
    version = made(tmp_path / "m", KEYS[0])
    assert current(tmp_path / "m") == version == tmp_path / "m" / KEYS[0]
    assert (tmp_path / "m" / "current").readlink() == Path(KEYS[0])  # still right when the store is moved


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    for number, key in enumerate(KEYS[:4]):
        version = made(tmp_path, key)
        os.utime(version, (number, number))
    assert names(tmp_path) == [KEYS[2], KEYS[3], "current"]
    made(tmp_path, KEYS[2])  # an old one again is new
    made(tmp_path, KEYS[5])
    assert names(tmp_path) == [KEYS[2], KEYS[5], "current"]


def test_the_current_one_is_kept_when_the_clock_went_back(tmp_path: Path) -> None:
    for key in KEYS[:2]:
        os.utime(made(tmp_path, key), (2**32, 2**32))
    version = made(tmp_path, KEYS[2])
    assert current(tmp_path) == version
    assert len(names(tmp_path)) == 3


def test_other_folders_are_nobody_s_business(tmp_path: Path) -> None:
    for name in (".vectors", "notes", "0" * 15):
        (tmp_path / name).mkdir()
    for key in KEYS:
        made(tmp_path, key)
    assert {".vectors", "notes", "0" * 15} < set(names(tmp_path))


def test_a_version_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    version = made(tmp_path, KEYS[0], "first")
    made(tmp_path, KEYS[0], "other")  # of the same size
    assert (version / "file").read_text() == "first"
    (version / "file").write_text("damaged")
    made(tmp_path, KEYS[0], "third")
    assert (version / "file").read_text() == "third"
    (version / "file").unlink()
    made(tmp_path, KEYS[0], "forth")
    assert (version / "file").read_text() == "forth"
    assert names(tmp_path) == [KEYS[0], "current"]


def test_a_build_that_fails_leaves_the_version_before(tmp_path: Path) -> None:
    version = made(tmp_path, KEYS[0])

    def fails() -> None:
        with building(tmp_path, "m") as draft:
            (draft / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert current(tmp_path) == version
    assert names(tmp_path) == [KEYS[0], "current"]


def test_what_dead_builds_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".building-1" / "deep").mkdir(parents=True)
    (tmp_path / ".building-1-damaged").mkdir()
    (tmp_path / ".current-1").symlink_to("nowhere")
    made(tmp_path, KEYS[0])
    assert names(tmp_path) == [KEYS[0], "current"]


def test_a_second_build_is_refused_and_the_first_is_not_disturbed(tmp_path: Path) -> None:
    with building(tmp_path, "m") as draft:
        with pytest.raises(KitError, match="m: its index is being built by another process"), building(tmp_path, "m"):
            pytest.fail("two builds at once")
        assert draft.is_dir()
        with building(tmp_path / "other", "o") as other:  # another model's is another matter
            assert other.is_dir()
    with building(tmp_path, "m"):
        pass


def test_another_process_is_refused_too_and_a_dead_one_is_forgotten(tmp_path: Path) -> None:
    script = (
        "import sys, os\nfrom pathlib import Path\nfrom archives.indexing.versions import building\n"
        "with building(Path(sys.argv[1]), 'm'):\n    print('in', flush=True)\n    sys.stdin.read()\n    os._exit(3)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"in\n"
        with pytest.raises(KitError), building(tmp_path, "m"):
            pytest.fail("two builds at once")
        process.stdin.close()
        assert process.wait(30) == 3
    assert list(tmp_path.glob(".building-*"))
    made(tmp_path, KEYS[0])
    assert names(tmp_path) == [KEYS[0], "current"]


def test_a_reader_sees_a_whole_version_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step a build dies at, current leads to a version with its file."""
    made(tmp_path, KEYS[0])
    steps = ("rename", "symlink_to", "replace")
    for number, step in enumerate(steps, 1):
        with monkeypatch.context() as patch:
            patch.setattr(Path, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                made(tmp_path, KEYS[number])
        found = current(tmp_path)
        assert found
        assert found.name == KEYS[0]
        assert (found / "file").read_text() == "x"
    made(tmp_path, KEYS[5])
    assert (current(tmp_path) or tmp_path).name == KEYS[5]
    assert len([name for name in names(tmp_path) if name in KEYS]) == versions.KEPT
