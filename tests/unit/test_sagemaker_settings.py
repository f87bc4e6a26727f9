"""The section deploy.sagemaker: every documented limit is refused with the key and the value that break it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from model_configs import instances, sagemaker_advice
from model_configs.sagemaker import SageMaker
from model_configs.sagemaker_update import Update
from model_configs.schema import advice, load_model
from servekit.settings import EmbeddingSettings, LlamaSettings
from servekit.strict import problems


def section(**values: Any) -> dict[str, Any]:
    return {"instance_type": "ml.c7i.xlarge", **values}


def complaints(values: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        SageMaker.model_validate(values)
    return "\n".join(problems(caught.value, SageMaker))


SCALING = {"max_instances": 4, "concurrent_requests_per_model": 8}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "instance_type: Field required"),
        (section(instance_typ="x"), "instance_typ: unknown key; did you mean 'instance_type'?"),
        (
            {"instance_type": "c7i.xlarge"},
            "'c7i.xlarge' is no instance type of SageMaker's; did you mean ml.c7i.xlarge?",
        ),
        ({"instance_type": "ml.inf2.25xlarge"}, "did you mean ml.inf2.24xlarge?"),
        ({"instance_type": "a"}, "they are named like ml.c7i.xlarge"),
        (section(instance_count=0), "instance_count: Input should be greater than or equal to 1, got 0"),
        (section(volume_size_gb=0), "volume_size_gb: Input should be greater than or equal to 1, got 0"),
        (section(volume_size_gb=513), "volume_size_gb: Input should be less than or equal to 512, got 513"),
        ({"instance_type": "ml.g5.xlarge", "volume_size_gb": 9}, "volume_size_gb: ml.g5.xlarge has a disk of its own"),
        (section(model_data_download_timeout_s=59), "model_data_download_timeout_s: Input should be greater than"),
        (section(model_data_download_timeout_s=3601), "model_data_download_timeout_s: Input should be less than"),
        (section(container_startup_timeout_s=59), "container_startup_timeout_s: Input should be greater than"),
        (section(container_startup_timeout_s=3601), "container_startup_timeout_s: Input should be less than"),
        (section(endpoint_name="a" * 64), "endpoint_name: String should have at most 63 characters"),
        (section(endpoint_name="a_b"), "endpoint_name: String should match pattern"),
        (section(endpoint_name="-a"), "endpoint_name: String should match pattern"),
        (section(role="arn:aws:iam::1:role/x"), "role: String should match pattern"),
        (section(bucket="Models"), "bucket: String should match pattern"),
        (section(prefix="models"), "prefix: String should match pattern"),
        (section(prefix="/"), "prefix: String should match pattern"),
        (section(env={str(n): "" for n in range(1)}), "env: Value error, '0' is no name of a variable"),
        (section(env={f"A{n}": "" for n in range(101)}), "env: Value error, 101 variables are more than 100"),
        (section(env={"A": "é" * 513}), "env: Value error, A: 1026 bytes are more than 1024"),
        (section(env={f"A{n}": "x" * 1000 for n in range(33)}), "of all variables are 33089 bytes, more than 32768"),
        (section(tags={"aws:x": ""}), "tags: Value error, 'aws:x': aws: and servekit: are not yours to set"),
        (section(tags={"x": "y" * 257}), "tags: Value error, 'x': at most 128 characters, and 256 of its value"),
        (section(tags={str(n): "" for n in range(41)}), "tags: Value should have at most 40 items"),
        (section(inference_ami_version="al2"), "inference_ami_version: Input should be 'al2-ami-sagemaker"),
        (
            section(inference_ami_version="al2-ami-sagemaker-inference-neuron-2"),
            "inference_ami_version: al2-ami-sagemaker-inference-neuron-2 is not for ml.c7i.xlarge",
        ),
        (section(vpc={"subnets": []}), "vpc.subnets: List should have at least 1 item"),
        (section(vpc={"subnets": ["s"] * 17, "security_groups": ["g"]}), "vpc.subnets: List should have at most 16"),
        (
            section(vpc={"subnets": ["s"], "security_groups": ["g"] * 6}),
            "vpc.security_groups: List should have at most",
        ),
        (section(kms_key_id="a key"), "kms_key_id: String should match pattern"),
        (section(data_capture={"sampling_percent": 101}), "data_capture.sampling_percent: Input should be less than"),
        (section(data_capture={"capture": []}), "data_capture.capture: Tuple should have at least 1 item"),
        (section(data_capture={"s3_uri": "https://x"}), "data_capture.s3_uri: String should match pattern"),
        (section(shadow={"sampling_percent": 0}), "shadow.sampling_percent: Input should be greater than"),
        (section(shadow={}, async_inference={}), "shadow: an asynchronous endpoint can have none"),
        (
            section(shadow={}, instance_count=4, update={"strategy": "rolling", "size_percent": 25}),
            "update.strategy: rolling is not for an endpoint of several variants",
        ),
        (
            section(async_inference={"max_concurrent_per_instance": 1001}),
            "max_concurrent_per_instance: Input should be",
        ),
        (section(async_inference={"success_topic": "x"}), "async_inference.success_topic: String should match pattern"),
        (section(autoscaling={"max_instances": 2}), "one of concurrent_requests_per_model, invocations_per_instance"),
        (section(autoscaling=SCALING | {"invocations_per_instance": 70}), "one of concurrent_requests_per_model"),
        (section(autoscaling=SCALING | {"min_instances": 5}), "min_instances: 5 is more than max_instances=4"),
        (section(autoscaling=SCALING | {"min_instances": 0}), "autoscaling.min_instances: 0 goes with async_inference"),
        (
            section(autoscaling=SCALING, instance_count=5),
            "instance_count: 5 is not between autoscaling.min_instances=1",
        ),
        (section(autoscaling={"max_instances": 2, "backlog_per_instance": 1}), "goes with async_inference only"),
        (section(autoscaling=SCALING, async_inference={}), "publishes backlog_per_instance alone"),
        ({"instance_type": "ml.t2.large", "autoscaling": SCALING}, "autoscaling: is not for burstable instances"),
        ({"instance_type": "ml.inf1.xlarge"}, "image_uri: the kit has no image for Inf1"),
        (
            {
                "instance_type": "ml.inf1.xlarge",
                "instance_count": 2,
                "update": {"strategy": "canary", "size_percent": 50},
            },
            "update.strategy: canary is not for Inf1, and ml.inf1.xlarge is one",
        ),
        ({"instance_type": "ml.inf1.xlarge", "shadow": {}}, "shadow: is not for Inf1"),
        (section(routing="prefix_aware"), "routing: Input should be 'least_outstanding_requests' or 'random'"),
    ],
)
def test_what_sagemaker_would_refuse(values: dict[str, Any], expected: str) -> None:
    assert expected in complaints(values)


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        ({"strategy": "blue_green"}, "strategy: Input should be 'all_at_once', 'canary', 'linear' or 'rolling'"),
        ({"size_percent": 10}, "strategy all_at_once has no steps"),
        ({"strategy": "canary"}, "size_percent or size_instances, one of the two, goes with strategy canary"),
        ({"strategy": "canary", "size_percent": 10, "size_instances": 1}, "one of the two"),
        ({"strategy": "canary", "size_percent": 51}, "size_percent: 51 is not between 1 and 50, as canary needs"),
        ({"strategy": "linear", "size_percent": 9}, "size_percent: 9 is not between 10 and 50, as linear needs"),
        ({"strategy": "rolling", "size_percent": 4}, "size_percent: 4 is not between 5 and 50, as rolling needs"),
        ({"strategy": "rolling", "size_percent": 5, "termination_wait_s": 1}, "rolling has no second fleet"),
        ({"rollback_size_percent": 50}, "rollback_size_percent: goes with strategy rolling only"),
        ({"wait_s": 3601}, "wait_s: Input should be less than or equal to 3600, got 3601"),
        ({"termination_wait_s": 3601}, "termination_wait_s: Input should be less than or equal to 3600"),
        ({"max_execution_s": 599}, "max_execution_s: Input should be greater than or equal to 600, got 599"),
        ({"max_execution_s": 28801}, "max_execution_s: Input should be less than or equal to 28800"),
        ({"max_execution_s": 900, "wait_s": 900}, "max_execution_s: 900 is not more than the 900 s of waits alone"),
        ({"rollback_on": {"alarms": ["a"] * 11}}, "rollback_on.alarms: List should have at most 10 items"),
        ({"rollback_on": {"alarms": list("abcdefghij")}}, "alarms: 10 and 1 of the kit's are more than 10"),
        ({"rollback_on": {"alarms": ["a", "a"]}}, "alarms: a name stands twice"),
        ({"rollback_on": {"alarms": [" "]}}, "rollback_on.alarms.0: String should match pattern"),
        ({"rollback_on": {"error_rate": 0}}, "rollback_on.error_rate: Input should be greater than 0"),
        ({"rollback_on": {"model_latency_ms": {"p96": 1}}}, "model_latency_ms.p96: unknown key; did you mean 'p9"),
        ({"rollback_on": {"period_s": 45}}, "rollback_on.period_s: Input should be 60, 120, 300 or 600"),
    ],
)
def test_what_the_guardrails_would_refuse(update: dict[str, Any], expected: str) -> None:
    assert expected in complaints(section(instance_count=4, update=update))


@pytest.mark.parametrize(
    ("strategy", "size", "count", "fits"),
    [
        ("canary", 2, 4, True),
        ("canary", 3, 4, False),
        ("canary", 1, 1, False),
        ("linear", 1, 10, True),
        ("linear", 1, 11, False),
        ("rolling", 1, 20, True),
        ("rolling", 1, 21, False),
    ],
)
def test_sizes_in_instances_are_shares_of_the_fleet(strategy: str, size: int, count: int, fits: bool) -> None:
    values = section(instance_count=count, update={"strategy": strategy, "size_instances": size})
    if fits:
        SageMaker.model_validate(values)
    else:
        assert f"update.size_instances: {size} of instance_count={count}" in complaints(values)


def test_inf2_may_have_a_canary() -> None:
    SageMaker.model_validate(
        {"instance_type": "ml.inf2.xlarge", "instance_count": 2, "update": {"strategy": "canary", "size_percent": 50}}
    )


@pytest.mark.parametrize(
    ("update", "waits_s"),
    [
        ({"wait_s": 100}, 100),
        ({"strategy": "canary", "size_percent": 10, "wait_s": 100, "termination_wait_s": 60}, 160),
        ({"strategy": "linear", "size_percent": 30, "wait_s": 100}, 300),
        ({"strategy": "linear", "size_instances": 1, "wait_s": 100}, 300),
        ({"strategy": "rolling", "size_percent": 50, "wait_s": 100}, 100),
    ],
)
def test_how_long_an_update_waits(update: dict[str, Any], waits_s: int) -> None:
    assert Update.model_validate(update).waits_s(4) == waits_s


@pytest.mark.parametrize(
    ("instance_type", "flavour", "own_disk"),
    [
        ("ml.c7i.xlarge", "cpu", False),
        ("ml.m5d.large", "cpu", True),
        ("ml.c7g.large", "cpu-arm64", False),
        ("ml.c6gn.large", "cpu-arm64", False),
        ("ml.m6gd.large", "cpu-arm64", True),
        ("ml.g5.xlarge", "cuda", True),
        ("ml.g4dn.xlarge", "cuda", True),
        ("ml.p4d.24xlarge", "cuda", True),
        ("ml.p6e-gb200.36xlarge", "cuda", False),
        ("ml.inf2.24xlarge", "neuronx", False),
        ("ml.trn1n.32xlarge", "neuronx", True),
        ("ml.inf1.xlarge", None, False),
        ("c7g.large", "cpu-arm64", False),
    ],
)
def test_what_an_instance_types_name_tells(instance_type: str, flavour: str | None, own_disk: bool) -> None:
    assert instances.flavour(instance_type) == flavour
    assert instances.has_own_disk(instance_type) == own_disk


def test_every_type_of_sagemakers_has_an_image_but_inf1() -> None:
    without = {instances.family(each) for each in instances.sagemaker_types() if instances.flavour(each) is None}
    assert without == {"inf1"}


def test_a_gpu_models_instance_has_one() -> None:
    cpu = SageMaker.model_validate(section())
    assert sagemaker_advice.problems(cpu, "gpu") == [
        "deploy.sagemaker.instance_type: ml.c7i.xlarge has no GPU for torchserve.deviceType: gpu"
    ]
    assert sagemaker_advice.problems(cpu, None) == []
    assert sagemaker_advice.problems(SageMaker(instance_type="ml.g5.xlarge"), "gpu") == []


def lines(values: dict[str, Any], handler: Any = None, answer_s: int = 60, start_s: int = 300) -> str:
    return "\n".join(
        sagemaker_advice.advice(
            SageMaker.model_validate(section(**values)), handler or EmbeddingSettings(), answer_s, start_s
        )
    )


def test_advice() -> None:
    assert lines({}) == ""
    assert "torchserve.responseTimeout: SageMaker gives up after 60 s" in lines({}, answer_s=61)
    assert lines({}, LlamaSettings(), answer_s=61) == ""
    assert lines({"async_inference": {}}, answer_s=61) == ""
    assert "container_startup_timeout_s: 480 ends a start" in lines({}, start_s=481)
    assert lines({"container_startup_timeout_s": 600}, start_s=600) == ""
    assert "kms_key_id: ml.g5.xlarge has a disk" in lines({"instance_type": "ml.g5.xlarge", "kms_key_id": "k"})
    canary = {"strategy": "canary", "size_percent": 50}
    assert "one instance cannot be shared out" in lines({"update": canary})
    assert lines({"instance_count": 2, "update": canary}) == ""
    assert "nothing watches" in lines({"instance_count": 2, "update": canary | {"rollback_on": None}})
    assert "max_request_bytes" in lines({}, EmbeddingSettings(max_request_bytes=7 << 20))


def test_the_articles_knobs() -> None:
    config = load_model("llama-2-13b-inf2")
    assert config.deploy is not None
    found = config.deploy.sagemaker
    assert found is not None
    assert (found.instance_type, found.volume_size_gb) == ("ml.inf2.24xlarge", 512)
    assert (found.model_data_download_timeout_s, found.container_startup_timeout_s) == (3600, 600)
    assert any("container_startup_timeout_s: 600 ends a start" in line for line in advice(config))
