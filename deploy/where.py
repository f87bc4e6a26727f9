"""Where a model answers that is named on the command line: on this machine, at a URL, on SageMaker, on the emulator."""

from __future__ import annotations

from deploy import emulator, local
from deploy.aws import emulated_session, session
from deploy.client import (
    SAGEMAKER_SILENCE_S,
    TORCHSERVE_SILENCE_S,
    Endpoint,
    SageMakerEndpoint,
    TorchServeEndpoint,
)
from deploy.hosting import names
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig, load_model

SAGEMAKER = "sagemaker:"
LOCAL, EMULATOR = "local", "emulator"


def is_asked(
    config: AnyModelConfig,
    on: str,
    endpoint: str | None = None,
    region: str | None = None,
    port: int | None = None,
    timeout_s: float | None = None,
) -> Endpoint:
    """A model's own endpoint. on: local, sagemaker or emulator; endpoint: SageMaker's name of it, else the YAML's.

    timeout_s: longest wait for the next byte, else as long as is usual there. Raises KitError for what does not go
    together, and where it is not.
    """
    name = config.model.name
    if on == LOCAL:
        if endpoint or region:
            raise KitError("--endpoint and --region are SageMaker's", f"kit.py invoke {name} --on sagemaker …")
        return on_this_machine(name, port, timeout_s or TORCHSERVE_SILENCE_S)
    if port:
        raise KitError("--port is of a server on this machine", f"kit.py invoke {name} --on local …")
    wait_s = timeout_s or SAGEMAKER_SILENCE_S
    return on_sagemaker(endpoint or endpoint_name(config), region, emulated=on == EMULATOR, silence_s=wait_s)


def named(where: str | None, model: str, on: str, token: str | None, region: str | None) -> Endpoint:
    """sagemaker:NAME, a URL, another model's name, or None for the model itself, where on says. Raises KitError."""
    if where and where.startswith(SAGEMAKER):
        return on_sagemaker(where.removeprefix(SAGEMAKER), region, emulated=on == EMULATOR)
    if where and "://" in where:
        if not model:
            raise KitError(f"{where}: which model there?", "handler.answer.model in the YAML")
        return TorchServeEndpoint(where, model, token)
    if on == LOCAL:
        return on_this_machine(where or model)
    return is_asked(load_model(where or model), on, region=region)


def on_this_machine(model: str, port: int | None = None, silence_s: float = TORCHSERVE_SILENCE_S) -> TorchServeEndpoint:
    """The model on a server that `serve` started. Raises KitError when none has it."""
    for server in local.servers():
        if server.alive and server.is_at(port) and model in [served.name for served in server.models]:
            return TorchServeEndpoint(server.url, model, server.client_key, silence_s)
    raise KitError(f"no server here has {model}", f"kit.py serve {model}")


def on_sagemaker(
    endpoint: str, region: str | None, *, emulated: bool = False, silence_s: float = SAGEMAKER_SILENCE_S
) -> SageMakerEndpoint:
    """An endpoint by its name. Raises KitError without a region, credentials, or an emulator that runs."""
    if not emulated:
        return SageMakerEndpoint(endpoint, session(emulated=False, region=region), silence_s)
    found = emulator.running()
    if found is None:  # a new one would have no endpoints
        raise KitError("no emulator runs here", "kit.py deploy sagemaker MODEL apply --on emulator")
    return SageMakerEndpoint(endpoint, emulated_session(found.url, region), silence_s)


def endpoint_name(config: AnyModelConfig) -> str:
    """What a model's endpoint is called on SageMaker."""
    section = config.deploy.sagemaker if config.deploy else None
    return names.endpoint_name(config.model.name, section.endpoint_name if section else None)
