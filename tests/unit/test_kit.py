"""The command line, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kit
from archives import verify
from deploy import local
from model_configs import schema
from model_configs.errors import Failed, KitError
from model_configs.schema import model_names


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["serv"], "No such command 'serv'. Did you mean 'serve'?", "kit.py --help"),
        (["archive"], "Missing argument 'MODEL'", "kit.py --help"),
        (["archive", "minlm"], "no model named 'minlm'", "did you mean minilm?"),
        (["archive", "minilm", "--format", "zip"], "--format zip is none of mar, no-archive, tgz", "kit.py archive"),
        (["verify", "nothing"], "no model named 'nothing'", "there are: "),
        (["serve", "minilm", "--port", "80"], "Invalid value for '--port'", "kit.py --help"),
        (["probe", "minlm"], "no model named 'minlm'", "did you mean minilm?"),
        (["check", "minlm"], "no model named 'minlm'", "did you mean minilm?"),
    ],
)
def test_user_errors_are_two_lines_and_code_2(
    arguments: list[str], error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kit.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert first.startswith(f"error: {error}")
    assert second.startswith(f"hint: {hint}")


def test_v_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["-v", "archive", "minlm"], ["archive", "minlm", "--verbose"]):
        assert kit.run(arguments) == 2
        assert "Traceback" in capsys.readouterr().err


def test_models_and_check_end_with_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb, key in (("models", "models"), ("check", "checked")):
        file = tmp_path / f"{verb}.json"
        assert kit.run([verb, "--json", str(file)]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        document = json.loads(last)
        assert [row["model"] for row in document[key]] == model_names()
        assert json.loads(file.read_text()) == document


def test_probe_of_a_model_that_no_server_has(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "servers", lambda: [])
    assert kit.run(["probe", "minilm"]) == 2
    assert "hint: kit.py serve minilm" in capsys.readouterr().err
    assert kit.run(["status"]) == 1
    assert kit.run(["stop"]) == 0


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.run(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("models", "check", "archive", "verify", "serve", "stop", "status", "probe"):
        assert f"  {verb} " in text


def test_a_broken_yaml_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = schema.load_model

    def load(name: str) -> schema.AnyModelConfig:
        if name == "minilm":
            raise KitError("minilm.yaml: torchserve.batchsize: unknown key", "a hint")
        return real(name)

    monkeypatch.setattr(schema, "load_model", load)
    assert kit.run(["models"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["models"]
    assert "broken: minilm.yaml" in {row["model"]: row["weights"] for row in rows}["minilm"]
    assert kit.run(["check"]) == 2
    assert "torchserve.batchsize" in capsys.readouterr().err


def test_an_archive_that_fails_says_so_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise Failed("vector 0: cosine [0.1] :fire:")

    monkeypatch.setattr(verify, "verify", fail)
    assert kit.run(["verify", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["problem"] == "vector 0: cosine [0.1] :fire:"
    assert captured.err == "error: vector 0: cosine [0.1] :fire:\n"


MADE_UP = ["plan-cpu", "--cpus", "48", "--smt", "2", "--sockets", "2", "--quota", "8"]


def test_plan_cpu_shows_what_makes_sense_on_any_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.run(MADE_UP) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["workers"], row["threads"]) for row in document["options"]] == [(1, 8), (2, 4), (4, 2), (8, 1)]


def test_plan_cpu_shows_one_plan_and_what_it_wastes(capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.run([*MADE_UP, "--workers", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "3 workers × 2 threads leave 2 of 8 cores idle (75 % used)" in lines[1]
    document = json.loads(lines[-1])
    assert [own["threads"] for own in document["slices"]] == [2, 2, 2]
    assert kit.run(["plan-cpu", "minilm"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["workers"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*MADE_UP, "--workers", "9"], "9 workers on 48 CPUs"),
        (["plan-cpu", "--cpus", "7", "--smt", "2"], "7 CPUs are no 1 sockets"),
        (["plan-cpu", "--quota", "-1"], "Invalid value for '--quota'"),
        (["plan-cpu", "no-such-model"], "no model named"),
        (["distill", "a", "b", "c", "d", "--set", "epochs"], "--set epochs: not KEY=VALUE"),
        (["distill", "a", "b", "c", "d", "--set", "epoch=3"], "did you mean 'epochs'?"),
        (["distill", "no-teacher", "b", "c", "d"], "no-teacher has no config.json"),
    ],
)
def test_plan_cpu_and_distill_say_what_is_wrong(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kit.run(arguments) == 2
    assert words in capsys.readouterr().err
