"""An emulator's options, by variables of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.emulator.options import Options, from_environment
from model_configs.errors import KitError


def test_options_go_to_the_process_and_come_back(tmp_path: Path) -> None:
    options = Options(port=21541, folder=tmp_path, time_scale=0.5, container="python x.py serve")
    assert from_environment(options.environment()) == options
    assert from_environment({"HOME": "/"}) == Options()


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "many"), ("PORT", "80"), ("TIME_SCALE", "2"), ("LIMIT_SCALE", "0"), ("PROT", "1")],
)
def test_wrong_variables_are_named(name: str, value: str) -> None:
    with pytest.raises(KitError, match=f"SERVEKIT_EMULATOR_{name}: "):
        from_environment({f"SERVEKIT_EMULATOR_{name}": value})
