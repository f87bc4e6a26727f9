"""The emulator's one HTTP server: SageMaker's control plane and runtime are ours, every other service is moto's.

Which service is meant stands in the credential scope of a request's signature. Signatures are not verified, but
SageMaker's requests need one, by the emulator's key. /_emulator is for the kit itself: state, leftovers, faults.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from pydantic import ValidationError
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Request, Response

from deploy.aws import EMULATOR_KEY
from deploy.emulator import leftovers, rules, runtime
from deploy.emulator.control import ControlPlane
from deploy.emulator.errors import ApiError
from deploy.emulator.host import Host
from deploy.emulator.options import HOST, Options
from deploy.emulator.process import ADMIN_PATH
from deploy.emulator.runtime import Runtime

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SCOPE = re.compile(r"Credential=(?P<key>[^/]+)/\d{8}/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request")
INVOCATION = re.compile(r"/endpoints/(?P<name>[^/]+)/(?P<action>[^/]+)")
TARGET = "SageMaker."
JSON = "application/x-amz-json-1.1"


@dataclass(frozen=True)
class Region:
    """SageMaker in one region."""

    plane: ControlPlane
    runtime: Runtime


class Application:
    """WSGI."""

    def __init__(self, options: Options) -> None:
        self.host = Host(options)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._regions: dict[str, Region] = {}
        self._called = set[tuple[str, str]]()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        scope = SCOPE.search(request.headers.get("Authorization", ""))
        if request.path.startswith(ADMIN_PATH):
            return self._admin(request)(environ, start_response)
        if scope:
            with self._lock:
                self._called.add((scope["service"], scope["region"]))
        if (scope and scope["service"] == "sagemaker") or _is_sagemakers(request):
            return self._sagemaker(request, scope)(environ, start_response)
        answer: Iterable[bytes] = self._moto(environ, start_response)
        return answer

    def close(self) -> None:
        """Stop every container."""
        endpoints = [each for region in self._regions.values() for each in region.plane.endpoints.values()]
        threads = [threading.Thread(target=endpoint.close) for endpoint in endpoints]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _sagemaker(self, request: Request, scope: re.Match[str] | None) -> Response:
        invocation = INVOCATION.fullmatch(request.path)
        render = runtime.error_response if invocation else _error_response
        try:
            if scope is None:
                raise ApiError("MissingAuthenticationTokenException", "Missing Authentication Token", 403)
            if scope["key"] != EMULATOR_KEY:
                words = "The security token included in the request is invalid."
                raise ApiError("UnrecognizedClientException", words, 403)
            region = self._region(scope["region"])
            if invocation:
                return region.runtime.call(invocation["name"], invocation["action"], request)
            operation = request.headers.get("X-Amz-Target", "").removeprefix(TARGET)
            return _json(region.plane.call(operation, _document(request)), JSON)
        except ApiError as error:
            self.host.report(f"{request.path} {request.headers.get('X-Amz-Target', '')}: {error.code}: {error}"[:500])
            return render(error)

    def _admin(self, request: Request) -> Response:
        match request.method, request.path.removeprefix(ADMIN_PATH):
            case "GET", "/state":
                return _json(self._state())
            case "GET", "/leftovers":
                return _json({"leftovers": self._leftovers()})
            case "POST", "/faults":
                try:
                    return _json(self.host.faults.set(_document(request)))
                except (ApiError, ValidationError) as error:
                    return Response(str(error), 400)
            case _:
                return Response("GET /state, GET /leftovers, POST /faults", 404)

    def _state(self) -> dict[str, Any]:
        found = [each for region in self._regions.values() for each in region.plane.endpoints.values()]
        endpoints = [
            {
                "region": each.region,
                "name": each.name,
                "status": each.status,
                "containers": [container.pid for container in each.containers],
                "in_flight": each.fleet.in_flight if each.fleet else 0,
                "without_effect": rules.without_effect(each.snapshot.config, list(each.snapshot.models.values())),
            }
            for each in found
        ]
        stacks = leftovers.stacks(self.host, self._services())
        return {
            "endpoints": endpoints,
            "stacks": stacks,
            "in_use": bool(endpoints or stacks),
            "violations": self.host.violations,
            "faults": self.host.faults.now.model_dump(),
        }

    def _leftovers(self) -> list[str]:
        ours = [
            f"{kind} {name}"
            for region in self._regions.values()
            for kind, things in region.plane.things().items()
            for name in things
        ]
        return sorted({*ours, *leftovers.found(self.host, self._services())})

    def _services(self) -> set[tuple[str, str]]:
        """Those that were called, each with its region: moto takes seconds to load one, so others are not asked."""
        with self._lock:
            return set(self._called)

    def _region(self, name: str) -> Region:
        with self._lock:
            if name not in self._regions:
                plane = ControlPlane(self.host, name)
                self._regions[name] = Region(plane, Runtime(self.host, plane, name))
            return self._regions[name]


class Handler(MotoRequestHandler):  # type: ignore[misc]
    """Sends what is written at once, in one piece, and logs nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def handle_expect_100(self) -> bool:
        """Uploads wait for it a second."""
        goes_on = super().handle_expect_100()
        self.wfile.flush()
        return bool(goes_on)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Errors are told by the application."""


def bound(application: Application) -> BaseWSGIServer:
    """A server that listens. Raises SystemExit with the reason on standard error when its port is taken."""
    return make_server(
        HOST, application.host.options.port, application, threaded=True, request_handler=Handler
    )  # fmt: skip


def _is_sagemakers(request: Request) -> bool:
    """Without a signature: SageMaker's own words."""
    return bool(INVOCATION.fullmatch(request.path)) or request.headers.get("X-Amz-Target", "").startswith(TARGET)


def _document(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(request.get_data() or b"{}")
    except ValueError:
        raise ApiError("SerializationException", "The body is not JSON.") from None
    if not isinstance(found, dict):
        raise ApiError("SerializationException", "The body is not an object.")
    return found


def _json(document: dict[str, Any], content_type: str = "application/json") -> Response:
    return Response(json.dumps(document), content_type=content_type)


def _error_response(error: ApiError) -> Response:
    body = json.dumps({"__type": error.code, "message": str(error), **error.members})
    return Response(body, error.status, {"x-amzn-ErrorType": error.code}, content_type=JSON)
