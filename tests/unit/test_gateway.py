"""The gateway's configuration: pure text, which the real nginx reads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy import gateway_process
from deploy.gateway import (
    ERRORS,
    OPENAI_PATHS,
    SCRIPT,
    GatewayOptions,
    PublicModel,
    Tls,
    VersionedModel,
    nginx_conf,
    routes,
    torchserve_conf,
)
from deploy.nginx import Nginx, find_nginx
from deploy.render import TEMPLATES
from model_configs import HANDLERS_DIR
from model_configs.errors import Failed, KitError
from model_configs.gateway import GatewaySettings, Mirror

MODULE = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
MODEL = PublicModel("m", ("embeddings",))


def options(folder: Path = Path("/run/gateway"), **changes: Any) -> GatewayOptions:
    return replace(GatewayOptions(folder, 22700, (MODEL,)), **changes)


def locations(*models: PublicModel) -> dict[str, str]:
    return {route.location: route.target for route in routes(models)}


def test_one_model_has_all_paths() -> None:
    found = locations(MODEL)
    assert found["= /invocations"] == "/predictions/m"
    assert found["= /v1/embeddings"] == "/predictions/m/-/v1/embeddings"
    assert "= /v1/models" in found
    assert "= /v1/completions" not in found


def test_paths_that_could_mean_two_models_are_not_there() -> None:
    found = locations(MODEL, PublicModel("n", ("embeddings", "completions")))
    assert "= /invocations" not in found
    assert "= /v1/embeddings" not in found
    assert found["= /v1/completions"] == "/predictions/n/-/v1/completions"


def test_a_model_without_openai_s_dialect_has_none_of_its_paths() -> None:
    assert all("v1" not in location for location in locations(PublicModel("digits")))


def test_no_route_leads_beside_the_model_s_own_paths() -> None:
    for route in routes([MODEL, PublicModel("a.b"), PublicModel("n", OPENAI_PATHS["llama_handler.py"])]):
        assert re.fullmatch(r'\$uri|/predictions/[\w.-]+(/-/v1/[a-z/]+)?|".*"', route.target)
        if match := re.fullmatch('~ "(.*)"', route.location):
            pattern = re.compile(match[1])
            for path in (
                "/models",
                "/predictions/m/../../models",
                "/predictions/m/",
                "/predictions//m",
                "/x/predictions/m",
            ):
                assert not pattern.search(path)
            assert "a.b" not in route.model or not pattern.search("/predictions/aXb")


def test_every_handler_that_speaks_openai_s_dialect_is_known() -> None:
    speaking = {path.name for path in HANDLERS_DIR.glob("*_handler.py") if "model_list" in path.read_text()}
    speaking |= {path.name for path in HANDLERS_DIR.glob("*_handler.py") if "OPENAI" in path.read_text()}
    assert speaking <= set(OPENAI_PATHS)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "keys": {"keys": (Path("/some/keys"), Path("/run/a b/keys"))},
    "two slots": {"slots": 2},
    "ipv6": {"host": "::1"},
    "limits": {"settings": GatewaySettings(requests_per_minute=600, burst=0, max_concurrent=4)},
    "mirror": {"settings": GatewaySettings(mirror=Mirror(url="https://other.example/x", sample=0.0125))},
    "whole mirror": {"settings": GatewaySettings(mirror=Mirror(url="http://other", sample=1.0), requests_per_minute=9)},
    "several models": {"models": (MODEL, PublicModel("a.b-c_d", ("completions",)), PublicModel("digits"))},
    "output": {"log_to_output": True},
}


@pytest.mark.parametrize("case", CASES)
def test_nginx_takes_it(case: str, tmp_path: Path) -> None:
    folder = gateway_process.prepare(tmp_path / "a folder; with {odd} 'letters'")
    own = options(folder, **CASES[case])
    (folder / SCRIPT).write_text((TEMPLATES / SCRIPT).read_text())
    module = find_nginx().js_module
    (folder / "nginx.conf").write_text(nginx_conf(own, module))
    (folder / "torchserve-1.conf").write_text(
        torchserve_conf(own, "torchserve-1", 1234, "a-token", [VersionedModel("m", "1.0")], module)
    )
    for name in ("nginx", "torchserve-1"):
        Nginx(folder, name).test()


def test_what_nginx_refuses_is_told(tmp_path: Path) -> None:
    folder = gateway_process.prepare(tmp_path)
    (folder / "nginx.conf").write_text("nonsense;")
    with pytest.raises(Failed, match="unknown directive"):
        Nginx(folder, "nginx").test()


def test_the_configuration_says_what_the_options_say() -> None:
    text = nginx_conf(options(settings=GatewaySettings(max_body_bytes=12345, requests_per_minute=7)), MODULE)
    for words in ("client_max_body_size 12345;", "rate=7r/m", "burst=20 nodelay", "larger than 12345 bytes"):
        assert words in text
    for words in ("limit_conn ", "ssl", "mirror", "/dev/stdout"):
        assert words not in text
    assert "proxy_buffering off;" in text
    assert 'default "";' in nginx_conf(options(), MODULE)


@pytest.mark.parametrize(("sample", "words"), [(1.0, "{ * yes;"), (0.5, "50.00% yes; * "), (0.0001, "0.01% yes; * ")])
def test_the_sample(sample: float, words: str) -> None:
    settings = GatewaySettings(mirror=Mirror(url="http://other", sample=sample))
    assert words in nginx_conf(options(settings=settings), MODULE)


def test_tls_files_are_named(tmp_path: Path) -> None:
    text = nginx_conf(options(tls=Tls(Path("/c/cert.pem"), Path("/c/key.pem"))), MODULE)
    assert "listen 127.0.0.1:22700 ssl;" in text
    assert 'ssl_certificate "/c/cert.pem";' in text
    assert "ssl_protocols TLSv1.2 TLSv1.3;" in text


def test_the_token_is_only_before_torchserve() -> None:
    inner = torchserve_conf(options(), "torchserve-9", 9, "to ken", [VersionedModel("m", "2.0")], MODULE)
    assert 'proxy_set_header Authorization "Bearer to ken";' in inner
    assert "proxy_pass http://torchserve/predictions/m/2.0$rest;" in inner
    assert "to ken" not in nginx_conf(options(), MODULE)
    assert 'Authorization "";' in torchserve_conf(options(), "torchserve-9", 9, None, [], MODULE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keys": (Path("/a:b"),)}, "colon"),
        ({"keys": (Path("/a$b"),)}, "cannot stand in nginx's configuration"),
        ({"tls": Tls(Path("/a\nb"), Path("/k"))}, "cannot stand in nginx's configuration"),
        ({"folder": Path("/run/$folder")}, "cannot stand in nginx's configuration"),
    ],
)
def test_names_that_nginx_would_misread(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(KitError, match=words):
        nginx_conf(options(**changes), MODULE)


def test_error_messages_are_safe_in_json_and_in_nginx() -> None:
    for texts in ERRORS.values():
        assert not re.search(r'["\\$\n]', "".join(texts))
