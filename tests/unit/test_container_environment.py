"""deploy/container_environment.py: the table, a test a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.container_environment import NOT_FOLLOWED, ROWS, Environment, read_environment
from model_configs.errors import KitError
from model_configs.gateway import GatewaySettings

# variable, what it may say, where that goes, what may not be said
CASES: list[tuple[str, str, dict[str, Any], list[str]]] = [
    ("SERVEKIT_MODEL_DIR", "/m", {"model_dir": Path("/m")}, []),
    ("SERVEKIT_RUN_DIR", "/r", {"run_dir": Path("/r")}, []),
    ("SERVEKIT_HOST", "127.0.0.1", {"host": "127.0.0.1"}, []),
    ("SERVEKIT_METRICS_PORT", "8082", {"metrics_port": 8082}, ["0", "65536", "http"]),
    ("SERVEKIT_KEYS_DIR", "/k", {"keys_dir": Path("/k")}, []),
    (
        "SERVEKIT_GATEWAY",
        '{"max_body_bytes": 1000}',
        {"gateway": GatewaySettings(max_body_bytes=1000)},
        ["{", "[]", '{"max_body_bytes": "1000"}', '{"max_body": 1}'],
    ),
    ("SERVEKIT_DRAIN_DELAY_S", "5", {"drain_delay_s": 5}, ["-1", "5s"]),
    ("SERVEKIT_DRAIN_TIMEOUT_S", "0", {"drain_timeout_s": 0}, ["-1", "1.5"]),
    ("SAGEMAKER_BIND_TO_PORT", "8080", {"port": 8080}, ["0", "65536", "-1", "80a", "8080.0", "９０９０x", "1" * 30]),
    (
        "SAGEMAKER_SAFE_PORT_RANGE",
        "9000-9009",
        {"safe_ports": range(9000, 9010)},
        ["9000", "9009-9000", "9000-99999", "0-10", "9000 9009", "-9000-9009"],
    ),
    ("SAGEMAKER_CONTAINER_LOG_LEVEL", "20", {"log_level": "info"}, ["15", "INFO", "0"]),
    ("TS_DEFAULT_RESPONSE_TIMEOUT", "30", {"torchserve": {"responseTimeout": 30}}, ["0", "30s"]),
    ("TS_DEFAULT_STARTUP_TIMEOUT", "30", {"torchserve": {"startupTimeout": 30}}, ["0", "1e3"]),
    ("TS_DEFAULT_WORKERS_PER_MODEL", "3", {"torchserve": {"minWorkers": 3, "maxWorkers": 3}}, ["0", "auto"]),
    ("TS_JOB_QUEUE_SIZE", "7", {"torchserve": {"jobQueueSize": 7}}, ["0", "-7"]),
    ("TS_MAX_RESPONSE_SIZE", "7", {"properties": {"max_response_size": "7"}}, ["0", "7MB"]),
    ("TS_NUMBER_OF_GPU", "0", {"properties": {"number_of_gpu": "0"}}, ["-1", "all"]),
    ("TS_NUMBER_OF_NETTY_THREADS", "2", {"properties": {"number_of_netty_threads": "2"}}, ["-2"]),
    ("TS_NETTY_CLIENT_THREADS", "2", {"properties": {"netty_client_threads": "2"}}, ["two"]),
    ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "45", {"torchserve": {"responseTimeout": 45}}, ["0", "45.5"]),
    ("SAGEMAKER_MODEL_SERVER_WORKERS", "2", {"torchserve": {"minWorkers": 2, "maxWorkers": 2}}, ["0", "many"]),
    ("SAGEMAKER_TS_BATCH_SIZE", "4", {"torchserve": {"batchSize": 4}}, ["0", "four"]),
    ("SAGEMAKER_TS_MAX_BATCH_DELAY", "0", {"torchserve": {"maxBatchDelay": 0}}, ["-1", "5ms"]),
    ("SAGEMAKER_TS_MIN_WORKERS", "1", {"torchserve": {"minWorkers": 1}}, ["0"]),
    ("SAGEMAKER_TS_MAX_WORKERS", "2", {"torchserve": {"maxWorkers": 2}}, ["0"]),
    ("SAGEMAKER_TS_RESPONSE_TIMEOUT", "9", {"torchserve": {"responseTimeout": 9}}, ["0"]),
]
BAD = [(variable, text) for variable, _, _, texts in CASES for text in texts]


def test_every_row_has_a_case() -> None:
    assert [case[0] for case in CASES] == [row.variable for row in ROWS]


@pytest.mark.parametrize(
    ("variable", "text", "expected"), [case[:3] for case in CASES], ids=lambda each: str(each)[:40]
)
def test_a_value_goes_where_its_row_says(variable: str, text: str, expected: dict[str, Any]) -> None:
    by = dict.fromkeys(expected.get("torchserve", {}), variable)
    assert read_environment({variable: text}) == Environment(**expected, given_by=by)
    assert read_environment({variable: f" {text}\n"}) == Environment(**expected, given_by=by)


@pytest.mark.parametrize(("variable", "text"), BAD)
def test_a_value_that_cannot_be_meant_is_named(variable: str, text: str) -> None:
    with pytest.raises(KitError) as caught:
        read_environment({variable: text})
    assert str(caught.value).startswith(f"{variable}={text}: not ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.variable)
def test_an_empty_value_is_none(row: Any) -> None:
    assert read_environment({row.variable: ""}) == read_environment({row.variable: "  "}) == Environment()


def test_what_is_not_followed_is_told_with_its_reason() -> None:
    environment = read_environment({"TS_INSTALL_PY_DEP_PER_MODEL": "true", "PATH": "/bin", "SAGEMAKER_REGION": "x"})
    assert environment == Environment(
        notes=(
            "TS_INSTALL_PY_DEP_PER_MODEL is not followed: dependencies are in the image; nothing is installed at start",
        )
    )
    for variable, reason in NOT_FOLLOWED.items():
        assert read_environment({variable: "x"}).notes == (f"{variable} is not followed: {reason}",)
    assert not NOT_FOLLOWED.keys() & {row.variable for row in ROWS}


def test_unknown_variables_of_torchserve_are_told_and_no_error() -> None:
    """An orchestrator makes TS_PORT of a service that is called ts."""
    assert read_environment({"TS_PORT": "tcp://10.0.0.1:80"}).notes == (
        "TS_PORT is not followed: it is no setting that is known here",
    )


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("SAGEMAKER_TS_BATCHSIZE", "did you mean SAGEMAKER_TS_BATCH_SIZE?"),
        ("SERVEKIT_KEY_DIR", "did you mean SERVEKIT_KEYS_DIR?"),
        ("SERVEKIT_QQQQQQQQQ", "see docker/README.md"),
    ],
)
def test_a_misspelt_setting_is_an_error(variable: str, hint: str) -> None:
    """SERVEKIT_KEY_DIR, passed over, would open an endpoint to everybody."""
    with pytest.raises(KitError, match=f"{variable} is no setting") as caught:
        read_environment({variable: "4"})
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "variable",
    [
        "SERVEKIT_CACHE",
        "SERVEKIT_PORT",
        "SERVEKIT_SERVICE_HOST",
        "SERVEKIT_CPU_PORT_8080_TCP_ADDR",
        "SERVEKIT_EMULATED_BY",
    ],
)
def test_other_peoples_variables_are_left_alone(variable: str) -> None:
    assert read_environment({variable: "x"}) == Environment()


def test_of_two_the_more_precise_wins() -> None:
    environment = read_environment(
        {
            "SAGEMAKER_TS_MAX_WORKERS": "4",
            "SAGEMAKER_MODEL_SERVER_WORKERS": "2",
            "TS_DEFAULT_WORKERS_PER_MODEL": "8",
            "SAGEMAKER_MODEL_SERVER_TIMEOUT": "60",
            "TS_DEFAULT_RESPONSE_TIMEOUT": "30",
        }
    )
    assert environment.torchserve == {"minWorkers": 2, "maxWorkers": 4, "responseTimeout": 60}
    assert environment.given_by["maxWorkers"] == "SAGEMAKER_TS_MAX_WORKERS"
    assert environment.given_by["minWorkers"] == "SAGEMAKER_MODEL_SERVER_WORKERS"


def test_several_models_in_one_container_are_not_sagemakers_way() -> None:
    assert read_environment({"SAGEMAKER_MULTI_MODEL": "false"}) == Environment()
    with pytest.raises(KitError, match="SAGEMAKER_MULTI_MODEL"):
        read_environment({"SAGEMAKER_MULTI_MODEL": "true"})
