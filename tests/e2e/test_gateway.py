"""A real nginx and a real health process before a scripted TorchServe: what gets through, what does not, and how."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from deploy import gateway_process, keys
from deploy.gateway import PublicModel, Tls
from model_configs.gateway import GatewaySettings
from tests.fakes.gateways import Reply, Running, processes_in, raw, running

PORT = 22510
TOKEN = "torchserve-token"
OK = [[0.6, 0.8]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One TorchServe that wants its token, no keys for clients, small limits."""
    settings = GatewaySettings(max_body_bytes=100_000, header_timeout_s=1, body_timeout_s=1)
    with running(
        tmp_path_factory.mktemp("gateway"), PORT, tokens=(TOKEN,), settings=settings, response_timeout_s=1
    ) as found:
        found.wait_well()
        yield found


def first_lines(gateway: Running) -> list[str]:
    return [request["head"].split("\r\n")[0] for request in gateway.fakes[0].requests()]


@pytest.mark.parametrize(
    ("method", "path", "arrives"),
    [
        ("POST", "/invocations", "POST /predictions/m HTTP/1.1"),
        ("POST", "/predictions/m", "POST /predictions/m HTTP/1.1"),
        ("PUT", "/predictions/m", "PUT /predictions/m HTTP/1.1"),
        ("POST", "/predictions/m/1.0", "POST /predictions/m/1.0 HTTP/1.1"),
        ("POST", "/predictions/m?url_path=/models&x=1", "POST /predictions/m HTTP/1.1"),
        ("POST", "/predictions/m/1.0/v1/embeddings", "POST /predictions/m/1.0/v1/embeddings HTTP/1.1"),
        ("POST", "/v1/embeddings", "POST /predictions/m/1.0/v1/embeddings HTTP/1.1"),
    ],
)
def test_inference_paths_reach_torchserve_with_its_token(
    gateway: Running, method: str, path: str, arrives: str
) -> None:
    before = len(gateway.fakes[0].requests())
    reply = gateway.ask(method, path, b"a body", {"Content-Type": "text/plain", "Authorization": "Bearer mine"})
    assert (reply.status, json.loads(reply.body)) == (200, OK)
    request = gateway.fakes[0].requests(before + 1)[-1]
    first, *headers = request["head"].split("\r\n")
    assert first == arrives
    assert request["body"] == b"a body"
    assert "Content-Type: text/plain" in headers
    assert [line for line in headers if line.lower().startswith("authorization:")] == [f"Authorization: Bearer {TOKEN}"]
    assert TOKEN not in str(reply)


@pytest.mark.parametrize(
    "path",
    [
        "/", "/models", "/models/m", "/predictions", "/predictions/", "/predictions/other", "/metrics", "/workflows",
        "/explanations/m", "/api-description", "/wfpredict/m", "/v1/completions", "/v1/chat/completions", "/v2/health",
        "//models", "//predictions/m", "/predictions//m", "/predictions/../models", "/predictions/m/../../models",
        "/predictions/m/..", "/predictions/m/../m", "/predictions/m/.", "/./predictions/m", "/predictions/m/",
        "/predictions/m/%2e%2e/models", "/predictions/m%2f1.0", "/%70redictions/m", "/predictions/%6d", "/PREDICTIONS/m",
        "/predictions/m;x", "/predictions/m#f", "/predictions/m/1.0/v1/models/../embeddings", "/predictions/m/1.0/v1/x",
        "/predictions/m/1.0/extra", "/-/inference", "/-/models", "/-/error", "/-/copied", "/ping/", "//ping", "/state",
        "/invocations/", "/v1/embeddings/", "/predictions/m\\..\\models",
        "http://evil.example/models", "http://127.0.0.1:8081/models",
    ],
)  # fmt: skip
def test_everything_else_is_404_and_reaches_nobody(gateway: Running, path: str) -> None:
    before = first_lines(gateway)
    for method in ("GET", "POST"):
        request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        answer = raw(gateway.port, request.encode())
        assert answer.startswith(b"HTTP/1.1 404 "), answer
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "not_found"
    assert first_lines(gateway) == before


HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = b"GET /models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"GET /invocations\r\n\r\n", []),
        (b"GET /ping\r\n\r\n", []),
        (b"nonsense\r\n\r\n", [400]),
        (b"GET /ping HTTP/3.0\r\n\r\n", [505]),
        (b"GET /ping HTTP/1.1\r\n\r\n", [400]),
        (b"GET /ping%00 HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (b"CONNECT 127.0.0.1:8081 HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (b"TRACE /invocations HTTP/1.1\r\nHost: x\r\n\r\n", [405]),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, [400]),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED, [400]),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello" + SMUGGLED, [400]),
        (HEAD + b"Content-Length: 0x5\r\n\r\nhello" + SMUGGLED, [400]),
        (HEAD + b"Content-Length: -1\r\n\r\n" + SMUGGLED, [400]),
        (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED, [501]),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, [501]),
        (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED, [400]),
        (HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, [400]),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + SMUGGLED, [400]),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;a=\x00\r\nhello\r\n0\r\n\r\n" + SMUGGLED, [200, 404]),
        (HEAD + b"Content-Length: 5\r\n\r\nhello" + SMUGGLED, [200, 404]),
    ],
)  # fmt: skip
def test_what_is_no_plain_http_request_is_not_passed_on(gateway: Running, data: bytes, statuses: list[int]) -> None:
    before = len(first_lines(gateway))
    answer = raw(gateway.port, data)
    found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]
    assert found == statuses, answer
    if not statuses:  # HTTP/0.9 has no status
        assert b'"not_found"' in answer
    arrived = gateway.fakes[0].requests(before + statuses.count(200))[before:]
    assert [request["head"].split("\r\n")[0] for request in arrived] == ["POST /predictions/m HTTP/1.1"] * len(arrived)
    assert len(arrived) == statuses.count(200)
    for request in arrived:
        assert request["body"] == b"hello"
        assert "transfer-encoding" not in request["head"].lower()


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/invocations", "POST"),
        ("DELETE", "/predictions/m", "POST, PUT"),
        ("OPTIONS", "/predictions/m", "POST, PUT"),
        ("PUT", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET"),
    ],
)
def test_other_methods_are_405_and_told_which(gateway: Running, method: str, path: str, allowed: str) -> None:
    reply = gateway.ask(method, path)
    assert (reply.status, reply.error["code"], reply.headers["allow"]) == (405, "method_not_allowed", allowed)


def test_openai_s_list_of_models(gateway: Running) -> None:
    for path in ("/v1/models", "/predictions/m/1.0/v1/models"):
        reply = gateway.ask("GET", path)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        assert [model["id"] for model in json.loads(reply.body)["data"]] == ["m"]


@pytest.mark.parametrize("path", ["/ping", "/ready"])
def test_health_is_told_to_anybody(gateway: Running, path: str) -> None:
    assert (gateway.ask("GET", path).status, gateway.ask("HEAD", path).status) == (200, 200)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (HEAD + b"Content-Length: 100001\r\n\r\n", 413, "body_too_large"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n186a1\r\n" + b"x" * 100_001, 413, "body_too_large"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri_too_long"),
        (b"GET /ping HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431, "headers_too_large"),
    ],
)
def test_what_is_too_large(gateway: Running, data: bytes, status: int, code: str) -> None:
    answer = raw(gateway.port, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == code


def test_a_body_of_the_largest_size_arrives_whole(gateway: Running) -> None:
    before = len(gateway.fakes[0].requests())
    assert gateway.ask(script=b"x" * 100_000).status == 200
    assert len(gateway.fakes[0].requests(before + 1)[-1]["body"]) == 100_000


def test_a_large_answer_comes_whole(gateway: Running) -> None:
    assert len(gateway.ask(script={"bytes": 3_000_000}).body) == 3_000_002


@pytest.mark.parametrize("data", [b"POST /invocations HTTP/1.1\r\nHost:", HEAD + b"Content-Length: 5\r\n\r\nhel"])
def test_a_client_that_says_nothing_any_more_is_let_go(gateway: Running, data: bytes) -> None:
    before = len(first_lines(gateway))
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as wire:
        wire.sendall(data)
        with suppress(ConnectionResetError):
            assert wire.recv(100) == b""  # nginx sends no 408
    assert time.monotonic() - began < 4
    assert len(first_lines(gateway)) == before


def test_headers_that_drip_are_cut_off(gateway: Running) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as wire:
        began = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - began < 5:
                wire.sendall(b"X")
                time.sleep(0.1)
        assert time.monotonic() - began < 4


def test_answers_that_torchserve_does_not_give(gateway: Running) -> None:
    slow = gateway.ask(script={"delay_ms": 1800})
    assert (slow.status, slow.error["code"], slow.error["type"]) == (504, "timeout", "server_error")
    gone = gateway.ask(script={"abort": True})
    assert (gone.status, gone.error["code"]) == (502, "bad_gateway")


def test_a_full_queue_is_passed_on_with_when_to_come_again(gateway: Running) -> None:
    full = gateway.ask(script={"status": 503, "answer": {"code": 503}})
    assert (full.status, full.body, full.headers["retry-after"]) == (503, b'{"code": 503}', "1")
    own = gateway.ask(script={"status": 429, "headers": {"Retry-After": "7"}})
    assert (own.status, own.headers["retry-after"]) == (429, "7")
    assert "retry-after" not in gateway.ask().headers


def test_a_handler_s_headers_do_not_steer_nginx(gateway: Running) -> None:
    reply = gateway.ask(script={"headers": {"X-Accel-Redirect": "/-/models", "X-Handler": "kept"}})
    assert json.loads(reply.body) == OK
    assert reply.headers["x-handler"] == "kept"
    assert "x-accel-redirect" not in reply.headers


def test_requests_have_ids_and_access_lines(gateway: Running) -> None:
    made = gateway.ask().headers["x-request-id"]
    assert len(made) == 32
    asked = gateway.ask(headers={"X-Request-Id": "mine-1"})
    assert asked.headers["x-request-id"] == "mine-1"
    assert "X-Request-Id: mine-1" in gateway.fakes[0].requests()[-1]["head"]
    unsafe = gateway.ask(headers={"X-Request-Id": 'a"b'}).headers["x-request-id"]
    assert unsafe != 'a"b'
    lines = [json.loads(line) for line in (gateway.gateway.folder / "logs/access.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["id"] == "mine-1"]
    assert (line["status"], line["method"], line["path"], line["key"]) == (200, "POST", "/invocations", "")
    assert line["request_s"] >= 0


def test_a_connection_that_torchserve_ends_behind_an_answer_costs_no_request(gateway: Running) -> None:
    """As TorchServe does after a 4xx; nginx keeps connections and would meet the end of one."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
    for place in range(200):
        connection.request("POST", "/invocations", json.dumps({"close": place % 2 == 0}))
        reply = connection.getresponse()
        assert (reply.status, json.loads(reply.read())) == (200, OK)
    connection.close()


def test_a_stream_comes_piece_by_piece(gateway: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
    connection.request("POST", "/invocations", json.dumps({"tokens": 5, "gap_ms": 150}))
    reply = connection.getresponse()
    pieces, times = [], []
    while piece := reply.read1(100):
        pieces.append(piece)
        times.append(time.monotonic())
    connection.close()
    assert b"".join(pieces) == b"t0 t1 t2 t3 t4 "
    assert len(pieces) >= 3
    assert times[-1] - times[0] > 0.3  # nothing was held back


def test_torchserve_is_told_when_a_client_has_gone(gateway: Running) -> None:
    before = len(gateway.fakes[0].requests())
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
    connection.request("POST", "/invocations", json.dumps({"tokens": 1000, "gap_ms": 20}))
    assert connection.getresponse().read1(10)
    connection.close()
    assert gateway.fakes[0].requests(before + 1)[-1]["cut"]


def test_the_gateway_s_own_files_are_nobody_else_s(gateway: Running) -> None:
    folder = gateway.gateway.folder
    assert folder.stat().st_mode & 0o077 == 0
    for path in folder.glob("*.conf"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert gateway.gateway.alive


def test_keys(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    _, everything = keys.add(folder, "all")
    _, other = keys.add(folder, "other", ("another",))
    _, short = keys.add(folder, "short", days=1e-6)
    _, long = keys.add(folder, "long", days=1)
    unreadable, odd = keys.add(folder, "odd", days=1)
    file = folder / f"{unreadable.id}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "expires": "soon"}))
    _, foreign = keys.add(tmp_path / "elsewhere", "foreign")
    with running(tmp_path, PORT + 20, keys=(folder,)) as gateway:

        def ask(authorization: str | None, path: str = "/invocations", method: str = "POST") -> Reply:
            return gateway.ask(method, path, headers={"Authorization": authorization} if authorization else {})

        wrong = everything[:-1] + ("A" if everything[-1] != "A" else "B")
        cases = [
            None,
            "",
            "Bearer",
            "Bearer ",
            f"Basic {everything}",
            everything,
            f"Bearer {wrong}",
            f"Bearer {foreign}",
        ]
        cases += [f"Bearer {everything}x", f"Bearer  {everything}", "Bearer sk-../../../etc-" + "A" * 43]
        for authorization in cases:
            refused = ask(authorization)
            assert (refused.status, refused.error["code"]) == (401, "invalid_api_key"), authorization
            assert refused.headers["www-authenticate"] == "Bearer"
        assert gateway.fakes[0].requests() == []
        assert ask(f"Bearer {everything}").status == ask(f"bearer {everything}").status == 200
        forbidden = ask(f"Bearer {other}")
        assert (forbidden.status, forbidden.error["type"]) == (403, "permission_error")
        assert [ask(f"Bearer {key}").status for key in (short, long, odd)] == [401, 200, 401]
        assert (ask(None, "/v1/models", "GET").status, ask(f"Bearer {other}", "/v1/models", "GET").status) == (401, 200)
        assert (gateway.ask("GET", "/ping").status, ask(None, "/models", "GET").status) != (401, 401)
        # A key counts from the next request on, and no longer: nothing is reloaded.
        kept = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
        key, fresh = keys.add(folder, "fresh")
        for status in (200, 401):
            kept.request("POST", "/invocations", b"{}", {"Authorization": f"Bearer {fresh}"})
            reply = kept.getresponse()
            assert (reply.status, bool(reply.read())) == (status, True)
            if status == 200:
                keys.revoke(folder, key.id)
        kept.close()
        lines = (gateway.gateway.folder / "logs/access.jsonl").read_text()
        assert '"key":"fresh"' in lines
        assert fresh not in lines + "".join(str(request) for request in gateway.fakes[0].requests())


def test_limits_are_each_key_s_own(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    (_, one), (_, two) = keys.add(folder, "one"), keys.add(folder, "two")
    settings = GatewaySettings(requests_per_minute=1, burst=3, max_concurrent=2)
    with running(tmp_path, PORT + 40, keys=(folder,), settings=settings) as gateway:

        def ask(key: str, delay_ms: int = 0) -> Reply:
            return gateway.ask(script={"delay_ms": delay_ms}, headers={"Authorization": f"Bearer {key}"})

        with ThreadPoolExecutor(4) as pool:
            at_once = list(pool.map(lambda _: ask(one, 1000), range(4)))
        assert sorted(reply.status for reply in at_once) == [200, 200, 429, 429]
        refused = [reply for reply in at_once if reply.status == 429]
        assert [reply.error["type"] for reply in refused] == ["rate_limit_error"] * 2
        assert {reply.headers["retry-after"] for reply in refused} == {"1"}
        assert ask(one).status == 429  # four have come already
        assert [ask(two).status for _ in range(5)] == [200, 200, 200, 200, 429]


def test_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", certificate, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    with running(tmp_path, PORT + 60, tls=Tls(certificate, key)) as gateway:
        trusted = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection("localhost", gateway.port, timeout=5, context=trusted)
        connection.request("POST", "/invocations", b"{}")
        reply = connection.getresponse()
        assert (reply.status, json.loads(reply.read())) == (200, OK)
        assert reply.getheader("Strict-Transport-Security") == "max-age=31536000"
        assert connection.sock.version() == "TLSv1.3"
        connection.close()
        plain = raw(gateway.port, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert plain.startswith(b"HTTP/1.1 400 ")
        assert b'"bad_request"' in plain
        old = ["openssl", "s_client", "-connect", f"localhost:{gateway.port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]
        assert subprocess.run(old, input=b"", capture_output=True, check=False).returncode != 0


def test_several_models(tmp_path: Path) -> None:
    models = (PublicModel("a", ("embeddings",)), PublicModel("b.x", ("embeddings", "completions")), PublicModel("c"))
    with running(tmp_path, PORT + 80, models=models) as gateway:
        assert gateway.ask(path="/predictions/c").status == 200
        assert gateway.ask(path="/v1/completions").status == 200
        # Which one is meant? And `.` is no wildcard.
        for path in ("/invocations", "/v1/embeddings", "/predictions/bXx", "/predictions/c/1.0/v1/embeddings"):
            assert gateway.ask(path=path).status == 404
        firsts = [request["head"].split(" HTTP")[0] for request in gateway.fakes[0].requests()]
        assert firsts == ["POST /predictions/c", "POST /predictions/b.x/1.0/v1/completions"]
        listed = json.loads(gateway.ask("GET", "/v1/models").body)["data"]
        assert [model["id"] for model in listed] == ["a", "b.x", "c"]


def test_ping_is_true(tmp_path: Path) -> None:
    with running(tmp_path, PORT + 100, tokens=("secret",)) as gateway:
        fake = gateway.fakes[0]

        def ping() -> int:
            began = time.monotonic()
            status = gateway.ask("GET", "/ping").status
            assert time.monotonic() - began < 2
            return status

        def told(words: str) -> None:
            gateway.wait(lambda: words in "".join(gateway.gateway.problems()))

        gateway.wait_well()
        assert (ping(), gateway.ask("GET", "/ready").status) == (200, 200)
        # A worker is gone, and comes back as another process.
        fake.control(workers=[["UNLOADING", -1]])
        told("0 of 1 workers are READY (UNLOADING)")
        assert ping() == 503
        fake.control(workers=[["READY", 1002]])
        gateway.wait_well()
        assert ping() == 200
        # Once more each time somebody looks, READY all the same.
        for pid in (1003, 1004):
            fake.control(workers=[["READY", pid]])
            time.sleep(1.3)
        told("3 restarts of workers within 300 s")
        assert ping() == 503
        gateway.gateway.drain()
        assert gateway.ask("GET", "/ready").status == 503
        assert gateway.ask().status == 200


def test_ping_before_and_under_load(tmp_path: Path) -> None:
    with running(tmp_path, PORT + 120, control={"golden": "wrong"}) as gateway:
        fake = gateway.fakes[0]
        gateway.wait(lambda: "cosine 0.96" in "".join(gateway.gateway.problems()))
        assert gateway.ask("GET", "/ping").status == 503
        fake.control(golden="broken")
        gateway.wait(lambda: "the golden request got 503" in "".join(gateway.gateway.problems()))
        fake.control()
        gateway.wait_well()
        # From here on nothing answers in time: that is no reason to end it.
        fake.control(golden="full", silent_ms=3000)
        time.sleep(1.2)
        began = time.monotonic()
        assert [gateway.ask("GET", path).status for path in ("/ping", "/ready")] == [200, 200]
        assert time.monotonic() - began < 2


def test_one_of_two_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, PORT + 140, tokens=("one", "two")) as gateway:
        gateway.wait_well()
        statuses: list[int] = []

        def load() -> None:
            while not stop.is_set():
                statuses.append(gateway.ask(script={"delay_ms": 5}).status)

        stop = threading.Event()
        clients = [threading.Thread(target=load) for _ in range(4)]
        for client in clients:
            client.start()
        time.sleep(0.4)
        gateway.fakes[0].kill()
        time.sleep(1.0)
        stop.set()
        for client in clients:
            client.join()
        assert len(statuses) > 80
        assert set(statuses) == {200}  # what it was answering was asked again
        assert all(len(fake.requests()) > 10 for fake in gateway.fakes)
        assert gateway.ask("GET", "/ping").status == 200
        gateway.fakes[1].kill()
        gateway.wait(lambda: gateway.ask("GET", "/ping").status == 503)
        gone = gateway.ask()
        assert (gone.status, gone.error["code"]) == (502, "bad_gateway")


def test_torchserve_is_exchanged_under_load(tmp_path: Path) -> None:
    """The part of a rolling restart that is nginx's, again and again: kept connections, whole answers and streams."""
    with running(tmp_path, PORT + 220) as gateway:
        port, stop = gateway.port, threading.Event()
        found: list[tuple[int, bytes]] = []

        def load(script: dict[str, int]) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            while not stop.is_set():
                connection.request("POST", "/invocations", json.dumps(script))
                reply = connection.getresponse()
                found.append((reply.status, reply.read()))
            connection.close()

        streamed = b"".join(b"t%d " % number for number in range(20))
        scripts: list[dict[str, int]] = [{}, {}, {"delay_ms": 20}, {"tokens": 20, "gap_ms": 15}]
        with ThreadPoolExecutor(len(scripts)) as pool:
            clients = [pool.submit(load, script) for script in scripts]
            try:
                for _ in range(4):
                    gateway.exchange()
                    time.sleep(0.2)
            finally:
                stop.set()
            for client in clients:
                client.result()
        assert len(found) > 200
        assert set(found) == {(200, json.dumps(OK).encode()), (200, streamed)}
        assert [fake.process.poll() is None for fake in gateway.fakes] == [True]


def test_it_stops_without_leaving_anything(tmp_path: Path) -> None:
    with running(tmp_path, PORT + 160, settings=GatewaySettings(drain_timeout_s=5)) as gateway:
        folder = gateway.gateway.folder
        (found,) = gateway_process.gateways(tmp_path / "run")
        assert found == gateway.gateway
        with ThreadPoolExecutor(1) as pool:
            stream = pool.submit(gateway.ask, script={"tokens": 10, "gap_ms": 100})
            time.sleep(0.3)
            assert found.stop(10)  # the stream had its time
            assert stream.result().body.endswith(b"t9 ")
        assert processes_in(folder) == []
        assert [path.name for path in folder.iterdir()] == ["logs"]
        assert gateway_process.gateways(tmp_path / "run") == []


def test_a_dead_master_s_workers_are_swept_too(tmp_path: Path) -> None:
    with running(tmp_path, PORT + 180) as gateway:
        master = gateway.gateway.nginx.pid
        assert master
        subprocess.run(["kill", "-9", str(master)], check=True)
        gateway.wait(lambda: not gateway.gateway.alive)
        assert "nginx does not run" in gateway.gateway.problems()[0]
        gateway_process.sweep(gateway.gateway.folder)
        assert processes_in(gateway.gateway.folder) == []
