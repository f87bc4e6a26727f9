"""What the command line says of a run, over what the model's YAML says. Knows neither typer nor Locust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from model_configs.errors import KitError
from model_configs.loadtest import LoadTest, Slo
from servekit.strict import problems


def overridden(load: LoadTest | None, given: Mapping[str, Any]) -> LoadTest:
    """The YAML's section with the options that were given, those that are not None. Raises KitError."""
    keys = {**(load.model_dump(exclude_unset=True) if load else {})}
    keys |= {key: value for key, value in given.items() if value is not None}
    if "arrivals" in given and given["arrivals"] is not None:
        # What belongs to the YAML's own arrivals has no meaning for others.
        for kind, key in (("ramp", "end_rate"), ("trace", "trace")):
            if given["arrivals"] != kind and given.get(key) is None:
                keys.pop(key, None)
    if "payloads" not in keys:
        raise KitError("payloads: which?", "--payloads NAME, a folder of loadtest/payloads, or a path")
    try:
        return LoadTest.model_validate(keys)
    except ValidationError as error:
        raise KitError("\n       ".join(problems(error, LoadTest)), "see loadtest/README.md") from None


def slo_of(pairs: Sequence[str]) -> dict[str, Any] | None:
    """An SLO from METRIC.PERCENTILE=MS, error_rate=SHARE and strict=true; None from none. Raises KitError."""
    if not pairs:
        return None
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        metric, dot, name = key.strip().partition(".")
        try:
            if not equals:
                raise ValueError
            if dot:
                found.setdefault(metric, {})[name] = float(value)
            else:
                found[metric] = value.strip() == "true" if metric == "strict" else float(value)
        except (ValueError, AttributeError, TypeError):
            raise KitError(
                f"--slo {pair}: not METRIC.PERCENTILE=MS", "--slo e2e_sched_ms.p95=100 --slo error_rate=0.001"
            ) from None
    try:
        Slo.model_validate(found)
    except ValidationError as error:
        raise KitError(
            "\n       ".join(f"--slo {line}" for line in problems(error, Slo)), "--slo METRIC.p95=MS"
        ) from None
    return found
