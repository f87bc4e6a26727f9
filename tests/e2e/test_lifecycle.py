"""Starting, failing and stopping, as a user does it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from archives.build import Archive
from model_configs import ROOT
from tests.e2e.conftest import kit, read_until_ready

PORT = 19080


@pytest.fixture
def copy(tmp_path: Path, minilm_archive: Archive) -> Path:
    """The project's own files in another folder, with what was prepared already."""
    assert minilm_archive.path.exists()
    for name in ("kit.py", "printing.py", "archives", "deploy", "handlers", "loadtest", "model_configs"):
        source, target = ROOT / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("store", "__pycache__"))
        else:
            shutil.copy(source, target)
    shutil.copytree(
        ROOT / "archives" / "store" / ".prepared", tmp_path / "archives" / "store" / ".prepared", copy_function=os.link
    )
    return tmp_path


def processes_of(folder: Path) -> list[psutil.Process]:
    """Whatever runs with folder in its command line or as its working folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (
                str(folder) in " ".join(process.cmdline()) or process.cwd() == str(folder)
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("quiet_worker()\n", 'quiet_worker()\n        raise KeyError("the weights are gone")\n'),
            "KeyError: 'the weights are gone'",
        ),
        (("import torch\n", "import no_such_module_at_all\n"), "no_such_module_at_all"),
        (("vectors, slots =", "import os; os._exit(1)\n        vectors, slots ="), "the golden request got 500"),
        (("return vectors\n", "return 1 - vectors\n"), "answer 0: cosine"),
    ],
    ids=["load", "import", "crash on request", "wrong numbers"],
)
def test_a_model_that_fails_ends_serve_with_its_own_error(copy: Path, change: tuple[str, str], words: str) -> None:
    handler = copy / "handlers" / "embedding_handler.py"
    text = handler.read_text()
    assert change[0] in text
    handler.write_text(text.replace(*change, 1))
    result = kit("serve", "minilm", "--port", str(PORT), root=copy, timeout_s=90)
    assert result.returncode == 1, result.stdout + result.stderr
    assert words in result.stderr
    assert 'Traceback (most recent call last):\n  File "/' not in result.stdout
    assert processes_of(copy) == []
    assert not list((copy / ".run").glob("*/server.json"))


def test_serve_in_the_foreground_until_ctrl_c(copy: Path) -> None:
    command = [sys.executable, "kit.py", "serve", "minilm", "--port", str(PORT), "--no-auth"]
    serve = subprocess.Popen(command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = read_until_ready(serve)
    assert not any("Authorization" in line for line in lines)
    curls = [line.strip() for line in lines if line.startswith("curl ")]
    assert subprocess.run(f"{curls[0]} -sf", shell=True, capture_output=True, check=True).stdout.startswith(b"[")
    time.sleep(1)  # the log is read every 0.2 s
    again = kit("serve", "minilm", "--port", str(PORT), root=copy)
    assert again.returncode == 2
    assert f"a server for minilm already runs on port {PORT}" in again.stderr
    serve.send_signal(signal.SIGINT)
    rest, _ = serve.communicate(timeout=60)
    assert " 200 POST /predictions/minilm " in rest
    assert "stopping" in rest
    assert "Traceback" not in rest
    assert serve.returncode == 0
    assert processes_of(copy) == []
    assert not (copy / ".run" / str(PORT) / "server.json").exists()
    assert not (copy / ".run" / str(PORT) / "key_file.json").exists()


def test_a_server_whose_java_was_killed_is_no_ready_server(copy: Path) -> None:
    started = kit("serve", "minilm", "--port", str(PORT), "--detach", root=copy)
    assert started.returncode == 0, started.stdout + started.stderr
    (java,) = [p for p in processes_of(copy) if "org.pytorch.serve.ModelServer" in p.cmdline()]
    java.kill()
    java.wait(10)
    result = kit("status", root=copy)
    assert result.returncode == 1
    assert "the server does not run" in result.stdout
    assert kit("stop", root=copy).returncode == 0
    psutil.wait_procs(processes_of(copy), timeout=20)
    assert processes_of(copy) == []
