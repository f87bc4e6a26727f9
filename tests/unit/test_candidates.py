from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.candidates import Candidate, axes, combine, key, pairs, sample, space, untuned
from model_configs import schema
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig, load_model, model_names
from servekit.settings import ClassifierSettings, LlamaSettings

MINILM, DIGITS, LLAMA = load_model("minilm"), load_model("digits"), load_model("pydoc-llama")

SPACES = {config.model.name: space(config, 2) for config in (MINILM, DIGITS, LLAMA)}
QUALITY = ("amp", "quantize", "max_length", "pooling", "normalize", "candidates", "function", "max_stop_strings")
"""Settings that change what is answered."""


@pytest.mark.parametrize("name", ["minilm", "digits", "pydoc-llama", "pydoc-rag"])
def test_an_untuned_configuration_has_the_defaults_and_is_valid(name: str) -> None:
    config = load_model(name)
    found = untuned(config)
    assert schema.cross_checks(found) == []
    assert (found.torchserve.batchSize, found.torchserve.maxWorkers, found.handler.threads) == (1, 1, "auto")
    assert (found.model, found.loadtest) == (config.model, config.loadtest)
    assert untuned(found) == found


@pytest.mark.parametrize("name", model_names())
def test_every_candidate_is_valid_and_differs_from_all_others(name: str) -> None:
    config = load_model(name)
    found = space(config, 4)
    configs = [candidate.apply(config) for candidate in found]
    assert not any(schema.cross_checks(each) for each in configs)
    assert len({key(each) for each in configs}) == len(found)
    assert found[0] == Candidate()
    assert key(configs[0]) == key(config)


@pytest.mark.parametrize("name", model_names())
def test_no_candidate_changes_an_answer(name: str) -> None:
    config = load_model(name)
    for candidate in space(config, 4):
        other = candidate.apply(config)
        assert other.model == config.model
        for setting in QUALITY:
            assert getattr(other.handler, setting, None) == getattr(config.handler, setting, None)
        if isinstance(other.handler, ClassifierSettings):
            assert other.handler.step == config.handler.step or other.handler.step not in ("bf16", "int8", "auto")
        if isinstance(other.handler, LlamaSettings):
            assert other.handler.chosen_engine == config.handler.chosen_engine


def test_a_quantised_step_stays() -> None:
    raw = DIGITS.model_dump(exclude_unset=True)
    raw["handler"]["step"] = "int8"
    config = type(DIGITS).model_validate(raw)
    assert {each.apply(config).handler.step for each in space(config, 2)} == {"int8"}


def test_a_named_float32_step_may_change_for_another() -> None:
    raw = DIGITS.model_dump(exclude_unset=True)
    raw["handler"]["step"] = "eager"
    config = type(DIGITS).model_validate(raw)
    assert {each.apply(config).handler.step for each in space(config, 2)} == {"eager", "channels_last", "compile"}


@given(cpus=st.integers(1, 256))
def test_workers_and_threads_never_ask_for_more_cores_than_there_are(cpus: int) -> None:
    found = pairs(cpus)
    assert all(workers * threads <= cpus for workers, threads in found)
    assert {(1, cpus), (cpus, 1)} <= set(found)


@pytest.mark.parametrize("cores", [1, 2, 6, 16])
def test_candidates_fit_the_machine(cores: int) -> None:
    for candidate in space(MINILM, cores)[1:]:
        config = candidate.apply(MINILM)
        if "torchserve.maxWorkers" in dict(candidate.overrides):
            threads = 1 if config.handler.threads == "auto" else config.handler.threads
            assert config.torchserve.maxWorkers * threads <= cores


def test_what_uses_all_cores_is_written_so_that_it_holds_on_a_larger_machine() -> None:
    both = next(each for each in space(MINILM, 8) if each.label == "workers × threads 4 × 2")
    assert dict(both.overrides)["handler.threads"] == "auto"


def test_on_an_accelerator_threads_are_no_axis() -> None:
    assert not [axis for axis in axes(load_model("llama-3-8b-cuda"), 16) if axis.name == "workers × threads"]


def test_a_batch_of_one_has_no_delay_to_choose() -> None:
    ones = [c.apply(MINILM) for c in space(MINILM, 2) if dict(c.overrides).get("torchserve.batchSize") == 1]
    assert ones
    assert {config.torchserve.maxBatchDelay for config in ones} == {MINILM.torchserve.maxBatchDelay}


def test_shapes_follow_the_batch_size() -> None:
    sixteen = next(each for each in space(MINILM, 2) if each.label == "batchSize 16").apply(MINILM)
    assert sixteen.handler.warmup.batch_sizes == (1, 16)
    with pytest.raises(KitError, match="more than torchserve.batchSize=16"):
        Candidate((("torchserve.batchSize", 16),)).apply(MINILM)


@pytest.mark.parametrize("config", [MINILM, DIGITS, LLAMA], ids=lambda config: config.model.name)
def test_those_that_change_less_come_first(config: AnyModelConfig) -> None:
    found = space(config, 2)
    counts = [0, *(len(each.label.split(", ")) for each in found[1:])]
    assert counts == sorted(counts)


@settings(max_examples=25)
@given(count=st.integers(1, 60), seed=st.integers(0, 999), config=st.sampled_from([MINILM, DIGITS, LLAMA]))
def test_a_sample_keeps_the_default_and_covers_the_axes(count: int, seed: int, config: AnyModelConfig) -> None:
    everything = SPACES[config.model.name]
    chosen = sample(everything, count, seed)
    assert chosen[0] == Candidate()
    assert len(chosen) == len(set(chosen)) == min(count, len(everything))
    assert [everything.index(each) for each in chosen] == sorted(everything.index(each) for each in chosen)
    assert chosen == sample(everything, count, seed)
    values = {choice for candidate in everything for choice in candidate.choices}
    covered = {choice for candidate in chosen for choice in candidate.choices}
    if count >= len(values):
        assert covered == values
    else:
        # As long as there is something new, each candidate brings at least one new value.
        assert len(covered) >= min(len(values), len(everything[0].choices) + count - 1)


def test_more_candidates_are_the_same_ones_and_others() -> None:
    everything = space(MINILM, 2)
    samples = [set(sample(everything, count, 3)) for count in (5, 10, 20)]
    assert all(smaller < larger for smaller, larger in pairwise(samples))


def test_values_are_combined_where_they_go_together() -> None:
    both = combine(MINILM, 2, {"batchSize": "16", "workers × threads": "2 × 1"})
    assert both is not None
    config = both.apply(MINILM)
    assert (config.torchserve.batchSize, config.torchserve.maxWorkers) == (16, 2)
    assert config.handler.warmup.batch_sizes == (1, 16)
    assert combine(MINILM, 2, {}) == Candidate()


def test_the_key_knows_settings_not_spellings() -> None:
    raw = MINILM.model_dump(exclude_unset=True)
    raw["handler"]["max_padding"] = 0.05  # the default, written down
    assert key(type(MINILM).model_validate(raw)) == key(MINILM)
    raw["handler"]["max_padding"] = 0.13
    assert key(type(MINILM).model_validate(raw)) != key(MINILM)
    assert Candidate((("handler.max_padding", 0.13),)).key(MINILM) == key(type(MINILM).model_validate(raw))


def test_an_axis_of_a_large_machine_is_thinned_by_its_seed() -> None:
    once = space(DIGITS, 512, 0)
    assert once == space(DIGITS, 512, 0)
    assert once[0] == Candidate()
    assert len(once) <= 5001
