"""The deploy verbs: what they hand on, what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kit
from deploy import ec2, sagemaker
from deploy.outcome import Outcome

ROWS = [{"what": "endpoint", "state": "InService"}]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a target's run was asked; "failed" is what it answers with."""
    found: dict[str, Any] = {"failed": ""}

    def run(config: Any, action: str, build: Any, **options: Any) -> Outcome:
        found.update(options, model=config.model.name, action=action)
        return Outcome(ROWS, {"status": "x"}, found["failed"])

    monkeypatch.setattr(sagemaker, "run", run)
    monkeypatch.setattr(ec2, "run", run)
    return found


def test_options_reach_sagemaker(asked: dict[str, Any]) -> None:
    arguments = ["--on", "emulator", "--dry-run", "--via", "sdk", "--region", "eu-central-1"]
    assert kit.run(["deploy", "sagemaker", "minilm", "apply", *arguments]) == 0
    assert asked == {
        "failed": "",
        "model": "minilm",
        "action": "apply",
        "emulated": True,
        "dry_run": True,
        "via": "sdk",
        "region": "eu-central-1",
    }


def test_aws_is_the_default(asked: dict[str, Any]) -> None:
    assert kit.run(["deploy", "sagemaker", "minilm", "status"]) == 0
    assert (asked["emulated"], asked["dry_run"], asked["via"], asked["region"]) == (False, False, "boto3", None)


@pytest.mark.parametrize("target", ["sagemaker", "ec2"])
def test_what_is_not_as_it_should_be_is_printed_and_ends_with_1(
    target: str, asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked["failed"] = "servekit-minilm is Failed"
    file = tmp_path / "status.json"
    assert kit.run(["deploy", target, "minilm", "status", "--json", str(file)]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1]) == json.loads(file.read_text()) == {"status": "x"}
    assert captured.err == "error: servekit-minilm is Failed\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["sagemaker", "minilm", "deploy"], "Invalid value for"),
        (["sagemaker", "minilm", "apply", "--via", "cdk"], "Invalid value for '--via'"),
        (["sagemaker", "minilm", "apply", "--on", "azure"], "Invalid value for '--on'"),
        (["sagemaker", "minlm", "apply"], "no model named 'minlm'"),
        (["ec2", "minilm", "rollback"], "Invalid value for"),
    ],
)
def test_usage_errors(
    arguments: list[str], error: str, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert kit.run(["deploy", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {error}")
    assert "action" not in asked


def test_a_model_that_says_nothing_of_sagemaker(capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.run(["deploy", "sagemaker", "digits", "plan", "--on", "emulator"]) == 2
    assert capsys.readouterr().err.startswith("error: digits says nothing of SageMaker\nhint: deploy.sagemaker")
