"""A plan is a pure function: the same names and requests for the same input, each of which AWS's own model allows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy import service_model
from deploy.hosting import images, names
from deploy.hosting.archive import ArchiveFile, Manifest
from deploy.hosting.place import Place
from deploy.hosting.plan import Part, Plan, advice, plan
from deploy.hosting.steps import Step, problems
from model_configs.errors import KitError
from model_configs.gateway import GatewaySettings
from model_configs.schema import AnyModelConfig, load_model
from tests.fakes.sagemaker_account import ACCOUNT, IMAGE, REGION
from tests.fakes.sagemaker_configs import changed, configured

PLACE = Place(ACCOUNT, REGION)
FILES = (ArchiveFile("MAR-INF/servekit.json", 10, "a" * 64), ArchiveFile("model/weights", 40 << 30, "b" * 64))
PART = Part(Manifest(Path("/store/minilm"), FILES), IMAGE)
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:done"
SCALED = {"max_instances": 4, "concurrent_requests_per_model": 8}
SECTIONS: dict[str, dict[str, Any]] = {
    "least": {},
    "own bucket and role": {"bucket": "models", "prefix": "a/b/", "role": "endpoints", "endpoint_name": "search"},
    "network": {"vpc": {"subnets": ["subnet-1"], "security_groups": ["sg-1"]}, "network_isolation": True},
    "key": {"kms_key_id": "alias/models", "data_capture": {}, "async_inference": {}},
    "capture": {"data_capture": {"sampling_percent": 5, "s3_uri": "s3://captured/here", "capture": ["input"]}},
    "shadow": {
        "shadow": {"instance_type": "ml.m7i.large", "sampling_percent": 25, "env": {"A": "2"}},
        "env": {"A": "1"},
    },
    "async": {
        "async_inference": {"success_topic": TOPIC, "error_topic": TOPIC, "max_concurrent_per_instance": 4},
        "autoscaling": {"min_instances": 0, "max_instances": 4, "backlog_per_instance": 2},
    },
    "canary": {"instance_count": 2, "update": {"strategy": "canary", "size_percent": 50}},
    "linear": {"instance_count": 4, "update": {"strategy": "linear", "size_instances": 1, "max_execution_s": 7200}},
    "rolling": {
        "instance_count": 4,
        "autoscaling": SCALED,
        "update": {"strategy": "rolling", "size_percent": 25, "rollback_size_percent": 50},
    },
    "no alarms": {"update": {"rollback_on": None}},
    "everything": {
        "volume_size_gb": 100,
        "model_data_download_timeout_s": 900,
        "container_startup_timeout_s": 900,
        "env": {"TS_JOB_QUEUE_SIZE": "10"},
        "routing": "random",
        "tags": {"team": "search"},
        "autoscaling": SCALED,
        "update": {"rollback_on": {"model_latency_ms": {"p99": 500, "average": 100}, "alarms": ["mine"]}},
    },
}


def planned(config: AnyModelConfig, part: Part = PART, place: Place = PLACE) -> Plan:
    """A shadow runs the same archive."""
    assert config.deploy is not None
    assert config.deploy.sagemaker is not None
    return plan(config, place, part, part if config.deploy.sagemaker.shadow else None)


def request(found: Plan, operation: str, number: int = 0) -> dict[str, Any]:
    return found.only(operation)[number].request


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
def test_every_request_is_one_that_botocores_model_allows(section: dict[str, Any]) -> None:
    found = planned(configured(**section))
    for step in (*found.steps, found.update):
        assert service_model.problems(step.service, step.operation, step.request) == []
        assert step.why
        assert step.name


@pytest.mark.parametrize("name", ["llama-2-13b-inf2", "llama-2-7b-inf2", "minilm", "pydoc-llama"])
def test_the_kits_own_models_have_plans(name: str) -> None:
    assert planned(load_model(name)).only("CreateEndpoint")


def test_the_same_input_gives_the_same_plan() -> None:
    assert planned(configured()).document() == planned(configured()).document()
    elsewhere = Part(Manifest(Path("/another/folder"), FILES), IMAGE)
    assert planned(configured(), elsewhere).document() == planned(configured()).document()


@given(st.dictionaries(st.from_regex("[A-Z]{1,3}", fullmatch=True), st.text(max_size=3), max_size=4))
@settings(max_examples=30)
def test_names_follow_from_content(env: dict[str, str]) -> None:
    one, other = planned(configured(env=env)), planned(configured(env=env | {"ANOTHER": ""}))
    assert one.layout.endpoint == other.layout.endpoint
    assert one.config_name != other.config_name
    assert one.config_name == planned(configured(env=dict(reversed(env.items())))).config_name


def test_another_archive_lies_elsewhere_and_is_another_version() -> None:
    more = Part(Manifest(PART.manifest.folder, (*FILES, ArchiveFile("x", 1, "c" * 64))), IMAGE)
    one, other = planned(configured()), planned(configured(), more)
    uris = [
        request(each, "CreateModel")["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3Uri"]
        for each in (one, other)
    ]
    assert uris[0] != uris[1]
    assert one.config_name != other.config_name


def test_tags_and_update_policies_make_no_version() -> None:
    plain = planned(configured(instance_count=2))
    assert planned(configured(instance_count=2, tags={"team": "x"})).config_name == plain.config_name
    assert planned(configured(instance_count=2, update={"wait_s": 0})).config_name == plain.config_name


def test_the_order_is_that_of_who_needs_whom() -> None:
    found = [step.operation for step in planned(configured(autoscaling=SCALED)).steps]
    order = ["CreateBucket", "CreateRole", "PutRolePolicy", "PutObject", "CreateModel", "CreateEndpointConfig"]
    order += ["PutMetricAlarm", "CreateEndpoint", "RegisterScalableTarget", "PutScalingPolicy"]
    assert sorted(order, key=found.index) == order


def test_the_articles_endpoint() -> None:
    found = planned(load_model("llama-2-13b-inf2"))
    (variant,) = request(found, "CreateEndpointConfig")["ProductionVariants"]
    assert variant == {
        "VariantName": "AllTraffic",
        "ModelName": request(found, "CreateModel")["ModelName"],
        "InstanceType": "ml.inf2.24xlarge",
        "InitialInstanceCount": 1,
        "InitialVariantWeight": 1.0,
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        "VolumeSizeInGB": 512,
        "ModelDataDownloadTimeoutInSeconds": 3600,
        "ContainerStartupHealthCheckTimeoutInSeconds": 600,
    }
    source = request(found, "CreateModel")["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]
    assert (source["S3DataType"], source["CompressionType"]) == ("S3Prefix", "None")
    assert source["S3Uri"].endswith("/")


def with_gateway(mirror: dict[str, Any] | None = None, **section: Any) -> AnyModelConfig:
    config = configured(**section)
    assert config.deploy is not None
    gateway = GatewaySettings.model_validate({"max_body_bytes": 1 << 20, **({"mirror": mirror} if mirror else {})})
    return config.model_copy(update={"deploy": config.deploy.model_copy(update={"gateway": gateway})})


def test_the_container_is_told_what_the_yaml_says_of_its_gateway() -> None:
    env = request(planned(with_gateway(env={"A": "1"})), "CreateModel")["PrimaryContainer"]["Environment"]
    assert env == {"A": "1", "SERVEKIT_GATEWAY": '{"max_body_bytes": 1048576}'}
    assert request(planned(configured()), "CreateModel")["PrimaryContainer"]["Environment"] == {}


def test_a_mirror_that_a_container_cannot_reach() -> None:
    mirror = {"url": "https://candidate.example/v1"}
    assert planned(with_gateway(mirror))
    with pytest.raises(KitError, match="network_isolation lets the container reach nothing"):
        planned(with_gateway(mirror, network_isolation=True))
    with pytest.raises(KitError, match=r"deploy\.gateway\.mirror\.key_file: keys/candidate is in no container"):
        planned(with_gateway(mirror | {"key_file": "keys/candidate"}))


def test_files_go_with_their_sums() -> None:
    found = planned(configured())
    first, second = found.only("PutObject")
    assert first.request["Key"].endswith("/MAR-INF/servekit.json")
    assert second.request["Metadata"] == {"sha256": "b" * 64}
    assert second.request["ContentLength"] == 40 << 30
    assert all(step.request["ExpectedBucketOwner"] == ACCOUNT for step in (first, second))
    encrypted = request(planned(configured(kms_key_id="k")), "PutObject")
    assert (encrypted["ServerSideEncryption"], encrypted["SSEKMSKeyId"]) == ("aws:kms", "k")


def test_the_kits_bucket_is_closed_and_its_own_is_left_alone() -> None:
    found = planned(configured())
    assert request(found, "CreateBucket")["CreateBucketConfiguration"] == {"LocationConstraint": REGION}
    assert all(request(found, "PutPublicAccessBlock")["PublicAccessBlockConfiguration"].values())
    assert "aws:SecureTransport" in request(found, "PutBucketPolicy")["Policy"]
    assert "CreateBucketConfiguration" not in request(
        planned(configured(), Part(PART.manifest, IMAGE.replace(REGION, "us-east-1")), Place(ACCOUNT, "us-east-1")),
        "CreateBucket",
    )
    assert planned(configured(bucket="models")).only("CreateBucket", "PutBucketPolicy") == []
    assert planned(configured(role="mine")).only("CreateRole", "PutRolePolicy") == []


def test_a_roles_name_becomes_its_arn() -> None:
    assert request(planned(configured(role="mine")), "CreateModel")["ExecutionRoleArn"] == (
        f"arn:aws:iam::{ACCOUNT}:role/mine"
    )
    arn = f"arn:aws:iam::{ACCOUNT}:role/team/mine"
    assert request(planned(configured(role=arn)), "CreateModel")["ExecutionRoleArn"] == arn


def test_a_shadow_gets_copies() -> None:
    found = planned(configured(**SECTIONS["shadow"]))
    config = request(found, "CreateEndpointConfig")
    (shadow,) = config["ShadowProductionVariants"]
    assert (shadow["VariantName"], shadow["InstanceType"]) == ("Shadow", "ml.m7i.large")
    assert (shadow["InitialVariantWeight"], config["ProductionVariants"][0]["InitialVariantWeight"]) == (0.25, 1.0)
    assert [step.request["PrimaryContainer"]["Environment"]["A"] for step in found.only("CreateModel")] == ["1", "2"]


def test_a_shadow_of_the_same_model_is_made_once() -> None:
    found = planned(configured(shadow={"instance_type": "ml.m7i.large"}))
    assert len(found.only("CreateModel")) == 1
    assert len(found.only("PutObject")) == len(FILES)


def test_captured_data_lies_beside_the_archives_unless_the_yaml_says_where() -> None:
    capture = request(planned(configured(data_capture={})), "CreateEndpointConfig")["DataCaptureConfig"]
    assert capture["DestinationS3Uri"] == f"s3://servekit-{ACCOUNT}-{REGION}/servekit/servekit-minilm/capture/"
    assert capture["CaptureOptions"] == [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}]
    own = request(planned(configured(**SECTIONS["capture"])), "CreateEndpointConfig")["DataCaptureConfig"]
    assert (own["DestinationS3Uri"], own["InitialSamplingPercentage"]) == ("s3://captured/here", 5)


def test_alarms_watch_the_new_fleet_alone() -> None:
    found = planned(configured(**SECTIONS["everything"]))
    alarms = {step.name.removeprefix(f"{found.config_name}-"): step.request for step in found.only("PutMetricAlarm")}
    assert set(alarms) == {"error-rate", "latency-p99", "latency-average"}
    for alarm in alarms.values():
        assert {"Name": "EndpointConfigName", "Value": found.config_name} in alarm["Dimensions"]
        assert alarm["TreatMissingData"] == "notBreaching"
    assert (alarms["error-rate"]["MetricName"], alarms["error-rate"]["Statistic"]) == ("Invocation5XXErrors", "Average")
    assert (alarms["latency-p99"]["Threshold"], alarms["latency-p99"]["ExtendedStatistic"]) == (500_000, "p99")
    assert (alarms["latency-average"]["Threshold"], alarms["latency-average"]["Statistic"]) == (100_000, "Average")
    watched = found.update.request["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert {alarm["AlarmName"] for alarm in watched} == {step.name for step in found.only("PutMetricAlarm")} | {"mine"}
    assert (
        "AutoRollbackConfiguration"
        not in planned(configured(**SECTIONS["no alarms"])).update.request["DeploymentConfig"]
    )


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("least", {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 300}),
        (
            "canary",
            {"Type": "CANARY", "WaitIntervalInSeconds": 300, "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50}},
        ),
        (
            "linear",
            {"Type": "LINEAR", "WaitIntervalInSeconds": 300, "LinearStepSize": {"Type": "INSTANCE_COUNT", "Value": 1}},
        ),
    ],
)
def test_how_traffic_moves(section: str, expected: dict[str, Any]) -> None:
    policy = planned(configured(**SECTIONS[section])).update.request["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    assert policy["TrafficRoutingConfiguration"] == expected
    assert policy.get("MaximumExecutionTimeoutInSeconds") == (7200 if section == "linear" else None)


def test_a_rolling_update_is_another_policy() -> None:
    found = planned(configured(**SECTIONS["rolling"])).update.request
    policy = found["DeploymentConfig"]["RollingUpdatePolicy"]
    assert policy["MaximumBatchSize"] == {"Type": "CAPACITY_PERCENT", "Value": 25}
    assert policy["RollbackMaximumBatchSize"] == {"Type": "CAPACITY_PERCENT", "Value": 50}
    assert "BlueGreenUpdatePolicy" not in found["DeploymentConfig"]


def test_an_update_keeps_the_number_of_instances_that_autoscaling_has_set() -> None:
    kept = planned(configured(autoscaling=SCALED)).update.request
    assert kept["RetainAllVariantProperties"] is True
    assert "RetainAllVariantProperties" not in planned(configured()).update.request


def test_streams_are_scaled_by_requests_in_flight() -> None:
    found = planned(load_model("pydoc-llama"))
    policy = request(found, "PutScalingPolicy")["TargetTrackingScalingPolicyConfiguration"]
    assert policy["PredefinedMetricSpecification"] == {
        "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
    }
    assert request(found, "RegisterScalableTarget")["ResourceId"] == "endpoint/servekit-pydoc-llama/variant/AllTraffic"


def test_other_targets() -> None:
    scaling = {"max_instances": 4, "invocations_per_instance": 70}
    policy = request(planned(configured(autoscaling=scaling)), "PutScalingPolicy")
    assert policy["TargetTrackingScalingPolicyConfiguration"]["PredefinedMetricSpecification"] == {
        "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
    }


def test_an_asynchronous_endpoint_comes_up_from_no_instance() -> None:
    found = planned(configured(**SECTIONS["async"]))
    tracking, step = found.only("PutScalingPolicy")
    metric = tracking.request["TargetTrackingScalingPolicyConfiguration"]["CustomizedMetricSpecification"]
    assert metric["MetricName"] == "ApproximateBacklogSizePerInstance"
    assert step.request["PolicyType"] == "StepScaling"
    assert found.steps[-1].request["MetricName"] == "HasBacklogWithoutCapacity"
    output = request(found, "CreateEndpointConfig")["AsyncInferenceConfig"]["OutputConfig"]
    assert output["S3OutputPath"].endswith("/async/output/")
    assert output["NotificationConfig"] == {"SuccessTopic": TOPIC, "ErrorTopic": TOPIC}


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("docker.io/servekit:cpu", "image_uri: docker.io/servekit:cpu is not in ECR"),
        (IMAGE.replace(REGION, "us-east-1"), "is in us-east-1, and SageMaker pulls from eu-west-1 only"),
    ],
)
def test_an_image_that_sagemaker_cannot_pull(image: str, expected: str) -> None:
    with pytest.raises(KitError, match=re.escape(expected)):
        planned(configured(), Part(PART.manifest, image))


def test_an_archive_that_cannot_be_laid_out() -> None:
    files = (ArchiveFile("a", 1, "a" * 64), ArchiveFile("a/b", 1, "a" * 64))
    with pytest.raises(KitError, match="a: is a file and a folder"):
        planned(configured(), Part(Manifest(Path(), files), IMAGE))


def test_a_yaml_without_sagemaker() -> None:
    with pytest.raises(KitError, match="digits says nothing of SageMaker") as caught:
        plan(load_model("digits"), PLACE, PART)
    assert "digits.yaml" in caught.value.hint


def test_what_is_compiled_here_does_not_run_there() -> None:
    assert advice(configured(), "x86_64") == []
    (line,) = advice(configured(instance_type="ml.c7g.large"), "x86_64")
    assert "what aot compiled here (x86_64) does not run on ml.c7g.large" in line
    assert advice(configured(instance_type="ml.c7g.large"), "aarch64") == []
    assert advice(changed("pydoc-llama"), "aarch64") == []


def test_partitions() -> None:
    china = Place(ACCOUNT, "cn-north-1", "aws-cn")
    assert china.dns_suffix == "amazonaws.com.cn"
    found = planned(
        configured(), Part(PART.manifest, images.default_uri(ACCOUNT, "cn-north-1", china.dns_suffix, "cpu")), china
    )
    assert request(found, "CreateModel")["ExecutionRoleArn"].startswith("arn:aws-cn:iam::")


def test_the_document_is_json_and_has_every_request() -> None:
    found = planned(configured(**SECTIONS["everything"]))
    document = json.loads(json.dumps(found.document()))
    assert [each["operation"] for each in document["calls"]] == [step.operation for step in found.steps]
    assert set(document["iam"]) == {"execution", "deployer", "client"}


MODEL = {"ModelName": "m", "PrimaryContainer": {"Image": IMAGE}}
VARIANT = {"VariantName": "v", "ModelName": "m", "InstanceType": "ml.c7i.large", "InitialInstanceCount": 1}
CONFIG = {"EndpointConfigName": "c", "ProductionVariants": [VARIANT]}
UPDATE = {"EndpointName": "e", "EndpointConfigName": "c"}
HALF = {"Type": "CAPACITY_PERCENT", "Value": 50}


def blue_green(**routing: Any) -> dict[str, Any]:
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": {"WaitIntervalInSeconds": 0, **routing}}}


@pytest.mark.parametrize(
    ("operation", "wrong", "expected"),
    [
        ("CreateModel", {"ModelName": "a_b"}, "ModelName: 'a_b' must satisfy regular expression"),
        ("CreateModel", {"ModelName": "a" * 64}, "ModelName: length 64 must be at most 63"),
        (
            "CreateModel",
            {"Tags": [{"Key": str(n), "Value": ""} for n in range(51)]},
            "Tags: length 51 must be at most 50",
        ),
        (
            "CreateModel",
            {"PrimaryContainer": {"Image": IMAGE, "Environment": {f"A{n}": "x" * 1000 for n in range(40)}}},
            "PrimaryContainer.Environment: names and values of all variables are",
        ),
        (
            "CreateModel",
            {
                "PrimaryContainer": {
                    "Image": IMAGE,
                    "Mode": "MultiModel",
                    "ModelDataSource": {
                        "S3DataSource": {"S3Uri": "s3://b/p", "S3DataType": "S3Prefix", "CompressionType": "None"}
                    },
                }
            },
            "S3Uri: s3://b/p must end in /",
        ),
        ("CreateEndpointConfig", {"ProductionVariants": []}, "ProductionVariants: length 0 must be at least 1"),
        (
            "CreateEndpointConfig",
            {"ProductionVariants": [VARIANT | {"InstanceType": "ml.c7i.tiny"}]},
            "InstanceType: 'ml.c7i.tiny' must be one of",
        ),
        (
            "CreateEndpointConfig",
            {"ProductionVariants": [VARIANT | {"VolumeSizeInGB": 513}]},
            "VolumeSizeInGB: value 513 must be at most 512",
        ),
        (
            "CreateEndpointConfig",
            {"ShadowProductionVariants": [VARIANT | {"VariantName": "s"}, VARIANT | {"VariantName": "t"}]},
            "ShadowProductionVariants: one goes with exactly one of ProductionVariants",
        ),
        (
            "CreateEndpointConfig",
            {
                "ShadowProductionVariants": [VARIANT],
                "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/p"}},
            },
            "ShadowProductionVariants: AsyncInferenceConfig excludes them",
        ),
        ("CreateEndpointConfig", {"ShadowProductionVariants": [VARIANT]}, "a name stands twice in v, v"),
        ("UpdateEndpoint", {"DeploymentConfig": {}}, "exactly one of BlueGreenUpdatePolicy and RollingUpdatePolicy"),
        (
            "UpdateEndpoint",
            {"DeploymentConfig": blue_green(Type="CANARY")},
            "CanarySize: goes with Type CANARY, and only with it",
        ),
        (
            "UpdateEndpoint",
            {"DeploymentConfig": blue_green(Type="ALL_AT_ONCE", LinearStepSize=HALF)},
            "LinearStepSize: goes with Type LINEAR, and only with it",
        ),
        (
            "UpdateEndpoint",
            {"DeploymentConfig": blue_green(Type="CANARY", CanarySize=HALF | {"Value": 51})},
            "CanarySize: 51 % is not between 1 and 50",
        ),
        (
            "UpdateEndpoint",
            {"DeploymentConfig": blue_green(Type="LINEAR", LinearStepSize=HALF | {"Value": 9})},
            "LinearStepSize: 9 % is not between 10 and 50",
        ),
        (
            "UpdateEndpoint",
            {
                "DeploymentConfig": {
                    "RollingUpdatePolicy": {"MaximumBatchSize": HALF | {"Value": 4}, "WaitIntervalInSeconds": 0}
                }
            },
            "MaximumBatchSize: 4 % is not between 5 and 50",
        ),
        (
            "UpdateEndpoint",
            {
                "DeploymentConfig": {
                    "BlueGreenUpdatePolicy": {
                        "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 600},
                        "MaximumExecutionTimeoutInSeconds": 600,
                    }
                }
            },
            "MaximumExecutionTimeoutInSeconds: 600 is not more than the waits, 600 s",
        ),
    ],
)
def test_requests_that_aws_would_refuse(operation: str, wrong: dict[str, Any], expected: str) -> None:
    rights: dict[str, dict[str, Any]] = {"CreateModel": MODEL, "CreateEndpointConfig": CONFIG, "UpdateEndpoint": UPDATE}
    right = rights[operation]
    assert problems(Step("sagemaker", operation, right, "")) == []
    found = problems(Step("sagemaker", operation, right | wrong, ""))
    assert any(expected in line for line in found), found


@pytest.mark.parametrize(
    ("operation", "method"),
    [("CreateEndpointConfig", "create_endpoint_config"), ("PutObject", "put_object"), ("AddTags", "add_tags")],
)
def test_a_steps_method_is_boto3s(operation: str, method: str) -> None:
    assert Step("s3", operation, {}, "").method == method


def test_the_images_tag_follows_from_instance_and_handler() -> None:
    ipex = load_model("digits").handler.model_copy(update={"step": "ipex"})
    assert images.flavour("ml.c7i.large", ipex) == "ipex"
    assert images.flavour("ml.c7g.large", ipex) == "cpu-arm64"
    assert images.flavour("ml.c7i.large", load_model("minilm").handler) == "cpu"
    with pytest.raises(KitError, match=r"ml\.inf1\.xlarge: the kit has no image"):
        images.flavour("ml.inf1.xlarge", ipex)


@pytest.mark.parametrize(
    ("uri", "tag", "digest"),
    [
        (f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/a/b:cpu-1.0", "cpu-1.0", None),
        (f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/a/b", None, None),
        (f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/b@sha256:{'0' * 64}", None, f"sha256:{'0' * 64}"),
    ],
)
def test_an_images_address_in_parts(uri: str, tag: str | None, digest: str | None) -> None:
    found = images.parse(uri)
    assert found is not None
    assert (found.account, found.tag, found.digest) == (ACCOUNT, tag, digest)
    assert images.parse(f"{uri} ") is None


def test_variants_keep_their_name_for_guardrails() -> None:
    assert names.VARIANT == "AllTraffic"
