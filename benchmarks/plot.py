"""Latency against load as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl

mpl.use("Agg")  # draws into files, whatever screen there is

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.campaign import Run
from benchmarks.figures import Spread

_DOTS_PER_INCH: Final = 120
_COLORS: Final = ("tab:orange", "tab:blue")
_STYLES: Final = {"p50": "-", "p99": "--", "p99_9": ":"}


def draw(runs: Sequence[Run], target: Path, title: str) -> None:
    """Draw the percentiles: over the rate that was offered (open loop), and over what was accepted (closed loop)."""
    figure, (opened, closed) = plt.subplots(1, 2, figsize=(12, 5.5), sharey=True, layout="constrained")
    for color, engine in zip(_COLORS, sorted({run.engine for run in runs}), strict=False):
        own = [run for run in runs if run.engine == engine]
        _draw_loads(opened, [run for run in own if run.rate], engine, color)
        _draw_loads(closed, [run for run in own if not run.rate], engine, color)
    opened.set(xlabel="requests due a second", ylabel="milliseconds to the answer", yscale="log", title="Open loop")
    closed.set(xlabel="messages accepted a second", title="Closed loop, by connections")
    for axes in (opened, closed):
        axes.grid(visible=True, which="both", alpha=0.3)
    closed.legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(target, dpi=_DOTS_PER_INCH)
    plt.close(figure)


def _draw_loads(axes: Axes, runs: Sequence[Run], engine: str, color: str) -> None:
    loads = sorted({(run.rate, run.connections) for run in runs})
    repeats = [[run for run in runs if (run.rate, run.connections) == load] for load in loads]
    places = [each[0].rate or _median(each, lambda run: run.measured.accepted_per_second) for each in repeats]
    for name, style in _STYLES.items():
        latency = [_median(each, lambda run: run.measured.outcome.latency_ms[name]) for each in repeats]  # noqa: B023
        axes.plot(places, latency, style, marker=".", color=color, label=f"{engine} {name.replace('_', '.')}")
        for (rate, connections), x, y in zip(loads, places, latency, strict=True):
            if name == "p50" and not rate:
                axes.annotate(str(connections), (x, y), textcoords="offset points", xytext=(4, -10), fontsize=8)


def _median(runs: Sequence[Run], read: Callable[[Run], float]) -> float:
    return Spread.of([read(run) for run in runs]).median
