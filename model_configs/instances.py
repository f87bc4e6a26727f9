"""What the name of an instance type tells: whether SageMaker has it, which processor it holds, which image fits.

By AWS's naming scheme and botocore's own list. Knows no prices and no sizes.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

from servekit.strict import closest

Flavour = Literal["cpu", "cpu-arm64", "cuda", "neuronx", "ipex"]
"""The kit's images, by their tags."""

GRAVITON = re.compile(r"[a-z]+\d+g[a-z]*")
"""c7g, m6gd, c6gn: a g behind the generation; g5 and g6e are GPUs."""
NVIDIA = re.compile(r"[gp]\d.*")
NEURON = re.compile(r"(inf2|trn\d).*")
OWN_DISK = re.compile(r"(g5|g6|p5|trn1).*|.*d.*")
"""Families with disks of their own and no EBS volume, as the SageMaker SDK tells them (utils.volume_size_supported)."""


@cache
def sagemaker_types() -> tuple[str, ...]:
    """Every instance type that a SageMaker endpoint can have, as this version of botocore lists them."""
    from botocore.loaders import Loader  # images read YAMLs too, and have no botocore

    model = Loader().load_service_model("sagemaker", "service-2")
    return tuple(model["shapes"]["ProductionVariantInstanceType"]["enum"])


def checked_sagemaker_type(name: str) -> str:
    """The name. Raises ValueError when SageMaker has no such instance type."""
    if name in sagemaker_types():
        return name
    near = f"ml.{name}" if f"ml.{name}" in sagemaker_types() else closest(name, sagemaker_types())
    advice = f"did you mean {near}?" if near else "they are named like ml.c7i.xlarge"
    raise ValueError(f"{name!r} is no instance type of SageMaker's; {advice}")


def family(instance_type: str) -> str:
    """inf2 of ml.inf2.24xlarge, c7g of c7g.large."""
    return instance_type.removeprefix("ml.").split(".")[0]


def flavour(instance_type: str) -> Flavour | None:
    """The image that fits the processor; None for Inferentia 1, which the kit has none for."""
    kind = family(instance_type)
    if kind == "inf1":
        return None
    if NEURON.fullmatch(kind):
        return "neuronx"
    if NVIDIA.fullmatch(kind):
        return "cuda"
    return "cpu-arm64" if GRAVITON.fullmatch(kind) else "cpu"


def has_own_disk(instance_type: str) -> bool:
    """Whether models lie on the instance's own disk, so that neither a volume's size nor its key can be set."""
    return bool(OWN_DISK.fullmatch(family(instance_type)))
