"""The front, as it goes about a real account: moto's, in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from deploy import aws as aws_session
from deploy import ec2
from deploy.aws import Aws
from deploy.ec2_stack import Stack
from deploy.outcome import Outcome
from model_configs.errors import Failed, KitError
from model_configs.schema import AnyModelConfig
from tests.fakes.ec2_models import SECTION, model
from tests.fakes.instance import write_archive

REGION = "eu-west-1"
KEYS = "/servekit/minilm/keys"
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")


class Account:
    """An account with a network, a certificate, an image and keys, and a model that is to go there."""

    def __init__(self, folder: Path) -> None:
        self.archive = folder / "archive"
        write_archive(self.archive)
        self.aws = Aws(boto3.Session(region_name=REGION), REGION)
        ec2_client = self.client("ec2")
        vpc = ec2_client.describe_vpcs()["Vpcs"][0]["VpcId"]
        subnets = [each["SubnetId"] for each in ec2_client.describe_subnets()["Subnets"]][:2]
        certificate = self.client("acm").request_certificate(DomainName="m.example.com")["CertificateArn"]
        self.put_keys("[]")
        self._put_image()
        where = {"LocationConstraint": REGION}
        self.client("s3").create_bucket(Bucket="my-models", CreateBucketConfiguration=where)
        keys_arn = f"arn:aws:ssm:{REGION}:{self.aws.account}:parameter{KEYS}"
        self.section: dict[str, Any] = {
            **SECTION, "bucket": "my-models", "vpc_id": vpc, "subnets": subnets, "certificate_arn": certificate, "keys_arn": keys_arn
        }  # fmt: skip

    def client(self, service: str) -> Any:
        return self.aws.client(service)

    def put_keys(self, value: str) -> None:
        self.client("ssm").put_parameter(Name=KEYS, Value=value, Type="SecureString", Overwrite=True)

    def build(self, config: AnyModelConfig, archive_format: str) -> Path:
        assert archive_format == "no-archive"
        return self.archive

    def run(self, action: str, dry_run: bool = False, **changes: Any) -> Outcome:
        config = model({**self.section, **changes})
        return ec2.run(config, action, self.build, emulated=False, dry_run=dry_run, region=REGION)

    def _put_image(self) -> None:
        self.client("ecr").create_repository(repositoryName="servekit")
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
        self.client("ecr").put_image(repositoryName="servekit", imageManifest=json.dumps(manifest), imageTag="cpu")


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """One for all tests, which leave it as they found it: moto takes a second to make it."""
    folder = tmp_path_factory.mktemp("account")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.delenv("AWS_PROFILE", raising=False)
        patch.setattr("deploy.ec2.RUN_DIR", folder / ".run")
        patch.setattr(ec2, "POLL_S", 0.0)
        with mock_aws():
            made = Account(folder)
            patch.setattr(aws_session, "session", lambda emulated, region: made.aws)
            yield made


def test_a_plan_writes_what_would_be_sent_and_changes_nothing(account: Account) -> None:
    found = account.run("plan")
    folder = Path(found.document["template"]).parent
    assert json.loads((folder / "template.json").read_text())["Resources"].keys() == {
        *(row["resource"] for row in found.rows), "Record", "Scaling"
    }  # fmt: skip
    parameters = json.loads((folder / "parameters.json").read_text())
    assert parameters["Image"].partition("@")[2].startswith("sha256:"), "the tag's image as it is now"
    assert account.client("cloudformation").describe_stacks()["Stacks"] == []
    assert account.client("s3").list_objects_v2(Bucket="my-models")["KeyCount"] == 0


def test_a_stack_is_made_kept_changed_protected_and_taken_away(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    made = account.run("apply")
    assert made.document["state"] == "created"
    assert len(made.document["changes"]) > 15
    assert account.run("apply").document["state"] == "no changes"
    account.put_keys("[{}]")
    assert account.run("apply").document["state"] == "updated", "other keys are another launch template"
    seen = account.run("status")
    assert (seen.failed, len(seen.rows)) == ("", 1)

    with pytest.raises(KitError, match="servekit-minilm is protected from deletion") as caught:
        account.run("destroy")
    assert "deletion_protection: false, then kit.py deploy ec2 minilm apply" in caught.value.hint
    assert account.run("apply", deletion_protection=False).document["state"] == "updated"
    capsys.readouterr()
    gone = account.run("destroy")
    assert gone.document["state"] == "destroyed"
    assert "the load balancer's access logs are yours to delete" in capsys.readouterr().err
    assert account.run("destroy").document["state"] == "nothing there"
    assert gone.document["left"][1] == "bucket my-models: the YAML names it"
    assert account.client("s3").list_objects_v2(Bucket="my-models")["KeyCount"] == 0


def test_a_dry_run_tells_every_call_and_makes_none(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    found = account.run("apply", dry_run=True, bucket=None)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(found.document["calls"]) == found.rows[0]["calls"]
    assert said[0].startswith('would call s3 CreateBucket {"Bucket": "servekit-123456789012-eu-west-1"')
    assert "would call cloudformation ExecuteChangeSet" in said[-1]
    assert found.document["calls"][-2]["request"]["TemplateBody"].startswith("{"), "whole in the document"
    there = [each["Name"] for each in account.client("s3").list_buckets()["Buckets"]]
    assert "servekit-123456789012-eu-west-1" not in there
    assert account.client("cloudformation").describe_stacks()["Stacks"] == []


def test_a_bucket_of_the_yaml_is_not_made(account: Account) -> None:
    with pytest.raises(KitError, match="not-there"):
        account.run("apply", bucket="not-there")


def test_what_is_missing_is_asked_for_before_aws_is(account: Account) -> None:
    config = model({"instance_type": "c7i.large"})
    for action in ("plan", "apply"):
        with pytest.raises(
            KitError, match="deploy.ec2 lacks vpc_id, subnets, certificate_arn, keys_arn, allowed_cidrs"
        ):
            ec2.run(config, action, account.build, emulated=False, dry_run=False, region=REGION)


def test_keys_and_images_that_are_not_there(account: Account) -> None:
    account.client("ssm").delete_parameter(Name=KEYS)
    with pytest.raises(KitError, match=r"deploy.ec2.keys_arn: .*/servekit/minilm/keys is not there") as caught:
        account.run("plan")
    assert "kit.py keys add" in caught.value.hint
    account.put_keys("[]")
    with pytest.raises(KitError, match=r"ECR has no .*servekit:neuronx"):
        account.run("plan", instance_type="inf2.8xlarge")


def test_a_secret_has_versions_too(account: Account) -> None:
    secret = account.client("secretsmanager").create_secret(Name="keys", SecretString="[]")
    found = account.run("plan", keys_arn=secret["ARN"])
    assert found.document["parameters"]["KeysVersion"] == secret["VersionId"]


def test_a_stack_that_is_not_whole_is_not_well(account: Account) -> None:
    topic = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}
    account.client("cloudformation").create_stack(StackName="servekit-minilm", TemplateBody=json.dumps(topic))
    assert account.run("status").failed == "servekit-minilm is CREATE_COMPLETE, and not whole"
    account.client("cloudformation").delete_stack(StackName="servekit-minilm")


def test_instances_that_never_speak_have_no_way_out(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Stack, request: object, say: object, listen: object) -> None:
        raise Failed("servekit-minilm is ROLLBACK_COMPLETE: Instances: Received 0 SUCCESS signal(s) out of 1")

    monkeypatch.setattr(Stack, "execute", fail)
    with pytest.raises(Failed, match="out of 1\nno instance has said anything: do its subnets reach AWS"):
        account.run("apply")
    account.client("cloudformation").delete_stack(StackName="servekit-minilm")


def test_no_stack(account: Account) -> None:
    with pytest.raises((KitError, Failed), match="there is no stack servekit-minilm"):
        account.run("status")
