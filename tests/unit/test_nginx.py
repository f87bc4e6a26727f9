"""One nginx: found, started, told to end. What it is configured for is a bare port."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.nginx import HINT, Nginx, find_nginx
from model_configs.errors import Failed, KitError
from tests.fakes.gateways import processes_in

PORT = 22500


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    (tmp_path / "logs").mkdir()
    user = "user root root;" if Path("/proc/self").stat().st_uid == 0 else ""
    (tmp_path / "bare.conf").write_text(
        f"pid bare.pid; {user} error_log logs/e.log; worker_processes 1; events {{}}\n"
        "http { access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u;\n"
        f"scgi_temp_path s; server {{ listen 127.0.0.1:{PORT}; }} }}\n"
    )
    found = Nginx(tmp_path, "bare")
    yield found
    found.kill()


def test_a_machine_without_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_nginx.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(KitError, match="there is no nginx") as error:
        find_nginx()
    assert error.value.hint == HINT == "apt-get install nginx libnginx-mod-http-js"
    bare = tmp_path / "nginx"
    bare.write_text(f"#!/bin/sh\necho 'configure arguments: --modules-path={tmp_path}/modules' >&2\n")
    bare.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: str(bare))
    with pytest.raises(KitError, match="no JavaScript module") as error:
        find_nginx()
    assert error.value.hint == HINT
    find_nginx.cache_clear()


def test_its_life(nginx: Nginx) -> None:
    before = nginx.pid
    assert before is None
    nginx.start()
    first = nginx.pid
    assert first
    nginx.reload()
    assert nginx.pid == first
    with pytest.raises(Failed, match="did not start"):
        nginx.start()  # the port is taken
    nginx.quit()
    assert nginx.wait(5)
    nginx.quit()  # of one that has ended
    assert nginx.wait(0)
    assert processes_in(nginx.folder) == []


def test_a_log_that_has_grown_is_set_aside(nginx: Nginx) -> None:
    log = nginx.folder / "logs" / "e.log"
    nginx.rotate("logs/none.log", 0)
    nginx.start()
    log.write_text("a line\n")
    nginx.rotate("logs/e.log", 7)
    assert not (nginx.folder / "logs" / "e.1.log").exists()
    nginx.rotate("logs/e.log", 6)
    assert (nginx.folder / "logs" / "e.1.log").read_text() == "a line\n"
    deadline = time.monotonic() + 5
    while not log.exists():  # nginx opens it anew
        assert time.monotonic() < deadline
        nginx.rotate("logs/e.log", 6)
        time.sleep(0.01)
    assert (nginx.folder / "logs" / "e.1.log").read_text() == "a line\n"


def test_another_process_of_its_pid_is_not_it(nginx: Nginx) -> None:
    (nginx.folder / "bare.pid").write_text("1\n")
    assert nginx.pid is None
    nginx.kill()
    assert not (nginx.folder / "bare.pid").exists()


def test_a_reload_that_nginx_refuses_changes_nothing(nginx: Nginx) -> None:
    nginx.start()
    (nginx.folder / "bare.conf").write_text("nonsense;")
    with pytest.raises(Failed, match="refuses"):
        nginx.reload()
    assert nginx.pid
