"""EC2's verbs against the emulator, by the command line; and an instance's script with the real entrypoint, gateway and
TorchServe for its container."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

import kit
from archives import build
from deploy import aws as aws_session
from deploy import emulator, keys
from deploy.aws import Aws
from deploy.ec2_rehearsal import CANNOT_SHOW, NOT_MADE
from deploy.hosting.archive import read
from model_configs import ROOT
from model_configs.archive_files import SUMS_FILE
from model_configs.schema import load_model
from tests.fakes.instance import Instance, script

pytestmark = pytest.mark.deploy
MODEL = "pydoc-llama"
STACK = "servekit-pydoc-llama"
EMULATOR_PORT = 23020
INSTANCE_PORT = 23040
STOP_S = 60
START = """\
#!/bin/bash
cd {root}
exec setsid env PATH="{path}" SERVEKIT_MODEL_DIR="$FAKE_ROOT/var/lib/servekit/model" SERVEKIT_KEYS_DIR="$FAKE_ROOT/etc/servekit/keys" \\
  SERVEKIT_RUN_DIR="$FAKE_ROOT/run" SERVEKIT_HOST=127.0.0.1 SAGEMAKER_BIND_TO_PORT={port} \\
  {python} docker/entrypoint.py serve >"$FAKE_ROOT/container.log" 2>&1 &
echo $! >"$FAKE_ROOT/pid"
"""


@pytest.fixture(scope="module", autouse=True)
def _emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An emulator of this test's own: the first command starts it, destroy ends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVEKIT_EMULATOR_PORT", str(EMULATOR_PORT))
        patch.setenv("SERVEKIT_EMULATOR_FOLDER", str(tmp_path_factory.mktemp("emulator")))
        yield
        emulator.stop()


def deploy(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run the verb; its document, with what it said to people as `said`."""
    capsys.readouterr()
    got = kit.run(["deploy", "ec2", MODEL, *arguments, "--on", "emulator"])
    captured = capsys.readouterr()
    assert got == code, captured.err
    return {**json.loads(captured.out.splitlines()[-1]), "said": captured.err}


def account() -> Aws:
    running = emulator.running()
    assert running
    return aws_session.emulated_session(running.url)


def test_a_stack_from_plan_to_destroy(capsys: pytest.CaptureFixture[str]) -> None:
    planned = deploy(capsys, "plan")
    for line in CANNOT_SHOW:
        assert line in planned["said"]
    template = json.loads(Path(planned["template"]).read_text())

    dry = deploy(capsys, "apply", "--dry-run")
    assert [call["operation"] for call in dry["calls"]][-2:] == ["CreateChangeSet", "ExecuteChangeSet"]
    assert not account().client("s3").list_buckets()["Buckets"]
    assert not account().client("cloudformation").list_stacks()["StackSummaries"]

    created = deploy(capsys, "apply")
    assert (created["state"], created["ready"]) == ("created", True)
    assert created["url"].startswith("https://")
    _made_is_what_was_planned(template)
    _the_instance_gets_its_script()
    _the_archive_is_there(created["archive"])

    assert deploy(capsys, "status")["instances"][0]["load balancer"] == "healthy"
    again = deploy(capsys, "apply")
    assert (again["state"], again["changes"]) == ("no changes", [])
    assert "archive: 0 of" in again["said"]

    _new_keys(planned["parameters"]["KeysArn"])
    updated = deploy(capsys, "apply")
    assert updated["state"] == "updated"
    assert int(updated["parameters"]["KeysVersion"]) == int(planned["parameters"]["KeysVersion"]) + 1

    _take_an_instance_from_the_load_balancer()
    ill = deploy(capsys, "status", code=1)
    assert ill["problem"] == "0 of 1 instances are healthy"

    assert deploy(capsys, "destroy", "--dry-run")["state"] == "nothing was called"
    assert account().client("cloudformation").list_stacks()["StackSummaries"][0]["StackStatus"] == "UPDATE_COMPLETE"
    gone = deploy(capsys, "destroy")
    assert gone["state"] == "destroyed"
    (left,) = gone["left"]
    assert "access logs are yours to delete" in left
    assert gone["emulator_stopped"]
    assert emulator.running() is None


def test_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.run(["deploy", "ec2", MODEL, "status", "--on", "emulator"]) == 2
    assert f"there is no stack {STACK}" in capsys.readouterr().err
    assert deploy(capsys, "destroy")["state"] == "nothing there"


def _made_is_what_was_planned(template: dict[str, Any]) -> None:
    """All that the list of what a rehearsal cannot show does not name, and nothing that it names."""
    found = account().client("cloudformation").describe_stack_resources(StackName=STACK)["StackResources"]
    made = {each["LogicalResourceId"] for each in found if "LogicalResourceId" in each}
    assert made == {name for name, each in template["Resources"].items() if each["Type"] not in NOT_MADE}


def _the_instance_gets_its_script() -> None:
    ec2 = account().client("ec2")
    (template,) = ec2.describe_launch_templates()["LaunchTemplates"]
    versions = ec2.describe_launch_template_versions(LaunchTemplateId=template["LaunchTemplateId"])
    data = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    script = base64.b64decode(data["UserData"]).decode()
    assert script.startswith("#!/bin/bash\n")
    assert f"STACK='{STACK}'" in script
    assert "IMAGE_ARCHITECTURE='amd64'" in script
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True


def _the_archive_is_there(uri: str) -> None:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    found = account().client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    names = {each["Key"].removeprefix(prefix) for each in found}
    assert {"MAR-INF/servekit.json", "artefacts/golden.json", "llama_handler.py"} <= names


def _new_keys(arn: str) -> None:
    account().client("ssm").put_parameter(Name=arn.partition(":parameter")[2], Value="[]", Overwrite=True)


def _take_an_instance_from_the_load_balancer() -> None:
    groups = account().client("elbv2").describe_target_groups()["TargetGroups"]
    (instance,) = account().client("autoscaling").describe_auto_scaling_instances()["AutoScalingInstances"]
    account().client("elbv2").deregister_targets(
        TargetGroupArn=groups[0]["TargetGroupArn"], Targets=[{"Id": instance["InstanceId"]}]
    )


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Instance]:
    """An instance whose service is the image's entrypoint, as a process of this machine."""
    start = tmp_path / "start"
    start.write_text(START.format(root=ROOT, port=INSTANCE_PORT, python=sys.executable, path=os.environ["PATH"]))
    start.chmod(0o755)
    instance = Instance(
        tmp_path,
        INSTANCE_PORT,
        environment={
            "FAKE_START": str(start),
            "BOOT_PAUSE_S": "0.5",
            "SERVEKIT_CACHE": os.environ["SERVEKIT_CACHE"],
        },
    )
    yield instance
    pid_file = instance.root / "pid"
    if pid_file.exists():
        _end(int(pid_file.read_text()))


def test_an_instance_serves_a_real_model_through_its_gateway(container: Instance) -> None:
    """The script as the instance gets it, the archive as S3 gives it, keys as `kit.py keys` makes them."""
    built = build.build(load_model("digits"), archive_format="no-archive")
    shutil.copytree(built.path, container.s3)
    _, key = keys.add(container.folder / "keys", "a client")
    container.keys = [json.loads(path.read_text()) for path in (container.folder / "keys").glob("*.json")]
    sha256 = next(file.sha256 for file in read(container.s3).files if file.path == SUMS_FILE)
    done = container.boot(script(ArchiveSha256=sha256, ResponseTimeout="60"))
    log = (container.root / "container.log").read_text()
    assert done.returncode == 0, done.stdout + log
    assert "answered right" in done.stdout
    assert container.calls("cfn-signal")[0].startswith("cfn-signal --success true")

    image = (ROOT / "loadtest/payloads/digits/7-0017.png").read_bytes()
    url = f"http://127.0.0.1:{INSTANCE_PORT}"

    def ask(bearer: str, path: str = "/invocations") -> requests.Response:
        headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "image/png"}
        return requests.post(f"{url}{path}", image, headers=headers, timeout=30)

    assert ask(key).json()[0]["label"] == "7"
    assert ask(key[:-1] + ("a" if key[-1] != "a" else "b")).status_code in (401, 403)
    for closed in ("/models", "/api-description", "/metrics", "/workflows"):
        assert requests.get(f"{url}{closed}", timeout=30).status_code == 404
    assert [path.stem for path in container.key_files] == [container.keys[0]["id"]], "the start's own key is gone"


def _end(pid: int) -> None:
    """As docker stop does it."""
    if not psutil.pid_exists(pid):
        return
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    for each in family:
        if each.is_running():
            each.kill()
