"""An image built and run by buildah alone: no engine, no registry, nothing left behind.

The base is a Debian of mmdebstrap's with Python, in place of python:…-slim-bookworm; man pages are left out, as there.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_configs import ROOT

SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
NO_MANUALS = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "doc")]
BASE = "localhost/base"


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = [
            "buildah", "--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "vfs",
        ]  # fmt: skip

    def __call__(self, *arguments: object, timeout_s: float = 1800) -> str:
        """What it prints. Fails with all that it said."""
        done = subprocess.run(
            [*self.command, *map(str, arguments)],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done.stdout.strip()

    def make_base(self) -> str:
        """Debian bookworm with Python, from this machine's own mirrors."""
        tar = self.folder / "base.tar"
        mirrors = [str(SOURCES)] if SOURCES.exists() else []
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", *NO_MANUALS,
             "bookworm", tar, *mirrors],
            check=True, capture_output=True, timeout=1800,
        )  # fmt: skip
        container = self("from", "scratch")
        self("add", "--quiet", container, tar, "/")
        self("commit", "--quiet", container, BASE)
        self("rm", container)
        tar.unlink()
        return BASE

    def build(self, dockerfile: Path, tag: str, **arguments: str) -> None:
        """Build it as its first lines say, with this machine's pip configuration as the secret."""
        config, mounts = pip_configuration()
        secret = self.folder / "pip.conf"
        secret.write_text(config)
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        volumes = [f"--volume={path}:{path}:ro" for path in mounts]
        self(
            "bud", "--format=docker", "--isolation=chroot", "--layers=false", f"--secret=id=pip,src={secret}",
            *volumes, *given, "--file", dockerfile, "--tag", tag, ".",
        )  # fmt: skip

    def config(self, image: str) -> dict[str, Any]:
        """What an image says of itself, in Docker's words."""
        found: dict[str, Any] = json.loads(self("inspect", "--type", "image", image))["Docker"]
        return found

    def run_command(
        self, container: str, *command: str, user: str, mounts: Sequence[str], **environment: str
    ) -> list[str]:
        """The command line that runs a command in a container, with this machine's network."""
        return [
            *self.command, "run", "--isolation=chroot", f"--user={user}", *(f"--volume={mount}" for mount in mounts),
            *(f"--env={key}={value}" for key, value in environment.items()), container, "--", *command,
        ]  # fmt: skip


@contextmanager
def buildah() -> Iterator[Buildah]:
    """A storage in the temporary folder, and nothing of it afterwards."""
    for tool in ("buildah", "mmdebstrap"):
        assert shutil.which(tool), f"{tool} is missing: make test-image installs it"
    assert os.geteuid() == 0, "building in a chroot needs root"
    folder = Path(tempfile.mkdtemp(prefix="servekit-image-"))
    made = Buildah(folder)
    try:
        yield made
    finally:
        for arguments in (["umount", "--all"], ["rm", "--all"], ["rmi", "--all", "--force"]):
            subprocess.run([*made.command, *arguments], capture_output=True, check=False, timeout=600)
        shutil.rmtree(folder)


def pip_configuration() -> tuple[str, list[str]]:
    """A pip.conf that says what pip is told here, by files and environment, and the local paths that it names."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    options = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        options[key.removeprefix(":env:.").removeprefix("global.").removeprefix("install.")] = ast.literal_eval(value)
    words = [word for value in options.values() for word in value.split()]
    # An index of files links to what lies beside it.
    paths = {str(Path(word.removeprefix("file://")).parent) for word in words if word.startswith("file://")}
    paths |= {word for word in words if word.startswith("/") and Path(word).exists()}
    lines = ["[global]", *(f"{key} = {value}" for key, value in options.items())]
    return "\n".join(lines) + "\n", sorted(paths)
