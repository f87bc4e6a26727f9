"""The emulator with real clients and fake containers: its states, its limits, its errors, its traffic.

Limits are a fiftieth of SageMaker's: an answer may take 1.2 s, a start 1.2 s at least.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
from botocore.exceptions import ClientError, EventStreamError
from urllib3.exceptions import ProtocolError

from deploy import emulator, service_model
from deploy.aws import Aws, emulated_session
from deploy.client import SageMakerEndpoint, StreamEnded
from deploy.emulator import Options
from deploy.emulator.marked import mark
from deploy.emulator.process import OWNER_VARIABLE
from model_configs.errors import KitError
from tests.fakes.container import TOKENS
from tests.fakes.emulated import BUCKET, Emulated, emulated, wait_for
from tests.fakes.token_iterator import TokenIterator

pytestmark = pytest.mark.deploy

PORT = 21500
LIMIT_SCALE = 0.02


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    with emulated(PORT, tmp_path_factory.mktemp("emulator"), limit_scale=LIMIT_SCALE) as made:
        made.sagemaker.meta.events.register("after-call.sagemaker", answer_is_of_its_shape)
        made.model("one", FAKE_REPLY="one")
        made.model("two", FAKE_REPLY="two")
        made.config("one", "one")
        made.config("two", "two")
        assert made.endpoint("served", "one") == "InService"
        yield made


def answer_is_of_its_shape(http_response: Any, model: Any, **_: Any) -> None:
    """botocore drops what it does not know; no answer may have it."""
    if http_response.status_code == 200 and model.output_shape:
        assert list(service_model.shape_problems(json.loads(http_response.content), model.output_shape, "")) == []


@pytest.fixture
def own(aws: Emulated) -> Iterator[str]:
    """An endpoint for one test alone."""
    assert aws.endpoint("own", "one") == "InService"
    yield "own"
    aws.settled("own")
    aws.delete("own")


def code(caught: pytest.ExceptionInfo[ClientError]) -> tuple[str, str]:
    error = caught.value.response["Error"]
    return str(error["Code"]), str(error["Message"])


def test_an_answer_and_what_comes_with_it(aws: Emulated) -> None:
    reply = aws.runtime.invoke_endpoint(
        EndpointName="served",
        Body=b"{}",
        ContentType="application/json",
        CustomAttributes="trace=1",
        TargetVariant="v0",
    )
    assert json.loads(reply["Body"].read()) == {"reply": "one"}
    assert reply["ContentType"] == "application/json"
    assert reply["InvokedProductionVariant"] == "v0"
    assert reply["CustomAttributes"] == "by=one"


def test_a_stream_is_read_by_the_articles_reader_and_by_ours(aws: Emulated) -> None:
    parts = [event["PayloadPart"]["Bytes"] for event in aws.stream("served")]
    assert not all(part.endswith(b"\n") for part in parts), "parts must not align with lines"
    assert list(TokenIterator(aws.stream("served"))) == TOKENS
    ours = SageMakerEndpoint("served", aws.session)
    lines = [line for line in ours.lines(b'{"stream": true}') if line]
    assert [json.loads(line.removeprefix(b"data:"))["token"]["text"] for line in lines] == TOKENS


def test_tokens_come_as_they_are_made(aws: Emulated) -> None:
    came = [time.monotonic() for _ in TokenIterator(aws.stream("served", gap_s=0.2))]
    assert came[-1] - came[0] > 0.7


def test_a_client_that_goes_away_frees_its_place(aws: Emulated) -> None:
    body = aws.stream("served", tokens=40, gap_s=0.1)
    next(iter(body))
    (found,) = [each for each in aws.running.state()["endpoints"] if each["name"] == "served"]
    assert found["in_flight"] == 1
    body.close()
    wait_for(lambda: [e["in_flight"] for e in aws.running.state()["endpoints"] if e["name"] == "served"] == [0], 5)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"EndpointName": "nowhere"}, "ValidationError", "Endpoint nowhere of account 123456789012 not found"),
        ({"TargetVariant": "v9"}, "ValidationError", "Variant v9 of endpoint served not found"),
        ({"Body": b"x" * 6_291_457}, "413", "exceeded 6291456 bytes"),
        ({"TargetModel": "m.tar.gz"}, "ValidationError", "the emulator does not do TargetModel"),
        ({"SessionId": "NEW_SESSION"}, "ValidationError", "the emulator does not do SessionId"),
        ({"Body": b'{"sleep_s": 3}'}, "ModelError", "timed out while waiting"),
        ({"Body": b'{"stream": true, "cut": true}'}, "ModelError", "the response was cut"),
        ({"Body": b'{"large": 6291457}'}, "ModelError", "exceeds 6291456 bytes"),
    ],
)
def test_what_sagemaker_refuses_is_refused(aws: Emulated, arguments: dict[str, Any], error: str, words: str) -> None:
    with pytest.raises(ClientError) as caught:
        aws.runtime.invoke_endpoint(**{"EndpointName": "served", "Body": b"{}", **arguments})
    assert code(caught)[0] == error
    assert words in code(caught)[1]


def test_the_largest_body_passes(aws: Emulated) -> None:
    assert aws.ask("served", {"x": "x" * (6_291_456 - len('{"x": ""}'))}) == {"reply": "one"}


def test_a_models_error_is_told_with_its_own_words(aws: Emulated) -> None:
    aws.model("wrong", FAKE_STATUS="413", FAKE_REPLY="too long")
    aws.config("wrong", "wrong")
    aws.endpoint("wrong", "wrong")
    calls = (aws.runtime.invoke_endpoint, aws.runtime.invoke_endpoint_with_response_stream)
    for call in calls:
        with pytest.raises(ClientError) as caught:
            call(EndpointName="wrong", Body=b"{}")
        response = caught.value.response
        assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
        assert response["OriginalStatusCode"] == 413
        assert response["OriginalMessage"] == '{"reply": "too long"}'
        assert response["LogStreamArn"].endswith("/aws/sagemaker/Endpoints/wrong")
        assert "Received client error (413) from primary" in response["Error"]["Message"]
    aws.delete("wrong")


def test_a_stream_that_breaks_ends_with_sagemakers_error(aws: Emulated) -> None:
    came: list[str] = []
    with closing(aws.stream("served", cut=True)) as stream, pytest.raises(EventStreamError, match="ModelStreamError"):
        came.extend(TokenIterator(stream))
    assert came == TOKENS[: len(TOKENS) // 2]


def test_faults_are_made_on_request(aws: Emulated) -> None:
    aws.running.inject(break_streams=1, after_bytes=20)
    ours = SageMakerEndpoint("served", aws.session)
    with pytest.raises(StreamEnded) as caught:
        list(ours.stream(b'{"stream": true}'))
    assert caught.value.code == "ModelStreamError"
    assert caught.value.partial == b'data:{"token": {"tex'
    aws.running.inject(cut_streams=1, after_bytes=20)
    with closing(aws.stream("served")) as stream, pytest.raises(ProtocolError):
        list(stream)
    for name, status in (("ModelNotReadyException", 429), ("ServiceUnavailable", 503), ("InternalFailure", 500)):
        aws.running.inject(refuse=name, refusals=1)
        with pytest.raises(ClientError) as refused:
            aws.ask("served")
        assert (code(refused)[0], refused.value.response["ResponseMetadata"]["HTTPStatusCode"]) == (name, status)
    assert aws.ask("served") == {"reply": "one"}


@pytest.mark.parametrize(
    ("key", "error"), [("stranger", "UnrecognizedClientException"), (None, "MissingAuthenticationToken")]
)
def test_who_does_not_sign_is_refused(aws: Emulated, key: str | None, error: str) -> None:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    for service in ("sagemaker", "sagemaker-runtime"):
        client = boto3.client(
            service, "eu-west-1", endpoint_url=aws.running.url, aws_access_key_id=key or "x", aws_secret_access_key="y",
            config=None if key else Config(signature_version=UNSIGNED),
        )  # fmt: skip
        with pytest.raises(ClientError, match=error):
            client.list_models() if service == "sagemaker" else client.invoke_endpoint(EndpointName="served", Body=b"")


def test_regions_know_nothing_of_each_other(aws: Emulated) -> None:
    other: Aws = emulated_session(aws.running.url, "us-east-1")
    assert other.client("sagemaker").list_endpoints()["Endpoints"] == []
    with pytest.raises(ClientError, match="not found"):
        other.client("sagemaker-runtime").invoke_endpoint(EndpointName="served", Body=b"")


def test_names_are_taken_once_and_deleted_things_are_gone(aws: Emulated) -> None:
    with pytest.raises(ClientError, match="Cannot create already existing model"):
        aws.model("one")
    with pytest.raises(ClientError, match="Cannot create already existing endpoint configuration"):
        aws.config("one", "one")
    with pytest.raises(ClientError, match='Cannot create already existing endpoint "arn'):
        aws.sagemaker.create_endpoint(EndpointName="served", EndpointConfigName="one")
    with pytest.raises(ClientError, match='Could not find model "arn:aws:sagemaker:eu-west-1:123456789012:model/none"'):
        aws.config("none", "none")
    with pytest.raises(ClientError, match="Could not find endpoint configuration"):
        aws.sagemaker.create_endpoint(EndpointName="none", EndpointConfigName="none")
    with pytest.raises(ClientError, match="Could not find endpoint"):
        aws.describe("none")
    aws.model("short")
    aws.sagemaker.delete_model(ModelName="short")
    with pytest.raises(ClientError, match="Could not find model"):
        aws.sagemaker.describe_model(ModelName="short")


def test_requests_are_held_against_the_services_model(aws: Emulated) -> None:
    with pytest.raises(ClientError, match="InstanceType: 'ml.huge' must be one of"):
        aws.config("bad", "one", variant={"InstanceType": "ml.huge"})
    with pytest.raises(ClientError, match="CapacityReservationConfig"):
        aws.config(
            "bad",
            "one",
            variant={"CapacityReservationConfig": {"MlReservationArn": "arn:aws:sagemaker:eu-west-1:123456789012:x/y"}},
        )
    with pytest.raises(ClientError, match="UnknownOperation.*the emulator does not do ListTrainingJobs"):
        aws.sagemaker.list_training_jobs()


def test_tags(aws: Emulated) -> None:
    arn = aws.describe("served")["EndpointArn"]
    aws.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    aws.sagemaker.delete_tags(ResourceArn=arn, TagKeys=["a"])
    assert aws.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "b", "Value": "2"}]
    with pytest.raises(ClientError, match="Could not find"):
        aws.sagemaker.list_tags(ResourceArn=f"{arn}-2")


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **each} for each in statements]}


READ = {"Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{BUCKET}/m/*"}
LIST = {"Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{BUCKET}"}


def test_a_role_that_is_not_enough_fails_where_it_would(aws: Emulated) -> None:
    with pytest.raises(ClientError, match="Could not assume role"):
        aws.model("m1", role="arn:aws:iam::123456789012:role/none")
    with pytest.raises(ClientError, match="Cross-account"):
        aws.model("m1", role="arn:aws:iam::210987654321:role/other")
    for name, wrong in (
        ("reads-no-list", policy(READ)),
        ("lists-no-read", policy(LIST)),
        ("nothing", policy(LIST | {"Resource": "*"})),
    ):
        with pytest.raises(ClientError, match="Could not access model data"):
            aws.model("m1", role=aws.make_role(name, wrong))
    with pytest.raises(ClientError, match="Could not access model data"):
        aws.model("m1", prefix="none/")
    aws.model("m1", role=aws.make_role("reads", policy(READ, LIST)))
    aws.config("m1", "m1")
    assert aws.endpoint("m1", "m1") == "Failed"
    assert "may not pull" in aws.describe("m1")["FailureReason"]
    with pytest.raises(ClientError, match="Cannot update failed endpoint"):
        aws.sagemaker.update_endpoint(EndpointName="m1", EndpointConfigName="one")
    aws.delete("m1")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"FAKE_EXIT": "3"}, "did not pass the ping health check.*ended with code 3: .*this goes wrong"),
        ({"FAKE_START_S": "30"}, "did not pass the ping health check.*never 200 within 60 s"),
        ({"FAKE_WRITES": "new.txt"}, "wrote to read-only /opt/ml/model: new.txt"),
    ],
)
def test_a_container_that_does_not_come_up_fails_its_endpoint(
    aws: Emulated, environment: dict[str, str], words: str, request: pytest.FixtureRequest
) -> None:
    name = next(iter(environment)).lower().replace("_", "-")
    aws.model(name, **environment)
    aws.config(name, name, variant={"ContainerStartupHealthCheckTimeoutInSeconds": 60})
    assert aws.endpoint(name, name) == "Failed"
    assert re.search(words, aws.describe(name)["FailureReason"])
    assert "fake begins" in logs(aws, name)
    with pytest.raises(ClientError, match="not found"):
        aws.ask(name)
    aws.delete(name)


def logs(aws: Emulated, endpoint: str) -> list[str]:
    client, group = aws.session.client("logs"), f"/aws/sagemaker/Endpoints/{endpoint}"
    (stream,) = client.describe_log_streams(logGroupName=group)["logStreams"]
    events = client.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"])["events"]
    return [event["message"] for event in events]


def test_file_and_directory_of_one_name_fail(aws: Emulated) -> None:
    for key in ("clash/weights", "clash/weights/part1"):
        aws.put(key, b"x")
    aws.model("clash", prefix="clash/")
    aws.config("clash", "clash")
    assert aws.endpoint("clash", "clash") == "Failed"
    assert "weights is a file and a directory at once" in aws.describe("clash")["FailureReason"]
    aws.delete("clash")


def canary(percent: int = 50, wait_s: int = 100) -> dict[str, Any]:
    routing = {
        "Type": "CANARY",
        "WaitIntervalInSeconds": wait_s,
        "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": percent},
    }
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}


class Load:
    """Asks an endpoint from several threads until the end of the block; answers by their text, and errors."""

    def __init__(self, aws: Emulated, name: str, threads: int = 4) -> None:
        self.answers: Counter[str] = Counter()
        self.errors: list[Exception] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(aws, name)) for _ in range(threads)]

    def _ask(self, aws: Emulated, name: str) -> None:
        while not self._ended.is_set():
            try:
                self.answers[aws.ask(name, {"sleep_s": 0.03})["reply"]] += 1
            except ClientError as error:
                self.errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def test_an_update_moves_traffic_without_losing_a_request(aws: Emulated, own: str) -> None:
    stream = aws.stream(own, tokens=12, gap_s=0.2)
    first = next(iter(stream))
    with Load(aws, own) as load:
        aws.sagemaker.update_endpoint(EndpointName=own, EndpointConfigName="two", DeploymentConfig=canary())
        pending = aws.describe(own)
        assert (pending["EndpointStatus"], pending["EndpointConfigName"]) == ("Updating", "one")
        assert pending["PendingDeploymentSummary"]["EndpointConfigName"] == "two"
        wait_for(lambda: load.answers["two"] > 10)
        one_then = load.answers["one"]
        wait_for(lambda: load.answers["two"] > 30)
        assert load.answers["one"] > one_then, "half of the traffic is still the old one's"
        with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
            aws.sagemaker.delete_endpoint(EndpointName=own)
        with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
            aws.sagemaker.update_endpoint(EndpointName=own, EndpointConfigName="two")
        aws.settled(own)
    assert load.errors == []
    data = first["PayloadPart"]["Bytes"] + b"".join(event["PayloadPart"]["Bytes"] for event in stream)
    assert data.count(b"data:") == 12, "the stream that the old one had begun was cut"
    found = aws.describe(own)
    assert (found["EndpointConfigName"], found["EndpointStatus"]) == ("two", "InService")
    assert found["LastDeploymentConfig"] == canary()
    assert "PendingDeploymentSummary" not in found
    assert aws.ask(own) == {"reply": "two"}


def test_a_new_model_that_fails_leaves_the_old_one_in_service(aws: Emulated, own: str) -> None:
    aws.running.inject(fail_starts=1)
    with Load(aws, own, threads=2) as load:
        found = aws.update(own, "two")
    assert load.errors == []
    assert (found["EndpointConfigName"], found["EndpointStatus"]) == ("one", "InService")
    assert "did not pass the ping health check" in found["FailureReason"]
    assert set(load.answers) == {"one"}


def alarm(aws: Emulated, name: str, state: str = "OK") -> dict[str, Any]:
    aws.cloudwatch.put_metric_alarm(
        AlarmName=name, Namespace="AWS/SageMaker", MetricName="Invocation5XXErrors", Statistic="Sum", Period=60,
        EvaluationPeriods=1, Threshold=1, ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    aws.cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason="a test")
    return {**canary(wait_s=3000), "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name}]}}


def test_an_alarm_rolls_back(aws: Emulated, own: str) -> None:
    deployment = alarm(aws, "errors")
    with Load(aws, own, threads=2) as load:
        aws.sagemaker.update_endpoint(EndpointName=own, EndpointConfigName="two", DeploymentConfig=deployment)
        wait_for(lambda: load.answers["two"] > 3)
        aws.cloudwatch.set_alarm_state(AlarmName="errors", StateValue="ALARM", StateReason="a test")
        aws.settled(own)
    assert load.errors == []
    found = aws.describe(own)
    assert (found["EndpointConfigName"], found["EndpointStatus"]) == ("one", "InService")
    assert "went into ALARM: errors" in found["FailureReason"]
    assert {aws.ask(own)["reply"] for _ in range(5)} == {"one"}


def test_an_alarm_that_is_not_there_rolls_back(aws: Emulated, own: str) -> None:
    watched = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "none"}]}}
    assert "do not exist: none" in aws.update(own, "two", DeploymentConfig=watched)["FailureReason"]


def test_weights_and_capacities(aws: Emulated) -> None:
    aws.config("both", "one", "two")
    assert aws.endpoint("both", "both") == "InService"
    assert Counter(aws.ask("both")["reply"] for _ in range(10)) == {"one": 5, "two": 5}
    changes = [{"VariantName": "v0", "DesiredWeight": 3.0}, {"VariantName": "v1", "DesiredInstanceCount": 4}]
    aws.sagemaker.update_endpoint_weights_and_capacities(EndpointName="both", DesiredWeightsAndCapacities=changes)
    aws.settled("both")
    assert Counter(aws.ask("both")["reply"] for _ in range(12)) == {"one": 9, "two": 3}
    aws.config("both-again", "two", "one")
    found = aws.update("both", "both-again", RetainAllVariantProperties=True)
    kept = [(each["CurrentWeight"], each["CurrentInstanceCount"]) for each in found["ProductionVariants"]]
    assert kept == [(3.0, 1), (1.0, 4)]
    with pytest.raises(ClientError, match="Variant v9 is not of endpoint both"):
        aws.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName="both", DesiredWeightsAndCapacities=[{"VariantName": "v9", "DesiredWeight": 1.0}]
        )
    aws.delete("both")


def test_a_configuration_may_be_deleted_under_its_endpoint(aws: Emulated, own: str) -> None:
    aws.model("gone", FAKE_REPLY="gone")
    aws.config("gone", "gone")
    assert aws.update(own, "gone")["EndpointStatus"] == "InService"
    aws.sagemaker.delete_endpoint_config(EndpointConfigName="gone")
    aws.sagemaker.delete_model(ModelName="gone")
    assert aws.ask(own) == {"reply": "gone"}
    assert aws.describe(own)["EndpointConfigName"] == "gone"


def told(aws: Emulated, endpoint: str) -> list[list[dict[str, Any]]]:
    """What each container of an endpoint was asked."""
    (found,) = [each for each in aws.running.state()["endpoints"] if each["name"] == endpoint]
    ports = [
        connection.laddr.port
        for pid in found["containers"]
        for connection in psutil.Process(pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    return [json.loads(urlopen(f"http://127.0.0.1:{port}/told").read()) for port in ports]


def test_a_shadow_gets_copies_and_data_is_captured(aws: Emulated) -> None:
    shadow = {
        "VariantName": "shadow",
        "ModelName": "two",
        "InstanceType": "ml.c7i.large",
        "InitialInstanceCount": 1,
        "InitialVariantWeight": 0.5,
    }
    capture = {
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": f"s3://{BUCKET}/captured/",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }
    aws.config("shadowed", "one", ShadowProductionVariants=[shadow], DataCaptureConfig=capture)
    assert aws.endpoint("shadowed", "shadowed") == "InService"
    answers = [aws.ask("shadowed", {"n": number}, ContentType="application/json") for number in range(6)]
    assert answers == [{"reply": "one"}] * 6
    wait_for(lambda: sorted(map(len, told(aws, "shadowed"))) == [3, 6])
    wait_for(lambda: len(captured(aws)) == 6)
    assert {line["captureData"]["endpointInput"]["data"] for line in captured(aws)} == {
        f'{{"n": {n}}}' for n in range(6)
    }
    assert {line["captureData"]["endpointOutput"]["data"] for line in captured(aws)} == {'{"reply": "one"}'}
    aws.delete("shadowed")


def captured(aws: Emulated) -> list[dict[str, Any]]:
    found = aws.s3.list_objects_v2(Bucket=BUCKET, Prefix="captured/shadowed/v0/").get("Contents", [])
    return [json.loads(aws.s3.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read()) for each in found]


def test_asynchronous_answers_go_to_s3(aws: Emulated) -> None:
    sns, sqs = aws.session.client("sns"), aws.session.client("sqs")
    topic = sns.create_topic(Name="done")["TopicArn"]
    queue = sqs.create_queue(QueueName="done")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    output = {
        "S3OutputPath": f"s3://{BUCKET}/out/",
        "S3FailurePath": f"s3://{BUCKET}/failures/",
        "NotificationConfig": {"SuccessTopic": topic, "ErrorTopic": topic},
    }
    aws.config("async", "one", AsyncInferenceConfig={"OutputConfig": output})
    assert aws.endpoint("async", "async") == "InService"
    with pytest.raises(ClientError, match="use InvokeEndpointAsync"):
        aws.ask("async")
    with pytest.raises(ClientError, match="use InvokeEndpoint"):
        aws.runtime.invoke_endpoint_async(EndpointName="served", InputLocation=f"s3://{BUCKET}/in")
    aws.put("in", b'{"x": 1}')
    good = aws.runtime.invoke_endpoint_async(EndpointName="async", InputLocation=f"s3://{BUCKET}/in")
    bad = aws.runtime.invoke_endpoint_async(EndpointName="async", InputLocation=f"s3://{BUCKET}/none")
    wait_for(lambda: read(aws, good["OutputLocation"]) == b'{"reply": "one"}')
    wait_for(lambda: b"NoSuchKey" in read(aws, bad["FailureLocation"]))
    assert read(aws, bad["OutputLocation"]) == b""
    states: set[str] = set()

    def received() -> bool:
        for each in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            states.add(json.loads(json.loads(each["Body"])["Message"])["invocationStatus"])
        return states == {"Completed", "Failed"}

    wait_for(received)
    aws.delete("async")


def read(aws: Emulated, location: str) -> bytes:
    key = location.removeprefix(f"s3://{BUCKET}/")
    found = aws.s3.list_objects_v2(Bucket=BUCKET, Prefix=key).get("Contents", [])
    return bytes(aws.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()) if found else b""


def test_a_container_that_dies_is_started_again(aws: Emulated, own: str) -> None:
    (found,) = [each for each in aws.running.state()["endpoints"] if each["name"] == own]
    psutil.Process(found["containers"][0]).kill()
    with pytest.raises(ClientError, match="no response|fails its health checks"):
        aws.ask(own)

    def answers() -> bool:
        try:
            return bool(aws.ask(own) == {"reply": "one"})
        except ClientError:
            return False

    wait_for(answers)


def test_a_port_that_is_taken_is_told(aws: Emulated, tmp_path: Path) -> None:
    with pytest.raises(KitError, match=f"port {PORT} is in use"):
        emulator.ensure(Options(port=PORT, folder=tmp_path))


def test_an_emulator_is_found_again_killed_and_ended_and_nothing_is_left(tmp_path: Path) -> None:
    options = Options(port=PORT + 1, folder=tmp_path)
    with emulated(PORT + 1, tmp_path, limit_scale=0.005) as aws:
        assert emulator.ensure(options) == aws.running
        aws.model("deaf", FAKE_DEAF="1")
        aws.config("deaf", "deaf")
        assert aws.endpoint("deaf", "deaf") == "InService"
        with (
            closing(aws.stream("deaf", tokens=2, gap_s=4)) as stream,
            pytest.raises(EventStreamError, match="timed out"),
        ):
            list(stream)
        assert aws.running.leftovers() == [
            f"bucket {BUCKET} (2 objects)", "endpoint deaf", "endpoint-config deaf",
            "log group /aws/sagemaker/Endpoints/deaf", "model deaf", "role anything",
        ]  # fmt: skip
        assert not emulator.stop_if_unused(options)
        aws.delete("deaf")
        (violation,) = aws.running.state()["violations"]
        assert violation.endswith("was not gone 0.15 s after SIGTERM")
        assert aws.endpoint("deaf", "deaf") == "InService"
        psutil.Process(aws.running.pid).kill()
        wait_for(lambda: emulator.running(options) is None)
        assert len(owned_by(tmp_path)) == 1, "its container"
        again = emulator.ensure(options)
        assert owned_by(tmp_path) == [again.pid]
        assert emulator.stop_if_unused(options)
        assert emulator.running(options) is None
    assert owned_by(tmp_path) == []


def owned_by(folder: Path) -> list[int]:
    return [process.pid for process in psutil.process_iter() if mark(process, OWNER_VARIABLE) == str(folder)]
