"""From YAML to a streaming endpoint and back by the command line, on the emulator, with TorchServe in its containers.

A copy of the project, so that its YAML can be changed between two commands as a user does. The tests build on one
another, in their order.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from botocore.exceptions import ClientError

from deploy import emulator
from deploy.aws import Aws, emulated_session
from deploy.emulator import Options, Running
from deploy.emulator.marked import mark
from deploy.emulator.process import OWNER_VARIABLE
from model_configs import ROOT
from tests.e2e.conftest import kit
from tests.fakes.token_iterator import TokenIterator

PORT = 21560
MODEL = "pydoc-llama"
ENDPOINT = "servekit-pydoc-llama"
PARTS = ("archives", "deploy", "docker", "handlers", "loadtest", "model_configs", "kit.py", "printing.py")
QUESTION = {"inputs": "The with statement", "parameters": {"max_new_tokens": 20}, "stream": True}


class Project:
    """A copy of the project with an emulator of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.options = Options(port=PORT, folder=root / ".run" / "emulator")
        for name in PARTS:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("store", "__pycache__", "results"))
            else:
                shutil.copy(source, root / name)

    def kit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return kit(*arguments, root=self.root)

    def deploy(self, action: str, *more: str) -> dict[str, Any]:
        """What `kit.py deploy sagemaker` says as its last line."""
        done = self.kit("deploy", "sagemaker", MODEL, action, "--on", "emulator", *more)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def change(self, **section: Any) -> None:
        """Keys of the YAML's deploy.sagemaker."""
        path = self.root / "model_configs" / f"{MODEL}.yaml"
        config = yaml.safe_load(path.read_text())
        config["deploy"]["sagemaker"] |= section
        path.write_text(yaml.safe_dump(config))

    def emulator(self) -> Running:
        found = emulator.running(self.options)
        assert found
        return found

    def aws(self) -> Aws:
        return emulated_session(self.emulator().url)

    def configuration(self) -> str:
        described = self.aws().client("sagemaker").describe_endpoint(EndpointName=ENDPOINT)
        assert described["EndpointStatus"] == "InService"
        return str(described["EndpointConfigName"])

    def processes(self) -> list[int]:
        """Everything that the emulator runs, and itself."""
        folder = str(self.options.folder)
        return [process.pid for process in psutil.process_iter() if mark(process, OWNER_VARIABLE) == folder]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("project"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVEKIT_EMULATOR_PORT", str(PORT))
        made.change(update={"strategy": "canary", "size_percent": 50, "wait_s": 300}, instance_count=2)
        yield made
    emulator.stop(made.options)


def test_a_plan_names_every_call_and_makes_none(project: Project) -> None:
    found = project.deploy("plan")
    calls = [call["call"] for call in found["changes"]]
    assert calls[0] == "CreateBucket"
    assert {"CreateModel", "CreateEndpointConfig", "CreateEndpoint"} < set(calls)
    assert project.emulator().leftovers() == []


def test_apply_makes_an_endpoint_once(project: Project) -> None:
    first = project.deploy("apply")
    assert "CreateEndpoint" in [call["call"] for call in first["changes"]]
    assert project.configuration() == first["endpoint_config"]
    again = project.deploy("apply")
    assert {call["verb"] for call in again["changes"]} <= {"keep"}
    assert project.deploy("status")["status"] == "InService"


def test_invoke_prints_text_as_it_comes(project: Project) -> None:
    done = project.kit("invoke", MODEL, "The with statement", "--on", "emulator", "--max-tokens", "20")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert done.stdout.startswith(document["text"])
    assert document["pieces"] > 10
    whole = project.kit("invoke", MODEL, "The with statement", "--on", "emulator", "--max-tokens", "20", "--no-stream")
    assert json.loads(whole.stdout) == [{"generated_text": document["text"]}]
    plain = project.kit("invoke", MODEL, "The with statement", "--on", "emulator", "--content-type", "text/plain")
    assert plain.stdout.startswith(document["text"])


def test_the_articles_reader_reads_the_endpoint(project: Project) -> None:
    runtime = project.aws().client("sagemaker-runtime")
    reply = runtime.invoke_endpoint_with_response_stream(
        EndpointName=ENDPOINT, Body=json.dumps(QUESTION), ContentType="application/json"
    )
    whole = runtime.invoke_endpoint(
        EndpointName=ENDPOINT, Body=json.dumps(QUESTION | {"stream": False}), ContentType="application/json"
    )
    tokens = list(TokenIterator(reply["Body"]))
    assert [{"generated_text": "".join(tokens)}] == json.loads(whole["Body"].read())
    assert len(tokens) == 20


def test_a_wrong_request_is_the_models_own_error(project: Project) -> None:
    done = project.kit("invoke", MODEL, "x " * 2000, "--on", "emulator")
    assert done.returncode == 1
    assert "the model answered 413" in done.stderr
    assert "/aws/sagemaker/Endpoints/" in done.stderr


class Load:
    """Streams without a pause, from several threads, until the end of the block."""

    def __init__(self, aws: Aws, threads: int = 3) -> None:
        self.done = 0
        self.errors: list[Exception] = []
        self._runtime = aws.client("sagemaker-runtime", retries={"total_max_attempts": 1}, read_timeout=70)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def _ask(self) -> None:
        while not self._ended.wait(0.05):
            try:
                reply = self._runtime.invoke_endpoint_with_response_stream(
                    EndpointName=ENDPOINT, Body=json.dumps(QUESTION), ContentType="application/json"
                )
                assert len(list(TokenIterator(reply["Body"]))) == 20
                self.done += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a request that failed
                self.errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def test_an_update_under_load_loses_no_request(project: Project) -> None:
    before = project.configuration()
    project.change(env={"ROUND": "2"})
    with Load(project.aws()) as load:
        document = project.deploy("update")
    assert load.errors == []
    assert load.done > 20
    assert project.configuration() == document["endpoint_config"] != before


def test_an_update_that_fails_is_rolled_back_and_the_old_model_answers(project: Project) -> None:
    before = project.configuration()
    project.change(env={"SAGEMAKER_MODEL_SERVER_TIMEOUT": "soon"})
    with Load(project.aws(), threads=1) as load:
        done = project.kit("deploy", "sagemaker", MODEL, "update", "--on", "emulator")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "did not pass the ping health check" in done.stderr
    assert load.errors == []
    assert load.done > 0
    assert project.configuration() == before


def test_destroy_leaves_nothing(project: Project) -> None:
    running = project.emulator()
    assert len(project.processes()) > 3
    assert running.state()["violations"] == []
    keep = project.aws().client("sagemaker")  # a second endpoint keeps the emulator, so that it can be asked
    model = keep.list_models()["Models"][0]["ModelName"]
    keep.create_endpoint_config(
        EndpointConfigName="other",
        ProductionVariants=[
            {"VariantName": "v", "ModelName": model, "InstanceType": "ml.c7i.large", "InitialInstanceCount": 1}
        ],
    )
    running.inject(fail_starts=1)
    keep.create_endpoint(EndpointName="other", EndpointConfigName="other")
    assert project.deploy("destroy")["left"] == []
    assert running.leftovers() == ["endpoint other", "endpoint-config other"]
    with pytest.raises(ClientError, match="Could not find endpoint"):
        project.configuration()
    keep.delete_endpoint(EndpointName="other")
    keep.delete_endpoint_config(EndpointConfigName="other")
    project.deploy("destroy")
    assert emulator.running(project.options) is None
    assert project.processes() == []
