"""What is made to fail, and how often."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from deploy.emulator.errors import ApiError
from deploy.emulator.faults import Injector


def test_each_fault_is_given_once() -> None:
    faults = Injector()
    faults.set({"fail_starts": 2, "refusals": 1, "refuse": "ModelNotReadyException"})
    assert [faults.take("fail_starts") for _ in range(3)] == [True, True, False]
    with pytest.raises(ApiError) as caught:
        faults.refuse()
    assert (caught.value.code, caught.value.status) == ("ModelNotReadyException", 429)
    faults.refuse()
    faults.set({"slow_s": 1.5})
    assert faults.now.slow_s == 1.5
    assert faults.now.refuse == "ModelNotReadyException"


@pytest.mark.parametrize("wrong", [{"fail_start": 1}, {"refuse": "Teapot"}, {"slow_s": -1.0}, {"refusals": "1"}])
def test_faults_that_are_not_known_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Injector().set(wrong)
