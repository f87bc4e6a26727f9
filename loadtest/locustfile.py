"""Locust against a served model: every user posts the next file of a folder when the last one is answered.

    locust -f loadtest/locustfile.py --headless --users 8 --run-time 20s --host http://127.0.0.1:8080 \\
        --model digits --payloads loadtest/payloads/digits

The token is read from the environment's SERVEKIT_TOKEN. A closed loop: its percentiles do not show what clients would
have seen who do not wait for each other.
"""

import itertools
import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from locust import FastHttpUser, constant, events, task
from locust.env import Environment


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default="digits", help="the model's name on the server")
    parser.add_argument("--payloads", default="loadtest/payloads/digits", help="a folder of files, one a request")
    parser.add_argument("--content-type", default="application/octet-stream", help="the requests' content type")


def _read_payloads(environment: Environment, **_: object) -> None:
    options: Any = environment.parsed_options
    files = sorted(path for path in Path(options.payloads).iterdir() if path.is_file())
    if not files:
        raise ValueError(f"{options.payloads} holds no files")
    Client.bodies = itertools.cycle([path.read_bytes() for path in files])
    Client.path = f"/predictions/{options.model}"
    Client.headers = {"Content-Type": options.content_type}
    if token := os.environ.get("SERVEKIT_TOKEN"):
        Client.headers["Authorization"] = f"Bearer {token}"


class Client(FastHttpUser):
    """One client that waits for each answer."""

    wait_time = constant(0)
    connection_timeout = network_timeout = 120.0
    bodies: "itertools.cycle[bytes]"
    path: str
    headers: dict[str, str]

    @task
    def classify(self) -> None:
        """Post one file."""
        self.client.post(self.path, data=next(Client.bodies), headers=Client.headers)  # type: ignore[arg-type]


events.init_command_line_parser.add_listener(_add_arguments)  # type: ignore[no-untyped-call]
events.test_start.add_listener(_read_payloads)  # type: ignore[no-untyped-call]
