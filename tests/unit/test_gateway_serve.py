"""What is served behind a gateway, told before anything starts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from deploy import gateway_serve, local
from deploy.gateway import Tls
from deploy.gateway_process import Gateway
from deploy.local import Front, ServedModel, Server
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig, load_file, load_model
from servekit.golden import Golden

PORT = 22500


def configured(folder: Path, name: str, gateway: str = "") -> AnyModelConfig:
    deploy = f"deploy: {{gateway: {{{gateway}}}}}\n" if gateway else ""
    file = folder / f"{name}.yaml"
    file.write_text(
        f'model: {{name: {name}, version: "1.0", handler: embedding_handler.py, assets: {{path: x}}}}\n'
        f"torchserve: {{responseTimeout: 7}}\nhandler: {{}}\n{deploy}"
    )
    return load_file(file)


def plan(folder: Path, *configs: AnyModelConfig, **options: Any) -> gateway_serve.Plan:
    models = [ServedModel(each.model.name, "1.0", "x.mar", 1, 1, Golden({}, "vectors", [], 0)) for each in configs]
    return gateway_serve.plan(configs, models, folder, PORT, run_dir=folder / "run", **options)


def test_one_gateway_has_one_set_of_settings(tmp_path: Path) -> None:
    one, two = configured(tmp_path, "one", "burst: 3"), configured(tmp_path, "two")
    with pytest.raises(KitError, match=r"deploy.gateway differs between one and two"):
        plan(tmp_path, one, two)
    assert plan(tmp_path, one).options.settings.burst == 3


@pytest.mark.parametrize(
    "gateway",
    ["burst: -1", "max_body_bytes: 0", "brust: 3", "mirror: {url: other}", "mirror: {url: 'http://x', sample: 0}",
     "mirror: {url: 'http://x?y=1'}", "mirror: {url: 'http://x', sample: 1.5}", "mirror: {sample: 0.5}"],
)  # fmt: skip
def test_what_the_yaml_cannot_say(tmp_path: Path, gateway: str) -> None:
    with pytest.raises(KitError, match=r"deploy\.gateway\."):
        configured(tmp_path, "one", gateway)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"cert.pem cannot be read"):
        plan(tmp_path, configured(tmp_path, "one"), tls=Tls(tmp_path / "cert.pem", tmp_path / "key.pem"))
    with pytest.raises(KitError, match=r"nowhere cannot be read"):
        plan(tmp_path, configured(tmp_path, "one", "mirror: {url: 'http://x', key_file: /nowhere}"))


def test_the_options(tmp_path: Path) -> None:
    options = plan(tmp_path, configured(tmp_path, "one"), servers=2, keys_dir=Path("relative")).options
    assert (options.port, options.slots, options.response_timeout_s) == (PORT, 2, 12)
    assert options.keys == (Path.cwd() / "relative", tmp_path / "run" / str(PORT) / "keys")
    assert options.models[0].openai == ("embeddings",)
    assert plan(tmp_path, configured(tmp_path, "one"), auth=False).options.keys == ()


def test_every_model_of_the_project_can_have_one() -> None:
    for name in ("minilm", "digits", "pydoc-llama", "pydoc-rag"):
        config = load_model(name)
        model = ServedModel(name, "1.0", "x.mar", 1, 1, Golden({}, "vectors", [], 0))
        assert gateway_serve.plan([config], [model], Path("/store"), PORT).options.models[0].name == name


def test_inner_ports_are_free_ones(tmp_path: Path) -> None:
    first = gateway_serve.free_ports(PORT, tmp_path).inference
    assert first >= PORT + 100
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + 1))  # its management port
        assert gateway_serve.free_ports(PORT, tmp_path).inference > first
    # One that starts listens nowhere yet.
    folder = tmp_path / str(first)
    folder.mkdir()
    local._write(Server(1, first, True, folder, folder, (), Front(PORT, False)))
    assert gateway_serve.free_ports(PORT, tmp_path).inference > first


def test_a_server_knows_its_gateway(tmp_path: Path) -> None:
    folder = tmp_path / "22600"
    folder.mkdir()
    plain = Server(1, 22600, True, folder, folder, ())
    behind = Server(1, 22600, True, folder, folder, (), Front(PORT, False))
    tls = Server(1, 22600, True, folder, folder, (), Front(PORT, True))
    assert [server.url.rsplit(":", 1)[-1] for server in (plain, behind, tls)] == ["22600", str(PORT), "22600"]
    assert behind.client_key_file == tmp_path / str(PORT) / local.KEY_FILE
    assert tls.client_key_file == plain.client_key_file == folder / local.KEY_FILE
    assert [server.is_at(PORT) for server in (plain, behind, tls)] == [False, True, True]
    assert plain.is_at(None)
    assert Server(1, 2, False, folder, folder, ()).client_key_file is None
    found = [plain.client_key]
    (folder / local.KEY_FILE).write_text('{"inference": {"key": "k"}}')
    assert [*found, plain.client_key] == [None, "k"]
    local._write(behind)
    assert local.read_server(folder) == behind


def test_two_restarts_do_not_meet(tmp_path: Path) -> None:
    folder = tmp_path / "run" / str(PORT)
    folder.mkdir(parents=True)
    gateway = Gateway(PORT, folder, False, False, (), 60, 60)
    wanted = plan(tmp_path, configured(tmp_path, "one"))
    with (
        gateway_serve._only_restart(gateway),
        pytest.raises(KitError, match=f"the gateway on port {PORT} is being restarted"),
    ):
        list(gateway_serve.restart(gateway, wanted))
    assert list(gateway_serve.restart(gateway, wanted)) == []
