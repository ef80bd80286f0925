"""Latency against load as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl

mpl.use("Agg")  # draws into files, whatever screen there is

from matplotlib import pyplot as plt

from benchmarks.campaign import Run
from benchmarks.figures import Spread

_DOTS_PER_INCH: Final = 120
_STYLES: Final = {"p50": "-", "p99": "--", "p99_9": ":"}


def draw(runs: Sequence[Run], target: Path, title: str) -> None:
    """Draw each engine's percentiles over the messages a second that were accepted: fixed rates, then saturation."""
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for color, engine in zip(("tab:blue", "tab:orange"), sorted({run.engine for run in runs}), strict=False):
        loads = sorted({(run.rate, run.connections) for run in runs if run.engine == engine}, key=_position)
        repeats = [
            [run for run in runs if (run.engine, run.rate, run.connections) == (engine, *load)] for load in loads
        ]
        rates = [Spread.of([run.measured.accepted_per_second for run in each]).median for each in repeats]
        for name, style in _STYLES.items():
            latency = [Spread.of([run.measured.outcome.latency_ms[name] for run in each]).median for each in repeats]
            marker = "o" if name == "p50" else "."
            axes.plot(rates, latency, style, marker=marker, color=color, label=f"{engine} {name.replace('_', '.')}")
        for load, x, each in zip(loads, rates, repeats, strict=True):
            y = Spread.of([run.measured.outcome.latency_ms["p50"] for run in each]).median
            label = f"{load[0]:,.0f}/s" if load[0] else f"{load[1]} conns"
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(4, -10), fontsize=7, color=color)
    axes.set(xlabel="messages accepted a second", ylabel="milliseconds to the answer", yscale="log", title=title)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=_DOTS_PER_INCH)
    plt.close(figure)


def _position(load: tuple[float, int]) -> tuple[bool, float]:
    rate, connections = load
    return rate == 0, rate or connections
