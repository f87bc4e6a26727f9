"""The neuron engine over the stand-in of transformers-neuronx, against transformers.generate."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servekit.engines.base import FixedInbox, Prompt, Sampling, Step
from servekit.engines.neuron import NeuronEngine, compile_artifacts
from servekit.neuron_support import IMAGE, parse_cores
from servekit.settings import LlamaSettings, NeuronSettings
from tests.fakes import neuron_image
from tests.fakes.neuron_image import VOCABULARY, greedy, tiny_model

MAX_LENGTH = 40
BATCH = 3
RAGGED = ((5, 17, 33, 4, 8, 61, 12), (9, 40), (77,), (3, 4, 5, 6), tuple(range(10, 40)))
CORES = "NEURON_RT_VISIBLE_CORES"


@pytest.fixture(scope="module")
def reference() -> Any:
    return tiny_model()


@pytest.fixture(scope="module")
def weights(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    reference.save_pretrained(folder)
    return folder


@pytest.fixture
def archive(weights: Path, tmp_path: Path) -> Path:
    """An archive's root, with the weights where the kit puts them."""
    shutil.copytree(weights, tmp_path / "archive" / "model")
    return tmp_path / "archive"


@pytest.fixture(autouse=True)
def _neuron_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    neuron_image.enter(monkeypatch)
    monkeypatch.setenv("SERVEKIT_CACHE", str(tmp_path / "machine"))


def make(archive: Path, batch: int = BATCH, place: int = 0, workers: int = 1, **keys: Any) -> NeuronEngine:
    keys = {"tp_degree": 2, "amp": "f32", "max_length": MAX_LENGTH, **keys}
    return NeuronEngine("tiny", archive, LlamaSettings(**keys), batch, place, workers)


@pytest.fixture(scope="module")
def engine(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One for the tests that only stream."""
    root = tmp_path_factory.mktemp("shared")
    shutil.copytree(weights, root / "model")
    with pytest.MonkeyPatch.context() as patch:
        neuron_image.enter(patch)
        return make(root)


def prompt(key: str, ids: tuple[int, ...], new_tokens: int = 5, **keys: Any) -> Prompt:
    return Prompt(key, ids, new_tokens, **keys)


def run(engine: NeuronEngine, *prompts: Prompt) -> dict[str, list[Step]]:
    """Every prompt's steps, streamed until the inbox is empty."""
    inbox = FixedInbox(list(prompts))
    steps: dict[str, list[Step]] = {p.key: [] for p in prompts}
    for _ in range(-(-len(prompts) // engine.capabilities.max_batch)):
        for batch in engine.stream(inbox):
            for step in batch:
                steps[step.key].append(step)
    for gained in steps.values():
        assert [step.finish for step in gained[:-1]] == [None] * (len(gained) - 1)
        assert gained[-1].finish
    return steps


def tokens(steps: list[Step]) -> list[int]:
    return [step.token_id for step in steps if step.token_id is not None]


def model_of(engine: NeuronEngine) -> Any:
    return engine._model


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# Text


@pytest.mark.parametrize("rows", [RAGGED[:1], RAGGED[:2], RAGGED[:3], RAGGED])
def test_greedy_equals_generate_for_ragged_batches(reference: Any, engine: NeuronEngine, rows: Any) -> None:
    steps = run(engine, *(prompt(str(i), row, 6) for i, row in enumerate(rows)))
    for i, row in enumerate(rows):
        assert tokens(steps[str(i)]) == greedy(reference, row, 6)
        assert steps[str(i)][-1].finish == "length"


ROW = st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=MAX_LENGTH - 1).map(tuple)


@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.tuples(ROW, st.integers(1, MAX_LENGTH)), min_size=1, max_size=BATCH))
def test_no_neighbour_changes_or_shortens_an_answer(reference: Any, engine: NeuronEngine, rows: Any) -> None:
    steps = run(engine, *(prompt(str(i), ids, new) for i, (ids, new) in enumerate(rows)))
    for i, (ids, new) in enumerate(rows):
        assert tokens(steps[str(i)]) == greedy(reference, ids, min(new, MAX_LENGTH - len(ids)))


def test_a_long_prompt_takes_no_room_from_a_short_one(reference: Any, engine: NeuronEngine) -> None:
    long, short = tuple(range(3, 38)), (9, 40)
    steps = run(engine, prompt("long", long, 100), prompt("short", short, 30))
    assert tokens(steps["long"]) == greedy(reference, long, MAX_LENGTH - len(long))
    assert tokens(steps["short"]) == greedy(reference, short, 30)


@pytest.mark.parametrize("form", ["split", "seed's folder", "mistral", "bf16"])
def test_the_same_text_from_every_form_of_weights(tmp_path: Path, form: str) -> None:
    reference = tiny_model("mistral" if form == "mistral" else "llama")
    keys: dict[str, Any] = {}
    folder = tmp_path / "a" / "model"
    if form in ("split", "seed's folder"):
        if form == "seed's folder":
            folder = tmp_path / "a" / "llama-2-13b-split"
            keys["model_checkpoint_dir"] = folder.name
        import_module("transformers_neuronx.module").save_pretrained_split(reference, folder)
    else:
        reference.save_pretrained(folder)
    if form == "bf16":
        keys["amp"] = "bf16"
        reference = reference.bfloat16()
    steps = run(make(tmp_path / "a", **keys), prompt("a", RAGGED[0], 4))
    assert tokens(steps["a"]) == greedy(reference, RAGGED[0], 4)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_stop_id_ends_its_row_and_no_other(reference: Any, engine: NeuronEngine, at: int) -> None:
    wanted = [greedy(reference, row, 6) for row in RAGGED[:2]]
    stop = wanted[0][at]
    steps = run(engine, prompt("a", RAGGED[0], 6, stop_ids=(VOCABULARY, stop)), prompt("b", RAGGED[1], 6))
    assert tokens(steps["a"]) == wanted[0][: wanted[0].index(stop)]
    assert steps["a"][-1] == Step("a", finish="stop")
    assert tokens(steps["b"]) == wanted[1]


def test_eos_is_a_token_like_others_for_a_row_that_does_not_stop_at_it(reference: Any, archive: Path) -> None:
    config = json.loads((archive / "model" / "config.json").read_text())
    wanted = greedy(reference, RAGGED[0], 6)
    (archive / "model" / "config.json").write_text(json.dumps(config | {"eos_token_id": wanted[1]}))
    steps = run(make(archive), prompt("a", RAGGED[0], 6))
    assert tokens(steps["a"]) == wanted


def test_max_new_tokens_of_each_row(engine: NeuronEngine) -> None:
    steps = run(engine, *(prompt(str(n), RAGGED[n], n + 1) for n in range(3)))
    assert [len(tokens(steps[str(n)])) for n in range(3)] == [1, 2, 3]


def test_the_device_does_no_step_that_nobody_reads(engine: NeuronEngine) -> None:
    model_of(engine).forwards.clear()
    run(engine, prompt("a", RAGGED[0], 6))
    assert len(model_of(engine).forwards) == 6  # sample() alone would do 7


# Sampling


def test_rows_with_other_parameters_run_apart(reference: Any, engine: NeuronEngine) -> None:
    warm = Sampling(temperature=9.0, top_k=50)
    cold = Sampling(temperature=1, top_k=None, top_p=1e-6)  # whole numbers, which sample() would refuse
    steps = run(
        engine,
        prompt("warm", RAGGED[1], 6, sampling=warm),
        prompt("greedy", RAGGED[0], 6),
        prompt("cold", RAGGED[2], 6, sampling=cold),
    )
    assert len(tokens(steps["warm"])) == 6
    assert tokens(steps["greedy"]) == greedy(reference, RAGGED[0], 6)
    assert tokens(steps["cold"]) == greedy(reference, RAGGED[2], 6)


def test_seeds_that_are_not_kept_split_no_batch(engine: NeuronEngine) -> None:
    model_of(engine).forwards.clear()
    run(engine, *(prompt(str(seed), RAGGED[seed], 4, sampling=Sampling(1.0, seed=seed)) for seed in range(3)))
    assert len(model_of(engine).forwards) == 4


def test_what_the_library_cannot_do_is_said(engine: NeuronEngine) -> None:
    penalty = Sampling(repetition_penalty=1.2)
    steps = run(engine, prompt("a", RAGGED[0], sampling=penalty), prompt("b", RAGGED[1]))
    assert steps["a"] == [Step("a", finish="error", message="transformers-neuronx has no repetition_penalty")]
    assert steps["b"][-1].finish == "length"
    assert not engine.capabilities.per_request_sampling
    assert not engine.capabilities.continuous
    assert not engine.capabilities.logprobs


@pytest.mark.parametrize("length", [0, MAX_LENGTH, MAX_LENGTH + 9])
def test_a_prompt_without_tokens_or_room(engine: NeuronEngine, length: int) -> None:
    steps = run(engine, prompt("a", (3,) * length), prompt("b", (3,) * (MAX_LENGTH - 1)))
    message = f"a prompt of {length} tokens; the engine takes 1 to {MAX_LENGTH - 1}"
    assert steps["a"] == [Step("a", finish="error", message=message)]
    assert len(tokens(steps["b"])) == 1


def test_a_token_that_is_none_harms_no_neighbour(reference: Any, engine: NeuronEngine) -> None:
    steps = run(engine, prompt("a", (3, VOCABULARY)), prompt("b", RAGGED[0]))
    assert steps["a"][0].message == f"a token that is not in the vocabulary of {VOCABULARY}"
    assert tokens(steps["b"]) == greedy(reference, RAGGED[0], 5)


# Ends


def test_nothing_to_do_is_an_empty_stream(engine: NeuronEngine) -> None:
    assert list(engine.stream(FixedInbox([]))) == []


def test_a_cancelled_row_gains_nothing_more(reference: Any, engine: NeuronEngine) -> None:
    inbox = FixedInbox([prompt("a", RAGGED[0], 20), prompt("b", RAGGED[1], 6)])
    steps: dict[str, list[Step]] = {"a": [], "b": []}
    for batch in engine.stream(inbox):
        for step in batch:
            steps[step.key].append(step)
        if len(steps["a"]) == 3:
            inbox.cancel("a")
    assert steps["a"][3:] == [Step("a", finish="cancelled")]
    assert tokens(steps["b"]) == greedy(reference, RAGGED[1], 6)


def test_the_device_stops_when_all_rows_are_cancelled(engine: NeuronEngine) -> None:
    model_of(engine).forwards.clear()
    inbox = FixedInbox([prompt("a", RAGGED[0], 30), prompt("b", RAGGED[1], 30)])
    stream = engine.stream(inbox)
    next(stream)
    inbox.cancel("a")
    inbox.cancel("b")
    assert list(stream) == [[Step("a", finish="cancelled"), Step("b", finish="cancelled")]]
    assert len(model_of(engine).forwards) == 1


def test_a_row_that_was_cancelled_before_costs_nothing(engine: NeuronEngine) -> None:
    model_of(engine).forwards.clear()
    inbox = FixedInbox([prompt("a", RAGGED[0])])
    inbox.cancel("a")
    assert list(engine.stream(inbox)) == [[Step("a", finish="cancelled")]]
    assert model_of(engine).forwards == []


def test_a_row_that_waits_for_the_next_group_is_cancelled_at_once(engine: NeuronEngine) -> None:
    other = Sampling(temperature=1.0)
    inbox = FixedInbox([prompt("a", RAGGED[0], 5), prompt("b", RAGGED[1], 5, sampling=other)])
    stream = engine.stream(inbox)
    next(stream)
    inbox.cancel("b")
    assert next(stream) == [Step("b", finish="cancelled")]
    assert len(list(stream)) == 4


def test_a_reader_that_goes_away_leaves_no_thread(engine: NeuronEngine) -> None:
    before = threading.active_count()
    stream = engine.stream(FixedInbox([prompt("a", RAGGED[0], 30)]))
    next(stream)
    assert threading.active_count() == before + 1
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert run(engine, prompt("b", RAGGED[1]))["b"][-1].finish == "length"


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("nrt_execute: 5"), "RuntimeError: nrt_execute: 5"),
        (StopIteration(), "StopIteration"),  # may not pass for the end of a generator
        (SystemExit(1), "SystemExit: 1"),
    ],
)
def test_what_sample_raises_ends_every_row_and_not_the_engine(
    reference: Any,
    engine: NeuronEngine,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    message: str,
    after: int,
) -> None:
    model, forward, calls = model_of(engine), model_of(engine).forward, []

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise error
        return forward(*arguments)

    monkeypatch.setattr(model, "forward", failing)
    steps = run(engine, prompt("a", RAGGED[0], 6), prompt("b", RAGGED[1], 2))
    assert steps["a"][-1] == Step("a", finish="error", message=message)
    assert tokens(steps["a"]) == greedy(reference, RAGGED[0], 6)[:after]
    assert steps["b"][-1].finish == ("length" if after >= 2 else "error")
    monkeypatch.setattr(model, "forward", forward)
    assert tokens(run(engine, prompt("c", RAGGED[2], 6))["c"]) == greedy(reference, RAGGED[2], 6)


def test_positions_never_run_out(engine: NeuronEngine) -> None:
    steps = run(engine, prompt("a", RAGGED[0], 10_000), prompt("b", RAGGED[1], 10_000))
    for key, row in (("a", RAGGED[0]), ("b", RAGGED[1])):
        assert len(row) + len(tokens(steps[key])) == MAX_LENGTH
        assert steps[key][-1].finish == "length"


def test_positions_that_were_not_compiled_are_not_used(archive: Path) -> None:
    engine = make(archive, neuron=NeuronSettings(n_positions=(8, 16)))
    assert engine.capabilities.max_length == 16
    assert len(tokens(run(engine, prompt("a", RAGGED[0], 100))["a"])) == 16 - len(RAGGED[0])


def test_a_model_that_stops_by_itself_is_an_error(engine: NeuronEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_of(engine), "sample", lambda *arguments, **keywords: None)
    assert run(engine, prompt("a", RAGGED[0]))["a"][0].message == "the model stopped before the row was done"


# Loading


def test_what_the_library_is_given(archive: Path) -> None:
    engine = make(
        archive,
        batch=2,
        max_length=100,
        amp="auto",
        neuron=NeuronSettings(
            fuse_qkv=True,
            group_query_attention="replicated-heads",
            attention_layout="BSH",
            quantize="s8",
            compiler_flags="-O1",
        ),
    )
    model = model_of(engine)
    assert (model.batch_sizes, model.tp_degree, model.amp) == ([2], 2, "bf16")
    assert (model.token_buckets, model.context_buckets) == ([100], [100])
    options = model.neuron_config
    assert (options.fuse_qkv, options.attention_layout) == (True, "BSH")
    assert options.group_query_attention.value == "replicated-heads"
    assert (options.quant.quant_dtype, options.quant.dequant_dtype) == ("s8", "bf16")
    assert model.environment == {CORES: "0-1", "NEURON_CC_FLAGS": "-O1"}
    assert (engine.capabilities.max_batch, engine.capabilities.max_length) == (2, 100)


def test_the_seed_s_own_settings(archive: Path) -> None:
    (archive / "model").rename(archive / "llama-2-13b-split")
    seed = {"model_checkpoint_dir": "llama-2-13b-split", "amp": "bf16", "tp_degree": 12, "max_length": 100}
    engine = NeuronEngine("tiny", archive, LlamaSettings.model_validate(seed), 1, 0, 1)
    assert model_of(engine).environment[CORES] == "0-11"
    assert run(engine, prompt("a", RAGGED[0], 2))["a"][-1].finish == "length"


def test_warmup_runs_every_program(archive: Path) -> None:
    neuron = NeuronSettings(n_positions=(16, 40), context_length_estimate=(8, 16, 32))
    engine = make(archive, neuron=neuron)
    timings = engine.warmup()
    assert [name for name, _ in timings] == ["3 × 8", "3 × 16", "3 × 32", "3 × 40"]
    assert all(seconds > 0 for _, seconds in timings)
    assert set(model_of(engine).forwards) == {
        ("context", 8), ("context", 16), ("context", 32), ("token", 16), ("token", 40)
    }  # fmt: skip


def test_two_workers_have_no_core_in_common(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (None, "4-5", "4-7"):
        seen = []
        for place in range(2):
            monkeypatch.setenv(CORES, variable or "")
            model = model_of(make(archive, place=place, workers=2))
            seen.append(set(parse_cores(model.environment[CORES])))
        assert not seen[0] & seen[1]
        assert min(seen[0]) == (4 if variable else 0)
    monkeypatch.setenv(CORES, "0-23")
    chosen = model_of(make(archive, place=1, workers=2, neuron=NeuronSettings(visible_cores="8-9")))
    assert chosen.environment[CORES] == "10-11"


def test_variables_of_the_article_are_answered_with_a_line_each(
    archive: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NEURONX_CACHE", "on")
    monkeypatch.setenv("NEURONX_DUMP_TO", "/proc/neuron_cache")  # read-only even for root
    make(archive)
    first, second = warnings_of(caplog)
    assert first.startswith("NEURONX_CACHE does nothing")
    assert second.startswith("NEURONX_DUMP_TO=/proc/neuron_cache is not a cache")


def test_outside_a_neuron_image_it_says_which_one(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing installed, and with PyPI's package of that name, which raises when it is imported."""
    for placeholder in (False, True):
        library = tmp_path / f"library{placeholder}"
        library.mkdir()
        if placeholder:
            (library / "transformers_neuronx").mkdir()
            (library / "transformers_neuronx" / "__init__.py").write_text("raise ImportError('WRONG PACKAGE')\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [path for path in sys.path if Path(path).name != "fakes"])
            neuron_image.enter(patch, library)
            with pytest.raises(ImportError, match="tiny: no transformers-neuronx here") as caught:
                make(archive)
        assert IMAGE.name in str(caught.value)
        assert ("WRONG PACKAGE" in str(caught.value)) == placeholder


def test_a_model_of_another_type(archive: Path) -> None:
    (archive / "model" / "config.json").write_text('{"model_type": "gpt_neox"}')
    with pytest.raises(ValueError, match=r"serves llama and mistral; .*model_type 'gpt_neox'"):
        make(archive)


def test_a_folder_without_weights_is_named(archive: Path) -> None:
    (archive / "model" / "model.safetensors").rename(archive / "model" / "pytorch_model.bin")  # a file, so pickled
    with pytest.raises(FileNotFoundError, match=rf"no weights in {archive}/model: neither model.safetensors"):
        make(archive)
    with pytest.raises(FileNotFoundError, match=r"no config.json in .*/split \(handler.model_checkpoint_dir\)"):
        make(archive, model_checkpoint_dir="split")


def test_a_max_length_beyond_the_model(archive: Path) -> None:
    with pytest.raises(ValueError, match="max_length is 500, the model has 128 positions"):
        make(archive, max_length=500)


# Compiled artefacts


def test_saved_artefacts_spare_the_compilation(archive: Path) -> None:
    first = make(archive)
    assert model_of(first).compiled
    first.save_artifacts(archive / "artefacts" / "neuron")
    second = make(archive)
    assert model_of(second).compiled == []
    assert second.fingerprint() == first.fingerprint()
    assert tokens(run(second, prompt("a", RAGGED[0]))["a"]) == tokens(run(first, prompt("a", RAGGED[0]))["a"])


def test_artefacts_come_from_a_machine_without_a_device(archive: Path) -> None:
    settings_ = LlamaSettings(tp_degree=2, amp="f32", max_length=MAX_LENGTH)
    compile_artifacts("tiny", archive, settings_, BATCH, archive / "artefacts" / "neuron")
    assert model_of(make(archive)).compiled == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("no files", "no .neff file in"),
        ("no fingerprint", "fingerprint.json"),
        ("batch", "batch_size: built for 1, here 3"),
        ("config", "config.json: built for"),
        ("version", "neuronx-cc: built for 2.15, here none"),
    ],
)
def test_artefacts_that_do_not_fit_are_not_used_and_the_log_says_why(
    archive: Path, caplog: pytest.LogCaptureFixture, change: str, line: str
) -> None:
    saved = archive / "artefacts" / "neuron"
    make(archive, batch=1 if change == "batch" else BATCH).save_artifacts(saved)
    record = saved / "fingerprint.json"
    if change == "no files":
        for neff in saved.glob("*.neff"):
            neff.unlink()
    elif change == "no fingerprint":
        record.unlink()
    elif change == "version":
        record.write_text(record.read_text().replace('"neuronx-cc": "none"', '"neuronx-cc": "2.15"'))
    elif change == "config":
        config = archive / "model" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 1e-5}))
    caplog.set_level(logging.INFO)
    caplog.clear()
    assert model_of(make(archive)).compiled
    (why,) = [text for text in map(logging.LogRecord.getMessage, caplog.records) if "not used" in text]
    assert why.startswith("tiny: compiling")
    assert line in why


def test_programs_that_match_no_hash_are_a_sentence(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint agrees, the library's own hashes do not."""
    make(archive).save_artifacts(archive / "artefacts" / "neuron")
    monkeypatch.setattr(sys.modules["transformers_neuronx.base"], "SDK", "2.24.0")
    with pytest.raises(FileNotFoundError, match="compiled by another Neuron SDK, or for another config.json") as caught:
        make(archive)
    assert "Could not find a matching NEFF" in str(caught.value)


def test_a_shipped_compile_cache_is_used_and_not_written_to(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "NEURON_COMPILE_CACHE_URL"
    monkeypatch.setenv(url, str(archive / "neuron_cache"))
    make(archive)
    shipped = {path.name for path in (archive / "neuron_cache").iterdir()}
    assert shipped
    for _ in range(2):
        monkeypatch.delenv(url)
        assert model_of(make(archive)).compiled == []
        copy = Path(os.environ[url])
        assert copy.is_relative_to(tmp_path / "machine")
        make(archive, batch=1)  # compiles, and keeps what it compiled
        assert {path.name for path in copy.iterdir()} > shipped
    assert {path.name for path in (archive / "neuron_cache").iterdir()} == shipped


def test_a_compile_cache_that_the_operator_chose_stays(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (archive / "neuron_cache").mkdir()
    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", str(tmp_path / "own"))
    assert model_of(make(archive)).environment["NEURON_COMPILE_CACHE_URL"] == str(tmp_path / "own")


def test_too_large_a_model_is_said_before_it_is_loaded(
    archive: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("servekit.neuron_support.BYTES_PER_CORE", 10_000)
    make(archive)
    assert any("tiny will not fit: weights" in line for line in warnings_of(caplog))


def test_a_closed_engine_lets_go_of_the_model(archive: Path) -> None:
    engine = make(archive)
    engine.close()
    assert model_of(engine) is None
