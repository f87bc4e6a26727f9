"""Processes beside a server: started, found, ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from deploy import background
from model_configs.errors import Failed

MODULE = "sleeper"
SLEEPER = """
import sys, time
from pathlib import Path
from deploy import background
if (Path(sys.argv[1]) / "broken").exists():
    raise RuntimeError("the port is taken")
background.detach("sleeper", Path(sys.argv[1]))
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "logs").mkdir()
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    return tmp_path


def test_a_life(folder: Path) -> None:
    assert background.find(MODULE, folder) is None
    background.start(MODULE, folder)
    process = background.find(MODULE, folder)
    assert process
    assert process.parent() != psutil.Process()  # nobody waits for it
    background.stop(MODULE, folder)
    assert background.find(MODULE, folder) is None
    assert background.running_after([process], 5) == []
    assert sorted(path.name for path in folder.iterdir()) == ["logs", "sleeper.py"]
    background.stop(MODULE, folder)


def test_one_that_does_not_start_says_why(folder: Path) -> None:
    (folder / "broken").touch()
    with pytest.raises(Failed, match="RuntimeError: the port is taken"):
        background.start(MODULE, folder)
    assert background.find(MODULE, folder) is None


@pytest.mark.parametrize("text", ["", "x", "999999999", "-1", str(os.getpid())])
def test_a_pid_file_that_is_not_of_it(folder: Path, text: str) -> None:
    (folder / "sleeper.pid").write_text(text)
    assert background.find(MODULE, folder) is None


def test_what_does_not_end_is_told() -> None:
    with psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        assert background.running_after([process], 0.05) == [process]
        process.kill()
        assert background.running_after([process], 5) == []  # nobody has waited for it yet
