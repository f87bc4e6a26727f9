"""What a mirror's record says: how its answers differ from the first endpoint's, in one table and one document.

Knows nothing of how the record was made; mirror.py does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from deploy.answers import Difference
from deploy.mirror_record import OLDER_RECORD, RECORD
from model_configs.errors import Invalid

LEAST_COSINE = 0.999
EXAMPLES = 5


@dataclass(frozen=True)
class Summary:
    """different: pairs that an application would not call the same; share: of those that were compared."""

    pairs: int
    compared: int
    different: int
    left_out: int
    document: dict[str, Any]

    @property
    def share(self) -> float:
        return self.different / self.compared


def read_record(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a record, the oldest first; one that was cut off by the end of its writer is left out."""
    for name in (OLDER_RECORD, RECORD):
        path = folder / name
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def summarise(lines: Iterable[dict[str, Any]], least_cosine: float = LEAST_COSINE) -> Summary:
    """All of it. Raises Invalid where nothing was compared."""
    pairs, left_out = [], 0
    for line in lines:
        if "left_out" in line:
            left_out += line["left_out"]
        else:
            pairs.append(line)
    compared = [line for line in pairs if line["compared"]]
    if not compared:
        raise Invalid(f"no pair of answers was compared ({len(pairs)} pairs, {left_out} left out)")
    differences = [Difference(**line["difference"]) for line in compared]
    outside = [not difference.within(least_cosine) for difference in differences]
    document: dict[str, Any] = {
        "pairs": len(pairs),
        "compared": len(compared),
        "left_out": left_out,
        "different": sum(outside),
        "different_share": sum(outside) / len(compared),
        "least_cosine": least_cosine,
        "equal_share": fmean(difference.equal for difference in differences),
        "status": dict(Counter(f"{line['primary']['status']}/{line['mirror']['status'] or 'none'}" for line in pairs)),
        "kinds": _kinds(differences),
        "latency_ms": {name: _latency(pairs, name) for name in ("primary", "mirror")},
        "examples": [
            {"id": line["id"], "path": line["path"], **_told(difference)}
            for line, difference, differs in zip(compared, differences, outside, strict=True)
            if differs
        ][:EXAMPLES],
    }
    return Summary(len(pairs), len(compared), sum(outside), left_out, document)


def rows(summary: Summary) -> list[dict[str, Any]]:
    """For people: one row a figure."""
    document = summary.document
    found: list[tuple[str, Any]] = [
        ("pairs compared", summary.compared),
        ("too large to compare", summary.pairs - summary.compared),
        ("requests left out", summary.left_out),
        ("equal to the last byte or value", f"{document['equal_share']:.2%}"),
        ("different", f"{summary.different} ({summary.share:.2%})"),
    ]
    for statuses, count in document["status"].items():
        found.append((f"status, first/mirror: {statuses}", count))
    for kind, figures in document["kinds"].items():
        told = ", ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in figures.items())
        found.append((kind, told))
    for name, latency in document["latency_ms"].items():
        if latency:
            found.append((f"latency of the {name}, ms", f"p50 {latency['p50']:g}, p95 {latency['p95']:g}"))
    for example in document["examples"]:
        told = ", ".join(f"{key} {_figure(value)}" for key, value in example.items() if key not in ("id", "path"))
        found.append((f"differs: {example['id']}", f"{example['path']}: {told}"))
    return [{"mirror": name, "": value} for name, value in found]


def _kinds(differences: Sequence[Difference]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for kind in sorted({difference.kind for difference in differences if difference.kind}):
        of_kind = [difference for difference in differences if difference.kind == kind]
        figures: dict[str, Any] = {"pairs": len(of_kind), "equal_share": fmean(each.equal for each in of_kind)}
        cosines = [each.cosine for each in of_kind if each.cosine is not None]
        if cosines:
            figures |= {"cosine_mean": fmean(cosines), "cosine_min": min(cosines)}
        largest = [each.largest for each in of_kind if each.largest is not None]
        if largest:
            figures["largest_difference"] = max(largest)
        agree = [each.label_agrees for each in of_kind if each.label_agrees is not None]
        if agree:
            figures["labels_agree_share"] = fmean(agree)
        places = [each.first_difference for each in of_kind if each.first_difference is not None]
        if places:
            figures["first_difference_mean"] = fmean(places)
        found[kind] = figures
    return found


def _latency(pairs: Sequence[dict[str, Any]], name: str) -> dict[str, float] | None:
    known = [line[name]["ms"] for line in pairs if line[name]["ms"] is not None]
    if not known:
        return None
    cuts = quantiles(known, n=20, method="inclusive") if len(known) > 1 else known * 19
    return {"p50": round(cuts[9], 1), "p95": round(cuts[18], 1)}


def _told(difference: Difference) -> dict[str, Any]:
    return {key: value for key, value in difference.as_dict().items() if value not in (None, "") and key != "equal"}


def _figure(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
