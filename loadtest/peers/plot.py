"""peers.png: throughput against p95, a panel a workload. Knows nothing of how it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.peers.cells import Cell


def write_plot(found: Mapping[str, Any], target: Path) -> None:
    """A line a server through its closed loops, crosses for the open ones; what has no p95 has no point."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    cells = [Cell(**each) for each in found["cells"]]
    workloads = list(dict.fromkeys(each.workload for each in cells))
    names = [each["name"] for each in found["servers"]]
    colours = {name: f"C{place}" for place, name in enumerate(names)}
    figure, panels = pyplot.subplots(
        1, max(1, len(workloads)), figsize=(6 * max(1, len(workloads)), 5), layout="constrained", squeeze=False
    )
    for axes, workload in zip(panels[0], workloads, strict=False):
        for name in names:
            closed, opened = points(cells, name, workload)
            axes.plot(*closed, marker="o", markersize=5, color=colours[name], label=name)
            axes.plot(*opened, marker="x", markersize=5, linestyle="none", color=colours[name])
        axes.set(xscale="log", yscale="log", xlabel="requests/s", title=workload.replace("_", " "))
        axes.grid(visible=True, which="both", linewidth=0.3)
    panels[0][0].set_ylabel("p95 ms")
    panels[0][0].legend(fontsize=8)
    figure.suptitle("dots: closed loops, 1, 8 and 32 clients; crosses: open loops", fontsize=9)
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def points(
    cells: list[Cell], name: str, workload: str
) -> tuple[tuple[list[float], list[float]], tuple[list[float], list[float]]]:
    """Requests a second and p95 of a server: of its closed loops, and of its open ones."""
    own = [each for each in cells if each.server == name and each.workload == workload and each.p95_ms is not None]
    closed = [each for each in own if each.offered_per_s is None]
    opened = [each for each in own if each.offered_per_s is not None]
    return (
        ([each.requests_per_s for each in closed], [each.p95_ms or 0.0 for each in closed]),
        ([each.requests_per_s for each in opened], [each.p95_ms or 0.0 for each in opened]),
    )
