"""How the fastest step is chosen, without measuring anything real."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.classifiers import auto
from servekit.classifiers.module import ClassifierSpec, Inputs
from servekit.machine_cache import VARIABLE, cache_folder
from servekit.timing import by_turns


@pytest.mark.parametrize(
    ("table", "best"),
    [
        ({"eager": {"1": 10, "8": 80}, "compile": {"1": 5, "8": 40}}, "compile"),
        ({"eager": {"1": 10, "8": 80}, "compile": {"1": 1, "8": 81}}, "eager"),
        ({"eager": {"1": 10, "8": 80}, "compile": {"1": 9, "8": 70}, "int8": {"1": 5, "8": 79}}, "int8"),
        ({"eager": {"1": 10}}, "eager"),
    ],
)
def test_the_fastest_that_is_slower_at_no_size(table: dict[str, dict[str, float]], best: str) -> None:
    assert auto.best_step(table) == best


TIMES = st.fixed_dictionaries({"1": st.floats(0.01, 1e4), "8": st.floats(0.01, 1e4)})


@given(st.dictionaries(st.sampled_from(["channels_last", "compile", "int8"]), TIMES), TIMES)
def test_never_slower_than_eager(table: dict[str, dict[str, float]], eager: dict[str, float]) -> None:
    chosen = {"eager": eager, **table}[auto.best_step({"eager": eager, **table})]
    assert all(chosen[size] <= eager[size] for size in eager)


def test_a_busy_machine_is_told_by_its_times() -> None:
    assert auto.is_steady([1.0, 1.1, 1.2, 9.0])
    assert not auto.is_steady([1.0, 1.6, 1.7, 9.0])


def test_it_is_measured_once_the_machine_is_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steady = iter([False, *[True] * 99])
    monkeypatch.setattr(auto, "is_steady", lambda times: next(steady))
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    spec = ClassifierSpec("m", model, "transformers", ["a"], "softmax", (1, 2), shape=(3, 4, 4))
    loaded: list[str] = []

    def runs(*steps: str) -> dict[str, Callable[[], Callable[[Inputs], object]]]:
        def load(step: str) -> Callable[[Inputs], object]:
            loaded.append(step)
            return lambda inputs: inputs[0].sum()

        return {step: partial(load, step) for step in steps}

    auto.measured(spec, runs("eager", "compile"), budget_s=0)
    assert loaded == ["eager", "compile"]
    loaded.clear()
    first = auto.measured(spec, runs("eager", "compile"), budget_s=0)
    assert set(first) == {"eager", "compile"}
    assert set(first["eager"]) == {"1", "2"}
    assert auto.measured(spec, runs("eager", "compile"), budget_s=0) == first
    assert loaded == ["eager", "compile"]
    auto.measured(spec, runs("eager", "int8"), budget_s=0)
    (model / "config.json").write_text('{"other": 1}')
    auto.measured(spec, runs("eager", "int8"), budget_s=0)
    assert loaded == ["eager", "compile"] + ["eager", "int8"] * 2
    assert "eager" in auto.in_words(first)


def test_calls_are_timed_by_turns() -> None:
    order: list[str] = []
    times = by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, budget_s=0, at_least=2)
    assert order == ["a"] * 3 + ["b"] * 3 + ["a"] * 3 + ["b"] * 3
    assert {name: len(found) for name, found in times.items()} == {"a": 4, "b": 4}


def test_the_cache_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "here"))
    folder = cache_folder("x")
    assert folder == tmp_path / "here" / "x"
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by others"):
        cache_folder("x")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("x") == tmp_path / "xdg" / "servekit" / "x"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")  # where nothing can be made
    assert cache_folder("x").name == "x"
