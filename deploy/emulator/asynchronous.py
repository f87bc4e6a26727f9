"""Asynchronous inference: a request is taken, answered later, and its answer or failure written to S3 and notified."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from uuid import uuid4

from botocore.exceptions import ClientError
from werkzeug.wrappers import Response

from deploy.emulator import model_data
from deploy.emulator.endpoint import Endpoint
from deploy.emulator.errors import ApiError
from deploy.emulator.forward import Answer
from deploy.emulator.host import Host
from deploy.emulator.traffic import Lease

OUTPUT = "X-Amzn-SageMaker-OutputLocation"
FAILURE = "X-Amzn-SageMaker-FailureLocation"
INLINE_BYTES = 128_000
LIMIT_S = 900.0
TIME_TO_LIVE_S = 21_600.0
AT_ONCE = 4
"""Invocations at once, unless MaxConcurrentInvocationsPerInstance says otherwise."""
Ask = Callable[[Endpoint, Lease, bytes, Mapping[str, str], float], tuple[Answer, bytes]]


class AsyncCalls:
    """Of one region's endpoints."""

    def __init__(self, host: Host, region: str, ask: Ask) -> None:
        self._host = host
        self._region = region
        self._ask = ask
        self._gates: dict[str, threading.Semaphore] = {}

    def accept(self, endpoint: Endpoint, given: Mapping[str, str], body: bytes) -> Response:
        """Take a request: 202 with the places where its answer or failure will be. Raises ApiError."""
        config = endpoint.snapshot.config.get("AsyncInferenceConfig")
        if config is None:
            raise _refused(f"Endpoint {endpoint.name} is not asynchronous: use InvokeEndpoint.")
        if ("InputLocation" in given) == bool(body):
            raise _refused("One of InputLocation and Body is needed.")
        if len(body) > INLINE_BYTES:
            raise _refused(f"Body of {len(body)} bytes exceeds {INLINE_BYTES} bytes.")
        if extra := [name for name in ("S3OutputPathExtension", "Filename") if name in given]:
            raise _refused(f"the emulator does not do {', '.join(extra)} (SageMaker does)")
        inference_id = given.get("InferenceId", str(uuid4()))
        output = config["OutputConfig"]
        places = {OUTPUT: _place(output["S3OutputPath"], ".out")}
        if "S3FailurePath" in output:
            places[FAILURE] = _place(output["S3FailurePath"], "-error.out")
        lives_s = float(given.get("RequestTTLSeconds", TIME_TO_LIVE_S)) * self._host.options.limit_scale
        given = {**given, "InferenceId": inference_id}
        arguments = (endpoint, given, body, places, time.monotonic() + lives_s)
        threading.Thread(target=self._work, args=arguments, daemon=True).start()
        return Response(json.dumps({"InferenceId": inference_id}), 202, places, content_type="application/json")

    def _work(
        self, endpoint: Endpoint, given: Mapping[str, str], body: bytes, places: Mapping[str, str], expires: float
    ) -> None:
        try:
            with self._gate(endpoint):
                target, data, failure = places[OUTPUT], self._answer(endpoint, given, body, expires), ""
        except ApiError as error:
            self._host.report(f"asynchronous inference at {endpoint.name}: {error}")
            target, data, failure = places.get(FAILURE, ""), str(error).encode(), str(error)
        try:
            if target:
                bucket, key = model_data.split(target)
                self._host.client("s3", self._region).put_object(Bucket=bucket, Key=key, Body=data)
            self._notify(endpoint, given, target, failure)
        except ClientError as error:
            self._host.report(f"asynchronous inference at {endpoint.name}: {error}")

    def _notify(self, endpoint: Endpoint, given: Mapping[str, str], location: str, failure: str) -> None:
        output = endpoint.snapshot.config["AsyncInferenceConfig"]["OutputConfig"]
        topic = output.get("NotificationConfig", {}).get("ErrorTopic" if failure else "SuccessTopic")
        if topic is None:
            return
        asked = {"endpointName": endpoint.name, "inputLocation": given.get("InputLocation", "")}
        told = {
            "awsRegion": self._region,
            "eventTime": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%fZ}",
            "invocationStatus": "Failed" if failure else "Completed",
            "requestParameters": asked,
            "inferenceId": given["InferenceId"],
            "eventVersion": "1.0",
            "eventSource": "aws:sagemaker",
            "eventName": "InferenceResult",
            **({"failureReason": failure} if failure else {"responseParameters": {"outputLocation": location}}),
        }
        self._host.client("sns", self._region).publish(TopicArn=topic, Message=json.dumps(told))

    def _answer(self, endpoint: Endpoint, given: Mapping[str, str], body: bytes, expires: float) -> bytes:
        if time.monotonic() > expires:
            raise _refused("The request expired before it was processed.")
        if "InputLocation" in given:
            body = self._read(given["InputLocation"])
        headers = {"Content-Type": given["ContentType"]} if "ContentType" in given else {}
        lease = endpoint.router.lease()
        if lease is None:
            raise _refused(f"Endpoint {endpoint.name} is not in service.")
        try:
            return self._ask(endpoint, lease, body, headers, float(given.get("InvocationTimeoutSeconds", LIMIT_S)))[1]
        finally:
            lease.release()

    def _read(self, location: str) -> bytes:
        try:
            bucket, key = model_data.split(location)
            return bytes(self._host.client("s3", self._region).get_object(Bucket=bucket, Key=key)["Body"].read())
        except (ValueError, ClientError) as error:
            raise _refused(f"InputLocation {location}: {error}") from None

    def _gate(self, endpoint: Endpoint) -> threading.Semaphore:
        config = endpoint.snapshot.config["AsyncInferenceConfig"].get("ClientConfig", {})
        at_once = config.get("MaxConcurrentInvocationsPerInstance", AT_ONCE)
        return self._gates.setdefault(endpoint.arn, threading.Semaphore(at_once))


def _place(path: str, suffix: str) -> str:
    return f"{path.rstrip('/')}/{uuid4()}{suffix}"


def _refused(message: str) -> ApiError:
    return ApiError("ValidationError", message)
