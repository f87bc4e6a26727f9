"""Applying: only what is missing, twice nothing, a rollback told from a success, and what a failure leaves is gone on with.

SageMaker is scripted, every other service is moto.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import aws as aws_session
from deploy import sagemaker as front
from deploy.hosting import apply, changes, current, names, scaling, sdk, waiting
from deploy.hosting.apply import Applier
from deploy.hosting.archive import Manifest
from deploy.hosting.calls import Calls
from deploy.hosting.changes import Change
from deploy.hosting.destroy import Destroyed, destroy
from deploy.hosting.layout import of
from deploy.hosting.place import Place
from deploy.hosting.plan import Part, Plan, plan
from deploy.hosting.status import read as read_status
from deploy.hosting.steps import Step
from model_configs.errors import Failed, KitError
from model_configs.sagemaker import SageMaker
from tests.fakes.sagemaker_account import ACCOUNT, IMAGE, REGION, FakeAws, FakeSageMaker, account, manifest
from tests.fakes.sagemaker_configs import configured

PLACE = Place(ACCOUNT, REGION, has_tls=False)
ENDPOINT = "servekit-minilm"
SCALED = {"max_instances": 4, "concurrent_requests_per_model": 8}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    monkeypatch.setattr(apply, "EMULATED_POLL_S", 0)
    with account() as found:
        yield found


@pytest.fixture
def archive(tmp_path: Path) -> Manifest:
    return manifest(tmp_path / "archive", {"MAR-INF/servekit.json": b"{}", "model/weights": b"weights"})


class Deployment:
    """A model's section, applied to an account."""

    def __init__(self, aws: FakeAws, archive: Manifest) -> None:
        self.aws = aws
        self.archive = archive

    def plan(self, **section: Any) -> Plan:
        config = configured(**section)
        part = Part(self.archive, IMAGE)
        return plan(config, PLACE, part, part if "shadow" in section else None)

    def apply(self, **section: Any) -> list[str]:
        """What was done, without what was kept."""
        planned = self.plan(**section)
        return done(Applier(Calls(self.aws), planned.layout).apply(planned))

    def rollback(self, **section: Any) -> tuple[str, str]:
        return Applier(Calls(self.aws), of(configured(**section), PLACE)).rollback()

    def destroy(self, **section: Any) -> Destroyed:
        return destroy(Calls(self.aws), of(configured(**section), PLACE))

    @property
    def sagemaker(self) -> FakeSageMaker:
        found: FakeSageMaker = self.aws.sagemaker
        return found

    @property
    def config_name(self) -> str:
        return str(self.sagemaker.endpoints[ENDPOINT]["EndpointConfigName"])


@pytest.fixture
def deployment(aws: FakeAws, archive: Manifest) -> Deployment:
    return Deployment(aws, archive)


def done(found: list[Change]) -> list[str]:
    return [f"{change.verb} {change.step.operation}" for change in found if change.verb != "keep"]


def test_an_empty_account_gets_everything(deployment: Deployment) -> None:
    found = deployment.apply(autoscaling=SCALED)
    assert found == [f"make {step.operation}" for step in deployment.plan(autoscaling=SCALED).steps]
    s3 = deployment.aws.client("s3")
    prefix = deployment.plan().layout.archive_prefix(deployment.archive)
    listed = s3.list_objects_v2(Bucket=f"servekit-{ACCOUNT}-{REGION}", Prefix=prefix)["Contents"]
    assert [each["Key"].removeprefix(prefix) for each in listed] == ["MAR-INF/servekit.json", "model/weights"]


def test_twice_does_nothing_the_second_time(deployment: Deployment) -> None:
    section = {"autoscaling": SCALED, "update": {"rollback_on": {"model_latency_ms": {"p99": 100}}}}
    deployment.apply(**section)
    before = list(deployment.sagemaker.calls)
    assert deployment.apply(**section) == []
    assert deployment.sagemaker.calls == before


def test_what_somebody_changed_is_changed_back(deployment: Deployment) -> None:
    deployment.apply(autoscaling=SCALED)
    role = names.role(ENDPOINT, REGION)
    wider = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})
    deployment.aws.client("iam").put_role_policy(RoleName=role, PolicyName="servekit", PolicyDocument=wider)
    target = scaling.target(ENDPOINT)
    deployment.aws.client("application-autoscaling").register_scalable_target(**target, MinCapacity=1, MaxCapacity=9)
    cloudwatch, alarm = deployment.aws.client("cloudwatch"), deployment.plan().only("PutMetricAlarm")[0].request
    cloudwatch.put_metric_alarm(**{**alarm, "Threshold": 0.5})
    expected = ["change PutRolePolicy", "change PutMetricAlarm", "change RegisterScalableTarget"]
    assert deployment.apply(autoscaling=SCALED) == expected
    assert deployment.apply(autoscaling=SCALED) == []


def test_a_file_that_has_gone_is_sent_again(deployment: Deployment) -> None:
    deployment.apply()
    prefix = deployment.plan().layout.archive_prefix(deployment.archive)
    deployment.aws.client("s3").delete_object(Bucket=f"servekit-{ACCOUNT}-{REGION}", Key=f"{prefix}model/weights")
    assert deployment.apply() == ["make PutObject"]


def test_another_version_is_an_update_and_remembers_the_one_before(deployment: Deployment) -> None:
    deployment.apply()
    first = deployment.config_name
    deployment.sagemaker.course = ("Updating", "Updating", "InService")
    found = deployment.apply(env={"A": "1"})
    assert found == [
        "make CreateModel",
        "make CreateEndpointConfig",
        "make PutMetricAlarm",
        "change UpdateEndpoint",
        "remove DeleteAlarms",
    ]
    assert deployment.config_name != first
    arn = deployment.sagemaker.endpoints[ENDPOINT]["EndpointArn"]
    assert names.as_dict(deployment.sagemaker.tags[arn])[names.PREVIOUS_TAG] == first
    alarms = changes.alarm_names(Calls(deployment.aws), ENDPOINT)
    assert alarms == [f"{deployment.config_name}-error-rate"]


def test_an_update_that_is_rolled_back_fails_with_sagemakers_reason(deployment: Deployment) -> None:
    deployment.apply()
    first = deployment.config_name
    deployment.sagemaker.course = ("Updating", "RollingBack", "InService")
    deployment.sagemaker.rolls_back = "alarm went off"
    with pytest.raises(Failed, match=f"rolled back to {first}: alarm went off"):
        deployment.apply(env={"A": "1"})
    assert deployment.config_name == first
    deployment.sagemaker.course = ("Updating", "InService")
    assert "change UpdateEndpoint" in deployment.apply(env={"A": "1"})


def test_an_alarm_that_took_a_version_back_does_not_do_so_when_it_is_tried_again(deployment: Deployment) -> None:
    deployment.apply()
    deployment.sagemaker.course = ("Updating", "InService")
    deployment.sagemaker.rolls_back = "alarm went off"
    with pytest.raises(Failed):
        deployment.apply(env={"A": "1"})
    (alarm,) = [step.name for step in deployment.plan(env={"A": "1"}).only("PutMetricAlarm")]
    cloudwatch = deployment.aws.client("cloudwatch")
    cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="5xx")
    assert deployment.apply(env={"A": "1"})[:2] == ["remove DeleteAlarms", "make PutMetricAlarm"]
    (found,) = cloudwatch.describe_alarms(AlarmNames=[alarm])["MetricAlarms"]
    assert found["StateValue"] != "ALARM"
    cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="5xx")
    assert deployment.apply(env={"A": "1"}) == []


def test_an_old_reason_is_not_taken_for_a_new_one(deployment: Deployment) -> None:
    deployment.apply()
    deployment.sagemaker.course = ("Updating", "InService")
    deployment.sagemaker.rolls_back = "alarm went off"
    with pytest.raises(Failed):
        deployment.apply(env={"A": "1"})
    endpoint = dict(deployment.sagemaker.endpoints[ENDPOINT])
    answers = iter(
        [
            endpoint,
            endpoint | {"EndpointStatus": "Updating"},
            endpoint | {"EndpointConfigName": "new", "LastModifiedTime": 99},
        ]
    )
    found = waiting.arrived(lambda: next(answers), "new", endpoint, 10, 0, lambda line: None)
    assert found["EndpointConfigName"] == "new"


def test_an_endpoint_that_does_not_start(deployment: Deployment) -> None:
    logs, group = deployment.aws.client("logs"), names.log_group(ENDPOINT)
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="AllTraffic/i-1")
    event = {"timestamp": int(time.time() * 1000), "message": "no such file: weights\n"}
    logs.put_log_events(logGroupName=group, logStreamName="AllTraffic/i-1", logEvents=[event])
    deployment.sagemaker.fails = "The container did not pass the ping health check."
    with pytest.raises(Failed) as caught:
        deployment.apply()
    words = str(caught.value).splitlines()
    assert words[0] == f"{ENDPOINT} is Failed: The container did not pass the ping health check."
    assert words[1:] == [f"log group {group}", "  no such file: weights"]

    deployment.sagemaker.course = ("Creating", "InService")
    assert deployment.apply() == ["remove DeleteEndpoint", "make CreateEndpoint"]


def test_a_failed_endpoint_that_was_scaled_is_made_anew_with_its_scaling(deployment: Deployment) -> None:
    deployment.apply(autoscaling=SCALED)
    deployment.sagemaker.endpoints[ENDPOINT]["EndpointStatus"] = "Failed"
    assert deployment.apply(autoscaling=SCALED) == [
        "remove DeregisterScalableTarget",
        "remove DeleteEndpoint",
        "make CreateEndpoint",
        "make RegisterScalableTarget",
        "make PutScalingPolicy",
    ]


def test_a_run_that_stopped_halfway_is_gone_on_with(deployment: Deployment) -> None:
    deployment.sagemaker.refusals = ["Something else."]
    with pytest.raises(Failed, match="CreateModel servekit-minilm-[0-9a-f]{10}: Something else"):
        deployment.apply()
    found = deployment.apply()
    assert found[0] == "make CreateModel"


def test_a_role_that_is_not_known_everywhere_yet(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeAws, "emulated", property(lambda self: False))
    monkeypatch.setattr(apply, "POLL_S", 0)
    deployment.sagemaker.refusals = [
        "Could not assume role arn:aws:iam::1:role/x.",
        "Could not access model data at s3://x",
    ]
    planned = deployment.plan()
    applier = Applier(Calls(deployment.aws), planned.layout)
    assert "make CreateModel" in done(applier.apply(planned))
    monkeypatch.setattr(apply, "PROPAGATION_S", -1)
    deployment.sagemaker.refusals = ["Could not assume role arn:aws:iam::1:role/x."]
    with pytest.raises(Failed, match="Could not assume role"):
        applier.apply(deployment.plan(env={"A": "1"}))


def test_what_the_kit_did_not_make_is_left_alone(deployment: Deployment) -> None:
    request = deployment.plan().only("CreateModel")[0].request
    deployment.sagemaker.create_model(**request)
    config = deployment.plan().only("CreateEndpointConfig")[0].request
    deployment.sagemaker.create_endpoint_config(**config)
    deployment.sagemaker.create_endpoint(EndpointName=ENDPOINT, EndpointConfigName=config["EndpointConfigName"])
    with pytest.raises(KitError, match="there is an endpoint servekit-minilm, and the kit did not make it"):
        deployment.apply()
    with pytest.raises(KitError, match="the kit did not make it"):
        deployment.destroy()


def test_a_role_of_the_same_name_that_the_kit_did_not_make(deployment: Deployment) -> None:
    role = names.role(ENDPOINT, REGION)
    deployment.aws.client("iam").create_role(RoleName=role, AssumeRolePolicyDocument="{}")
    with pytest.raises(KitError, match=f"there is a role {role}, and the kit did not make it"):
        deployment.apply()
    assert "remove DeleteRole" not in done(deployment.destroy().removed)


def test_a_bucket_that_the_yaml_names_has_to_be_there(deployment: Deployment) -> None:
    with pytest.raises(KitError, match="there is no bucket models"):
        deployment.apply(bucket="models")
    deployment.aws.client("s3").create_bucket(Bucket="models", CreateBucketConfiguration={"LocationConstraint": REGION})
    assert "make CreateBucket" not in deployment.apply(bucket="models")


def test_dry_makes_no_call_and_prints_each(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    planned = deployment.plan(autoscaling=SCALED)
    found = Applier(Calls(deployment.aws, dry_run=True), planned.layout).apply(planned)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("would call")]
    assert [line.split()[3] for line in printed] == [step.operation for step in planned.steps]
    assert json.loads(printed[0].partition("CreateBucket ")[2]) == planned.steps[0].request
    assert len(found) == len(planned.steps)
    assert deployment.sagemaker.calls == []
    assert deployment.aws.client("s3").list_buckets()["Buckets"] == []


def test_scaling_makes_way_for_another_instance_type(deployment: Deployment) -> None:
    """SageMaker refuses to change the type of what is scaled."""
    deployment.apply(autoscaling=SCALED)
    deployment.sagemaker.course = ("Updating", "InService")
    found = deployment.apply(autoscaling=SCALED, instance_type="ml.m7i.large")
    assert found[2:] == [
        "remove DeregisterScalableTarget",
        "change UpdateEndpoint",
        "make RegisterScalableTarget",
        "make PutScalingPolicy",
        "remove DeleteAlarms",
    ]
    assert current.is_scaled(Calls(deployment.aws), ENDPOINT)


def test_scaling_comes_back_when_such_an_update_is_rolled_back(deployment: Deployment) -> None:
    deployment.apply(autoscaling=SCALED)
    deployment.sagemaker.course = ("Updating", "InService")
    deployment.sagemaker.rolls_back = "alarm went off"
    with pytest.raises(Failed):
        deployment.apply(autoscaling=SCALED, instance_type="ml.m7i.large")
    assert current.is_scaled(Calls(deployment.aws), ENDPOINT)


def test_scaling_that_the_yaml_no_longer_asks_for(deployment: Deployment) -> None:
    deployment.apply(autoscaling=SCALED)
    assert deployment.apply() == ["remove DeregisterScalableTarget"]


def test_an_asynchronous_endpoints_alarm_sets_off_its_policy(deployment: Deployment) -> None:
    section = {
        "async_inference": {},
        "autoscaling": {"min_instances": 0, "max_instances": 2, "backlog_per_instance": 4},
    }
    deployment.apply(**section)
    policies = deployment.aws.client("application-autoscaling").describe_scaling_policies(ServiceNamespace="sagemaker")
    arns = {each["PolicyName"]: each["PolicyARN"] for each in policies["ScalingPolicies"]}
    alarm = scaling.from_zero_name(ENDPOINT)
    (found,) = deployment.aws.client("cloudwatch").describe_alarms(AlarmNames=[alarm])["MetricAlarms"]
    assert found["AlarmActions"] == [arns[alarm]]
    assert deployment.apply(**section) == []
    deployment.aws.client("cloudwatch").delete_alarms(AlarmNames=[alarm])
    assert deployment.apply(**section) == ["make PutMetricAlarm"]
    (found,) = deployment.aws.client("cloudwatch").describe_alarms(AlarmNames=[alarm])["MetricAlarms"]
    assert found["AlarmActions"] == [arns[alarm]]


def test_rollback_goes_back_and_forth(deployment: Deployment) -> None:
    with pytest.raises(KitError, match="there is no endpoint"):
        deployment.rollback()
    deployment.apply()
    first = deployment.config_name
    with pytest.raises(KitError, match="has no version to go back to"):
        deployment.rollback()
    deployment.sagemaker.course = ("Updating", "InService")
    deployment.apply(env={"A": "1"})
    second = deployment.config_name
    assert deployment.rollback() == (first, second)
    assert deployment.config_name == first
    assert deployment.rollback() == (second, first)


def test_rollback_to_another_instance_type(deployment: Deployment) -> None:
    deployment.apply(autoscaling=SCALED)
    deployment.sagemaker.course = ("Updating", "InService")
    deployment.apply(autoscaling=SCALED, instance_type="ml.m7i.large")
    deployment.rollback(autoscaling=SCALED, instance_type="ml.m7i.large")
    assert current.is_scaled(Calls(deployment.aws), ENDPOINT)


def test_destroy_leaves_nothing(deployment: Deployment) -> None:
    section: dict[str, Any] = {"autoscaling": SCALED, "shadow": {"env": {"A": "2"}}}
    deployment.apply(**section)
    deployment.sagemaker.course = ("Updating", "InService")
    deployment.apply(**section, env={"A": "1"})
    bucket, prefix = f"servekit-{ACCOUNT}-{REGION}", deployment.plan().layout.archives
    deployment.aws.client("s3").create_multipart_upload(Bucket=bucket, Key=f"{prefix}x")
    deployment.aws.client("logs").create_log_group(logGroupName=names.log_group(ENDPOINT))
    found = deployment.destroy(**section)
    assert found.left == []
    assert (deployment.sagemaker.models, deployment.sagemaker.configs, deployment.sagemaker.endpoints) == ({}, {}, {})
    assert deployment.aws.client("s3").list_buckets()["Buckets"] == []
    assert deployment.aws.client("iam").list_roles()["Roles"] == []
    assert deployment.aws.client("cloudwatch").describe_alarms()["MetricAlarms"] == []
    assert not current.is_scaled(Calls(deployment.aws), ENDPOINT)
    assert deployment.aws.client("logs").describe_log_groups()["logGroups"] == []
    assert done(deployment.destroy(**section).removed) == []


def test_destroy_after_an_apply_that_stopped_halfway(deployment: Deployment) -> None:
    deployment.sagemaker.refusals = ["Something else."]
    with pytest.raises(Failed):
        deployment.apply()
    assert deployment.destroy().left == []
    assert deployment.aws.client("s3").list_buckets()["Buckets"] == []
    assert deployment.aws.client("iam").list_roles()["Roles"] == []


def test_destroy_leaves_what_is_not_the_kits_and_says_so(deployment: Deployment) -> None:
    s3 = deployment.aws.client("s3")
    s3.create_bucket(Bucket="models", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    role = f"arn:aws:iam::{ACCOUNT}:role/mine"
    section = {"bucket": "models", "role": role, "data_capture": {}}
    deployment.apply(**section)
    s3.put_object(Bucket="models", Key="servekit/servekit-minilm/capture/1.jsonl", Body=b"")
    left = deployment.destroy(**section).left
    assert left == [
        f"role {role}: the YAML names it",
        "s3://models/servekit/servekit-minilm/capture/: what the endpoint wrote is yours to delete",
        "bucket models: the YAML names it",
    ]
    versions = s3.list_object_versions(Bucket="models")
    assert [each["Key"] for each in versions["Versions"]] == ["servekit/servekit-minilm/capture/1.jsonl"]


def test_destroy_leaves_a_neighbours_archives_and_versions(deployment: Deployment) -> None:
    deployment.apply()
    deployment.apply(endpoint_name="servekit-minilm-staging")
    left = deployment.destroy().left
    assert left == [f"bucket servekit-{ACCOUNT}-{REGION}: something else is in it"]
    assert list(deployment.sagemaker.endpoints) == ["servekit-minilm-staging"]
    assert len(deployment.sagemaker.models) == len(deployment.sagemaker.configs) == 1
    assert deployment.destroy(endpoint_name="servekit-minilm-staging").left == []
    assert deployment.aws.client("s3").list_buckets()["Buckets"] == []


def test_dry_destroy_removes_nothing(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    deployment.apply(autoscaling=SCALED)
    capsys.readouterr()
    found = destroy(Calls(deployment.aws, dry_run=True), of(configured(), PLACE))
    printed = [line.split()[3] for line in capsys.readouterr().out.splitlines() if line.startswith("would call")]
    assert printed == [change.step.operation for change in found.removed]
    assert {"DeregisterScalableTarget", "DeleteEndpoint", "DeleteModel", "DeleteRole", "DeleteBucket"} <= set(printed)
    assert ENDPOINT in deployment.sagemaker.endpoints
    assert len(deployment.aws.client("s3").list_buckets()["Buckets"]) == 1


def test_status(deployment: Deployment) -> None:
    calls, layout = Calls(deployment.aws), of(configured(autoscaling=SCALED), PLACE)
    nothing = read_status(calls, layout)
    assert (nothing.rows, nothing.problem) == ([], "there is no endpoint servekit-minilm")
    deployment.apply(autoscaling=SCALED)
    variant = {"VariantName": "AllTraffic", "CurrentInstanceCount": 1, "DesiredInstanceCount": 2, "CurrentWeight": 1.0}
    deployment.sagemaker.endpoints[ENDPOINT]["ProductionVariants"] = [
        variant | {"VariantStatus": [{"Status": "Baking"}]}
    ]
    found = read_status(calls, layout)
    assert found.problem == ""
    assert found.document["configuration"] == deployment.config_name
    assert found.document["autoscaling"] == {"min": 1, "max": 4, "policies": [f"{ENDPOINT}-tracking"]}
    assert found.document["alarms"] == {f"{deployment.config_name}-error-rate": "OK"}
    assert [(row["what"], row["state"]) for row in found.rows] == [
        ("endpoint", "InService"),
        ("configuration", "in use"),
        ("variant", "Baking"),
        ("alarm", "OK"),
        ("autoscaling", "on"),
    ]
    deployment.sagemaker.endpoints[ENDPOINT] |= {"EndpointStatus": "Failed", "FailureReason": "no disk"}
    assert read_status(calls, layout).problem == "servekit-minilm is Failed: no disk"


def test_an_endpoint_that_neither_serves_nor_failed(deployment: Deployment) -> None:
    deployment.apply()
    deployment.sagemaker.endpoints[ENDPOINT] |= {"EndpointStatus": "UpdateRollbackFailed", "FailureReason": "both"}
    with pytest.raises(Failed, match="servekit-minilm is UpdateRollbackFailed: both"):
        deployment.apply(env={"A": "1"})


def test_the_sdk_cannot_do_everything(deployment: Deployment, tmp_path: Path) -> None:
    planned = deployment.plan()
    with pytest.raises(KitError, match="the SageMaker SDK is not in") as caught:
        sdk.check(planned, [], tmp_path / "bin" / "python")
    assert caught.value.hint == "make .venv/sagemaker/.installed"
    with pytest.raises(KitError, match="knows no canary"):
        sdk.check(planned, [Change("change", planned.update)], tmp_path)
    with pytest.raises(KitError, match="knows no shadow variant"):
        sdk.check(deployment.plan(shadow={}), [], tmp_path)


def test_the_sdks_own_words_when_it_fails(deployment: Deployment, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ModuleNotFoundError: sagemaker' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(Failed, match="ModuleNotFoundError: sagemaker"):
        sdk.deploy(deployment.plan(), deployment.aws, python)


def test_the_sdk_is_led_to_the_emulator_and_to_nothing_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    environment = sdk.environment(FakeAws(None, REGION, "http://127.0.0.1:21002"))
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:21002"
    assert "AWS_PROFILE" not in environment
    assert sdk.environment(FakeAws(None, REGION))["AWS_PROFILE"] == "production"


def test_how_long_is_waited() -> None:
    plain = SageMaker(instance_type="ml.c7i.large")
    assert waiting.start_timeout_s(plain) == 1800 + 1200 + 480
    rolling = SageMaker.model_validate(
        {"instance_type": "ml.c7i.large", "instance_count": 4, "update": {"strategy": "rolling", "size_percent": 50}}
    )
    assert waiting.update_timeout_s(rolling) == 2 * (2 * waiting.start_timeout_s(plain) + 300)
    limited = SageMaker.model_validate({"instance_type": "ml.c7i.large", "update": {"max_execution_s": 900}})
    assert waiting.update_timeout_s(limited) == 1800


def test_waiting_ends() -> None:
    endpoint = {"EndpointName": "e", "EndpointStatus": "Creating"}
    said: list[str] = []
    with pytest.raises(Failed, match="after -1 s still: Creating"):
        waiting.settled(lambda: endpoint, -1, 0, said.append)
    assert said == ["Creating"]


def test_an_endpoint_that_is_not_known_everywhere_yet() -> None:
    made = {"EndpointName": "e", "EndpointStatus": "InService", "EndpointConfigName": "c", "LastModifiedTime": 1}
    answers = iter([None, made])
    said: list[str] = []
    assert waiting.arrived(lambda: next(answers), "c", None, 10, 0, said.append) == made
    assert said == ["not there yet"]


def test_an_endpoint_that_somebody_deletes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SEEN_S", -1)
    with pytest.raises(Failed, match="is not there any more"):
        waiting.arrived(lambda: None, "c", None, 10, 0, lambda line: None)


def test_what_is_said_while_waiting() -> None:
    variant = {"VariantName": "AllTraffic", "CurrentInstanceCount": 1, "DesiredInstanceCount": 2}
    new = variant | {"VariantStatus": [{"Status": "Baking"}]}
    endpoint = {
        "EndpointStatus": "Updating",
        "ProductionVariants": [variant],
        "PendingDeploymentSummary": {"ProductionVariants": [new]},
    }
    assert waiting.progress(endpoint) == "Updating; new: 1 of 2 instances, Baking; now: 1 of 2 instances"


@pytest.mark.parametrize(
    ("wanted", "there", "is_covered"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": {"b": [1]}}, {"a": {"b": [1], "c": 0}}, True),
        ([1], [1, 2], False),
        ({"a": 1}, None, False),
        ('{"a": 1}', {"a": 1}, True),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', True),
        ('{"a": 1}', '{"a": 2}', False),
    ],
)
def test_what_covers_what(wanted: Any, there: Any, is_covered: bool) -> None:
    assert current.covers(wanted, there) == is_covered


def test_the_front_updates_only_what_is_there(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_session, "session", lambda emulated, region: deployment.aws)
    monkeypatch.setattr(front, "read", lambda folder: deployment.archive)
    options: dict[str, Any] = {"emulated": False, "dry_run": False, "via": "boto3", "region": None}
    with pytest.raises(KitError, match="there is no endpoint servekit-minilm") as caught:
        front.run(configured(), "update", lambda config, archive_format: Path(), **options)
    assert caught.value.hint == "apply makes it"
    planned = front.run(configured(), "plan", lambda config, archive_format: Path(), **options)
    assert {row[""] for row in planned.rows} == {"make"}
    assert planned.document["changes"][0]["verb"] == "make"
    assert deployment.sagemaker.calls == []
    status = front.run(configured(), "status", lambda config, archive_format: Path(), **options)
    assert status.failed == "there is no endpoint servekit-minilm"


def test_refusals_in_words() -> None:
    with account() as aws:
        calls = Calls(aws)
        with pytest.raises(Failed, match="iam DeleteRole nobody: "):
            calls.make(Step("iam", "DeleteRole", {"RoleName": "nobody"}, ""))
