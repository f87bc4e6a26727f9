"""The gateway's verbs, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kit
from deploy import gateway_verbs
from deploy.logs import gateway_line


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["serve", "digits", "--servers", "2"], "--servers and --tls-… are the gateway's", "add --gateway"),
        (["serve", "digits", "--tls-cert", "x"], "--servers and --tls-… are the gateway's", "add --gateway"),
        (["restart", "digts"], "no model named 'digts'", "did you mean digits?"),
        (["restart", "digits"], "no gateway here serves digits", "kit.py serve digits --gateway"),
        (["keys", "revoke", "nobody"], "there is no key nobody", "kit.py keys list"),
        (["keys", "add", "me", "--days", "-1"], "-1 days: the key would be expired already", "--days 90"),
        (["keys", "ad"], "No such command 'ad'", "kit.py --help"),
        (["mirror", "report"], "no mirror has a record here", "deploy.gateway.mirror in the YAML"),
    ],
)
def test_user_errors(
    arguments: list[str],
    error: str,
    hint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(gateway_verbs, "RUN_DIR", tmp_path)
    monkeypatch.setattr("deploy.gateway_process.gateways", lambda: [])
    if arguments[0] == "keys":
        arguments = [*arguments, "--keys", str(tmp_path / "keys")]
    assert kit.run(arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {error}")
    assert second.startswith(f"hint: {hint}")


def test_keys_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--keys", str(tmp_path)]

    def said(*arguments: str) -> dict[str, object]:
        assert kit.run([*arguments, *folder]) == 0
        document: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return document

    made = said("keys", "add", "alice", "--model", "digits", "--days", "30")
    assert str(made["key"]).startswith(f"sk-{made['id']}-")
    listed = said("keys", "list")
    assert listed["keys"] == [
        {"id": made["id"], "name": "alice", "models": "digits", "created": listed["keys"][0]["created"],  # type: ignore[index]
         "expires": made["expires"], "expired": False}
    ]  # fmt: skip
    assert str(made["key"]) not in json.dumps(listed)
    said("keys", "revoke", "alice")
    assert said("keys", "list") == {"keys": []}


def test_records_of_several_gateways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gateway_verbs, "RUN_DIR", tmp_path)
    for port in ("22500", "22501"):
        (tmp_path / port / "mirror").mkdir(parents=True)
    assert kit.run(["mirror", "report"]) == 2
    assert "mirrors of the gateways on ports 22500, 22501 have records" in capsys.readouterr().err
    assert kit.run(["mirror", "report", "--port", "22500"]) == 3
    assert "not valid: no pair of answers was compared" in capsys.readouterr().err


def test_access_lines_as_people_read_them() -> None:
    line = {
        "time": "2026-11-25T12:34:56+00:00",
        "status": 200,
        "method": "POST",
        "path": "/p",
        "request_s": 0.0123,
        "key": "",
    }
    assert gateway_line(json.dumps(line)) == "12:34:56 200 POST /p 12 ms"
    assert gateway_line(json.dumps({**line, "path": "", "key": "alice"})) == "12:34:56 200 POST (no path) 12 ms alice"


def test_help_names_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.run(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("restart", "keys", "mirror"):
        assert f"  {verb} " in text
