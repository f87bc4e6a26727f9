"""SageMaker's runtime of one region: whole answers, response streams, asynchronous ones, and what it refuses.

It stands between a client and the containers: limits of size and time, the headers that pass, errors by their names.
Knows nothing of how endpoints come and go.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any, Literal

from werkzeug.wrappers import Request, Response

from deploy import service_model
from deploy.emulator import eventstream, forward, logs
from deploy.emulator.asynchronous import AsyncCalls
from deploy.emulator.capture import Capture
from deploy.emulator.control import ControlPlane
from deploy.emulator.endpoint import LONGEST_STREAM_S, Endpoint
from deploy.emulator.errors import ApiError
from deploy.emulator.host import Host
from deploy.emulator.mirror import mirror
from deploy.emulator.traffic import Lease, NoVariant

ANSWER_S = 60.0
BODY_BYTES = 6_291_456
OPERATIONS = {
    "invocations": "InvokeEndpoint",
    "invocations-response-stream": "InvokeEndpointWithResponseStream",
    "async-invocations": "InvokeEndpointAsync",
}
NOT_DONE = (
    "TargetModel", "TargetContainerHostname", "InferenceComponentName", "EnableExplanations", "SessionId",
    "PrefixAwareId",
)  # fmt: skip
CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
INVOKED_VARIANT = "x-Amzn-Invoked-Production-Variant"
Fault = Literal["broken", "cut"]


class Runtime:
    """One region's."""

    def __init__(self, host: Host, plane: ControlPlane, region: str) -> None:
        self._host = host
        self._plane = plane
        self._region = region
        self._scale = host.options.limit_scale
        self._random = Random(0)
        self._async = AsyncCalls(host, region, self._answer)
        self._capture = Capture(host, region)

    def call(self, name: str, action: str, request: Request) -> Response:
        """POST /endpoints/{name}/{action}. Raises ApiError."""
        operation = OPERATIONS.get(action)
        if operation is None or request.method != "POST":
            raise ApiError("UnknownOperationException", f"{request.method} {request.path} is no operation", 404)
        if (request.content_length or 0) > BODY_BYTES:
            raise ApiError("413", f"HTTP content length exceeded {BODY_BYTES} bytes.", 413)
        given = _parameters(operation, name, request)
        endpoint = self._endpoint(name)
        self._host.faults.refuse()
        body = request.get_data()
        if operation == "InvokeEndpointAsync":
            return self._async.accept(endpoint, given, body)
        if "AsyncInferenceConfig" in endpoint.snapshot.config:
            raise _refused(f"Endpoint {name} is asynchronous: use InvokeEndpointAsync.")
        lease = self._lease(endpoint, given.get("TargetVariant"))
        if operation == "InvokeEndpoint":
            return self._whole(endpoint, lease, given, body)
        return self._stream(endpoint, lease, given, body)

    def _whole(self, endpoint: Endpoint, lease: Lease, given: Mapping[str, str], body: bytes) -> Response:
        try:
            mirror(self._host, lease, body, _forwarded(given))
            answer, reply = self._answer(endpoint, lease, body, _forwarded(given), ANSWER_S)
        finally:
            lease.release()
        if len(reply) > BODY_BYTES:
            raise ApiError("ModelError", f"The response of {len(reply)} bytes exceeds {BODY_BYTES} bytes.", 424)
        content_type = answer.header("Content-Type") or "application/octet-stream"
        self._capture.take(endpoint, lease, given, body, reply, content_type)
        return Response(reply, 200, _headers(answer, lease), content_type=content_type)

    def _stream(self, endpoint: Endpoint, lease: Lease, given: Mapping[str, str], body: bytes) -> Response:
        deadline = time.monotonic() + LONGEST_STREAM_S * self._scale
        try:
            mirror(self._host, lease, body, _forwarded(given))
            answer = self._ask(endpoint, lease, body, _forwarded(given), ANSWER_S)
        except BaseException:
            lease.release()
            raise

        def end() -> None:
            answer.close()
            lease.release()

        headers = _headers(answer, lease)
        headers["X-Amzn-SageMaker-Content-Type"] = answer.header("Content-Type") or "application/octet-stream"
        frames = self._frames(answer, deadline)
        return Response(_Closing(frames, end), 200, headers, content_type=eventstream.CONTENT_TYPE)

    def _frames(self, answer: forward.Answer, deadline: float) -> Iterator[bytes]:
        fault = self._fault()
        left = self._host.faults.now.after_bytes
        try:
            for piece in answer.pieces(deadline):
                kept = piece[:left] if fault else piece
                left -= len(kept)
                yield b"".join(map(eventstream.payload_part, eventstream.cut_anywhere(kept, self._random)))
                if fault and left <= 0:
                    break
            if fault == "cut":
                raise ConnectionAbortedError("a fault that was asked for")
            if fault == "broken":
                raise forward.Broken("a fault that was asked for")
        except forward.TooSlow:
            words = "Your model timed out: it did not end its response in time."
            yield eventstream.model_stream_error(words, "ModelInvocationTimeExceeded")
        except forward.Broken as error:
            words = f"Your model container's connection was closed before its response ended: {error}"
            yield eventstream.model_stream_error(words, "StreamBroken")

    def _fault(self) -> Fault | None:
        if self._host.faults.take("cut_streams"):
            return "cut"
        return "broken" if self._host.faults.take("break_streams") else None

    def _answer(
        self, endpoint: Endpoint, lease: Lease, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> tuple[forward.Answer, bytes]:
        """A container's whole good answer. Raises ApiError."""
        deadline = time.monotonic() + limit_s * self._scale
        answer = self._ask(endpoint, lease, body, headers, limit_s)
        try:
            return answer, answer.body(deadline)
        except forward.TooSlow:
            raise self._model_error(endpoint, 0, TOO_SLOW) from None
        except forward.Broken as error:
            raise self._model_error(endpoint, 0, f"the response was cut: {error}") from None
        finally:
            answer.close()

    def _ask(
        self, endpoint: Endpoint, lease: Lease, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> forward.Answer:
        """A container's answer once its head says 2xx. Raises ApiError."""
        deadline = time.monotonic() + limit_s * self._scale
        if not lease.variant.container.healthy:
            raise ApiError("ServiceUnavailable", "The container fails its health checks.", 503)
        time.sleep(min(self._host.faults.now.slow_s, limit_s * self._scale))
        try:
            answer = forward.post(lease.variant.container, body, headers, deadline)
        except forward.TooSlow:
            raise self._model_error(endpoint, 0, TOO_SLOW) from None
        except forward.Broken as error:
            raise self._model_error(endpoint, 0, f"no response: {error}") from None
        if not 200 <= answer.status < 300:
            try:
                words = answer.body(deadline).decode(errors="replace")
            except (forward.TooSlow, forward.Broken):
                words = ""
            answer.close()
            raise self._model_error(endpoint, answer.status, words)
        return answer

    def _model_error(self, endpoint: Endpoint, status: int, words: str) -> ApiError:
        session = self._host.aws(self._region)
        group = logs.group_name(endpoint.name)
        side = "client" if 400 <= status < 500 else "server"
        message = (
            f'Received {side} error ({status}) from primary with message "{words}". See https://{self._region}.console.'
            f"aws.amazon.com/cloudwatch/home?region={self._region}#logEventViewer:group={group} in account "
            f"{session.account} for more information."
        )
        arn = f"arn:{session.partition}:logs:{self._region}:{session.account}:log-group:{group}"
        return ApiError(
            "ModelError", message, 424, OriginalStatusCode=status, OriginalMessage=words, LogStreamArn=arn
        )  # fmt: skip

    def _endpoint(self, name: str) -> Endpoint:
        endpoint = self._plane.endpoints.get(name)
        if endpoint is None or not endpoint.serving:
            raise _refused(f"Endpoint {name} of account {self._host.aws(self._region).account} not found.")
        return endpoint

    def _lease(self, endpoint: Endpoint, target: str | None) -> Lease:
        try:
            lease = endpoint.router.lease(target)
        except NoVariant:
            raise _refused(f"Variant {target} of endpoint {endpoint.name} not found.") from None
        if lease is None:
            raise _refused(f"Endpoint {endpoint.name} is not in service.")
        return lease


TOO_SLOW = (
    "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for "
    "each container in Amazon CloudWatch, resolve the issue, and try again."
)


class _Closing:
    """An iterator whose end, however it comes, is told: a client that goes away closes it too."""

    def __init__(self, inner: Iterator[bytes], end: Callable[[], None]) -> None:
        self._inner = inner
        self._end = end

    def __iter__(self) -> Iterator[bytes]:
        return self._inner

    def close(self) -> None:
        self._end()


def error_response(error: ApiError) -> Response:
    """As the runtime's protocol has it."""
    body = json.dumps({"Message": str(error), "message": str(error), **error.members})
    headers = {} if error.code.isdecimal() else {"x-amzn-ErrorType": error.code}
    return Response(body, error.status, headers, content_type="application/json")


def _parameters(operation: str, name: str, request: Request) -> dict[str, str]:
    """The operation's parameters out of the request's headers. Raises ApiError for those that are wrong or not done."""
    shape = service_model.operation("sagemaker-runtime", operation).input_shape
    headers = {
        member: inner.serialization["name"]
        for member, inner in shape.members.items()
        if inner.serialization.get("location") == "header"
    }
    given: dict[str, Any] = {
        member: request.headers[header] for member, header in headers.items() if header in request.headers
    }
    numbers = {
        member: int(value)
        for member, value in given.items()
        if shape.members[member].type_name == "integer" and value.isdecimal()
    }
    checked = {**given, **numbers, "EndpointName": name, "Body": b""}
    if wrong := list(service_model.shape_problems(checked, shape, "")):
        raise _refused("; ".join(wrong))
    if done := [member for member in NOT_DONE if member in given]:
        raise _refused(f"the emulator does not do {', '.join(done)} (SageMaker does)")
    return given


def _forwarded(given: Mapping[str, str]) -> dict[str, str]:
    """What SageMaker passes on; it strips all other headers."""
    names = {"ContentType": "Content-Type", "Accept": "Accept", "CustomAttributes": CUSTOM_ATTRIBUTES}
    return {header: given[member] for member, header in names.items() if member in given}


def _headers(answer: forward.Answer, lease: Lease) -> dict[str, str]:
    attributes = answer.header(CUSTOM_ATTRIBUTES)
    return {INVOKED_VARIANT: lease.variant.name} | ({CUSTOM_ATTRIBUTES: attributes} if attributes else {})


def _refused(message: str) -> ApiError:
    return ApiError("ValidationError", message)
