"""run.json: it comes back as it was written, and what is no run of this schema is refused in one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import run, stats
from loadtest.plan import Plan, Target
from loadtest.records import Record
from loadtest.run import Cold, Cost, Run, ServerSide
from loadtest.verdict import judge
from model_configs.errors import KitError
from model_configs.loadtest import LoadTest, Slo

PLAN = Plan(
    target=Target(kind="openai-completions", url="http://127.0.0.1:8080", model="pydoc-llama", stream=True),
    load=LoadTest(payloads="p", rate=2.0, slo=Slo.model_validate({"ttft_sched_ms": {"p95": 500.0}})),
    payloads="/p",
    folder="/f",
)


def a_run(count: int = 70, **values: Any) -> Run:
    records = [
        Record(
            seq=n, worker=n % 2, phase="measure", payload="p:1", intended_s=5 + n / 2, sent_s=5.001 + n / 2,
            e2e_ms=90.0 + n, ttft_ms=20.0 + n, gaps_ms=(30.0, 40.0), tokens_out=3, tokens_source="server", status=200,
            error="timeout" if n == 3 else None, detail="30 s" if n == 3 else None,
        )
        for n in range(count)
    ]  # fmt: skip
    slo = PLAN.load.slo
    summary = stats.summarise(records, 5.0, count / 2 or 1.0, slo.request_limits(), closed=False)
    generator = stats.generator(records, workers=2, cpu_share=0.25)
    return Run(
        **{
            "id": "20261121T180000Z-abc1234", "model": "pydoc-llama", "plan": PLAN.model_dump(mode="json"),
            "machine": {"cpu": "any", "usable_cpus": 2, "packages": {"torch": "2"}}, "same_machine": True,
            "workload_sha256": "ab", "config_sha256": None, "archive_sha256": "cd", "locust": "2.47.0",
            "summary": summary, "generator": generator, "verdict": judge(summary, generator, slo), **values,
        }
    )  # fmt: skip


WHOLE = a_run(
    server=ServerSide(1.0, 2.0, 3.0, 4.0, 70, 10, 7.0, 32, 0),
    cold=Cold(5.6, 120.0),
    cost=Cost(5.15, "on demand", 0.1, 11.0, 0.011, "2 requests/s within the SLO"),
)


@pytest.mark.parametrize("made", [WHOLE, a_run(), a_run(count=0)], ids=["all of it", "the least", "no request"])
def test_a_run_comes_back_from_its_folder_and_from_its_file(made: Run, tmp_path: Path) -> None:
    made.write(tmp_path)
    assert run.read(tmp_path) == made
    assert run.read(tmp_path / run.RUN_FILE) == made
    assert run.read(tmp_path).the_plan == PLAN


def test_a_document_names_its_schema_and_ends_its_line(tmp_path: Path) -> None:
    WHOLE.write(tmp_path)
    text = (tmp_path / run.RUN_FILE).read_text()
    assert text.endswith("}\n")
    assert json.loads(text)["schema"] == "servekit.loadtest/1"


@given(
    per_s=st.floats(0, 1e6), share=st.floats(0, 1), start_s=st.none() | st.floats(0, 1e4), text=st.text(max_size=20),
    batches=st.none() | st.integers(0, 1 << 40),
)  # fmt: skip
def test_any_figures_come_back(
    per_s: float, share: float, start_s: float | None, text: str, batches: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("run")
    made = dataclasses.replace(
        WHOLE,
        model=text,
        summary=dataclasses.replace(WHOLE.summary, achieved_per_s=per_s, good_share=share, samples={"timeout": text}),
        server=ServerSide(per_s, 0.0, share, 1e-9, 3, batches, None, None, 2),
        cold=Cold(start_s, share),
    )
    made.write(folder)
    assert run.read(folder) == made


def changed(**values: Any) -> str:
    return json.dumps({**WHOLE.document(), **values})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            changed(schema="servekit.loadtest/2").encode(),
            r"schema 'servekit\.loadtest/2' is not 'servekit\.loadtest/1'",
        ),
        (changed(schema=None).encode(), r"schema None is not"),
        (b"[]", r"schema None is not"),
        (b"{", r"is no run: "),
        (b"\x1f\x8b\xff", r"is no run: "),
        (changed(model=7).encode(), r"run\.json: model: "),
        (changed(generator={"lag_p50_ms": 1.0}).encode(), r"run\.json: generator\.lag_p99_ms: "),
        (changed(verdict={"state": "green", "checks": [], "invalid": []}).encode(), r"run\.json: verdict\.state: "),
    ],
    ids=["later schema", "no schema", "a list", "no JSON", "no text", "wrong type", "missing field", "unknown state"],
)
def test_what_is_no_run_is_refused_with_its_file_and_key(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / run.RUN_FILE).write_bytes(content)
    with pytest.raises(KitError, match=message):
        run.read(tmp_path)


def test_a_folder_without_a_run_says_what_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="is no run") as caught:
        run.read(tmp_path)
    assert "kit.py loadtest" in caught.value.hint


def test_parts_of_a_sum_are_told_apart() -> None:
    sums = {run.sha256(*parts) for parts in ([], [b""], [b"ab"], [b"a", b"b"], [b"b", b"a"], [b"ab", b""])}
    assert len(sums) == 6
