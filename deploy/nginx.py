"""One nginx: find it, start it with a configuration file, end it. Knows nothing of what it is configured for.

It runs as whoever starts it, and touches nothing outside its folder, which is its prefix and its working directory: so
unix sockets have short relative names, whatever the length of the folder's own.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from deploy.background import running_after
from model_configs.errors import Failed, KitError

HINT = "apt-get install nginx libnginx-mod-http-js"
GATEWAY = "nginx"
"""The name of the configuration that clients reach."""
JS_MODULE = "ngx_http_js_module.so"
START_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Installed:
    """Absolute paths."""

    binary: Path
    js_module: Path


@cache
def find_nginx() -> Installed:
    """The nginx of this machine and its JavaScript module. Raises KitError where one is missing."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise KitError("there is no nginx, which the gateway is", HINT)
    said = subprocess.run([found, "-V"], capture_output=True, text=True, check=False, timeout=10).stderr
    match = re.search(r"--modules-path=(\S+)", said)
    module = Path(match[1] if match else "/usr/lib/nginx/modules") / JS_MODULE
    if not module.exists():
        raise KitError(f"nginx has no JavaScript module: {module} does not exist", HINT)
    return Installed(Path(found), module)


@dataclass(frozen=True)
class Nginx:
    """An nginx whose configuration is folder/NAME.conf, and which says `pid NAME.pid;` there."""

    folder: Path
    name: str

    @property
    def pid(self) -> int | None:
        """Of the master process, if this very one runs."""
        try:
            pid = int((self.folder / f"{self.name}.pid").read_text())
            # A master's title is "nginx: master process /usr/sbin/nginx -p FOLDER -c NAME.conf …".
            ours = f"-p {self.folder} -c {self.name}.conf" in " ".join(psutil.Process(pid).cmdline())
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        return pid if ours else None

    def start(self, *, inherit_output: bool = False) -> None:
        """Start it; it listens on return. inherit_output: its standard output is ours. Raises Failed, KitError."""
        self.test()
        log = self.folder / "logs" / f"{self.name}.start.log"
        with log.open("wb") as file:
            started = subprocess.run(
                self._command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=None if inherit_output else file,
                stderr=None if inherit_output else file,
                start_new_session=True,
                check=False,
                timeout=START_TIMEOUT_S,
            )
        if started.returncode != 0:
            raise Failed(f"nginx did not start:\n{log.read_text(errors='replace').strip()}")
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.pid is None:  # the file is written just after the command has returned
            if time.monotonic() > deadline:
                raise Failed(f"nginx ended at once:\n{log.read_text(errors='replace').strip()}")
            time.sleep(0.01)

    def test(self) -> None:
        """Let nginx read its configuration. Raises Failed with what it says against it."""
        said = subprocess.run(
            [*self._command(), "-t", "-q"], cwd=self.folder, capture_output=True, text=True, check=False, timeout=10
        )
        if said.returncode != 0:
            raise Failed(f"nginx refuses {self.folder / self.name}.conf:\n{said.stderr.strip()}")

    def reload(self) -> None:
        """Read the configuration anew. Connections between two requests are closed. Raises Failed."""
        self.test()
        if pid := self.pid:
            psutil.Process(pid).send_signal(signal.SIGHUP)

    def rotate(self, log: str, most_bytes: int) -> None:
        """Set aside one of its logs when it has grown beyond this, instead of what was set aside before.

        To be called again and again.
        """
        path = self.folder / log
        aside = path.with_suffix(f".1{path.suffix}")
        if path.is_file() and path.stat().st_size > most_bytes:
            path.replace(aside)
        # Told again until it has opened its logs anew: nginx that starts just now may not heed a signal.
        if aside.exists() and not path.exists() and (pid := self.pid):
            psutil.Process(pid).send_signal(signal.SIGUSR1)

    def quit(self) -> None:
        """Take no more connections, and end when those that are there have their answers; returns at once."""
        if pid := self.pid:
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                psutil.Process(pid).send_signal(signal.SIGQUIT)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within the time."""
        deadline = time.monotonic() + timeout_s
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def kill(self) -> None:
        """End it now, with its workers, and remove its pid file."""
        if pid := self.pid:
            master = psutil.Process(pid)
            processes = [master, *master.children(recursive=True)]
            master.terminate()
            left = running_after(processes, KILL_TIMEOUT_S)
            for process in left:
                process.kill()
            running_after(left, KILL_TIMEOUT_S)
        (self.folder / f"{self.name}.pid").unlink(missing_ok=True)

    def _command(self) -> list[str]:
        # -e is for what happens before the configuration's own error_log is known.
        return [str(find_nginx().binary), "-p", str(self.folder), "-c", f"{self.name}.conf", "-e", "stderr"]
