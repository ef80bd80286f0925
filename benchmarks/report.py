"""What a campaign came to: medians with their spread, as a table for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from benchmarks.campaign import SATURATED, Results, Run
from benchmarks.figures import Spread
from benchmarks.long_runs import Finding
from benchmarks.machine import Machine
from benchmarks.stage import OURS, Measured
from services.launcher.tables import table

# Ratios that are asked for, and whether more or less is better.
LEAST_OF_CEILING: Final = 0.55
MOST_TIMES_ECHO_CPU: Final = 1.9
LEAST_BULK_OF_CEILING: Final = 1.5
_WITHOUT_DECIMALS: Final = 100

_FIGURES: Final[dict[str, tuple[Callable[[Measured], float], int]]] = {
    "accepted/s": (lambda each: each.accepted_per_second, 0),
    "delivered/s": (lambda each: each.delivered_per_second, 0),
    "p50 ms": (lambda each: each.outcome.latency_ms["p50"], 1),
    "p99 ms": (lambda each: each.outcome.latency_ms["p99"], 1),
    "p99.9 ms": (lambda each: each.outcome.latency_ms["p99_9"], 1),
    "late ms": (lambda each: each.outcome.lag_ms_p99, 1),
    "worst s": (lambda each: each.outcome.worst_second, 0),
    "µs/message": (lambda each: each.cpu_us_of_ours, 0),
    "MiB": (lambda each: each.resident_mib_of_ours, 0),
    "lost": (lambda each: each.lost, 0),
}


def text(machine: Machine, results: Results) -> str:
    """Return the whole report."""
    sections = [
        _about(machine, results),
        _ceiling(results),
        "Loads (median [least-greatest] of the repeats)\n" + _loads(results.runs),
        "CPU, µs a delivered message, and resident memory, MiB\n" + _processes(results.runs),
        "Against the ceiling of the same repeat\n" + _ratios(results),
    ]
    return "\n\n".join(sections)


def as_json(machine: Machine, results: Results) -> dict[str, Any]:
    """Return everything that was measured, and the ratios."""
    return {
        "machine": asdict(machine),
        "peers": [asdict(each) for each in results.peers],
        "ceilings": [asdict(each) for each in results.ceilings],
        "runs": [asdict(each) for each in results.runs],
        "ratios": {
            engine: {name: asdict(Spread.of(values)) for name, values in ratios.items()}
            for engine, ratios in ratios_of(results).items()
        },
    }


def findings(found: Sequence[Finding]) -> str:
    """Return the figures of a long run as a table."""
    rows = [
        [
            each.name,
            f"{each.value:,.{2 if abs(each.value) < _WITHOUT_DECIMALS else 0}f}",
            each.wanted,
            _verdict(each.is_reached),
        ]
        for each in found
    ]
    return table(["figure", "", "wanted", ""], rows)


def ratios_of(results: Results) -> dict[str, dict[str, list[float]]]:
    """Return each engine's ratios at saturation, one for each repeat."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in results.runs:
        if run.rate or run.connections != SATURATED:
            continue
        ceiling = results.ceilings[run.repeat]
        ratios = found.setdefault(run.engine, {"accepted": [], "delivered": [], "cpu": []})
        ratios["accepted"].append(run.measured.accepted_per_second / ceiling.requests_per_second)
        ratios["delivered"].append(run.measured.delivered_per_second / ceiling.requests_per_second)
        ratios["cpu"].append(run.measured.cpu_us_of_ours / ceiling.cpu_us_in_all)
    return found


def _about(machine: Machine, results: Results) -> str:
    dirty = " (with changes that are not committed)" if machine.is_dirty else ""
    others = Spread.of([run.measured.others_share for run in results.runs])
    rates = Spread.of([each.requests_per_second for each in results.peers])
    generator = Spread.of([each.generator_cpu_us for each in results.peers])
    sink = Spread.of([each.sink_cpu_us for each in results.peers])
    noise = "Above a tenth of a core, believe the ratios and not the rates."
    hardware = f"{machine.cores} cores, {machine.cpu}, {machine.memory_gib} GiB, Linux {machine.kernel}"
    state = f"append and fdatasync {machine.sync_ms} ms; load average {machine.load_average:.1f}"
    each_request = f"{generator.text()} and {sink.text()} µs of CPU a request"
    lines = [
        f"Commit {machine.commit}{dirty}, {machine.at}",
        f"{hardware}, Python {machine.python}; {state}",
        f"Other processes meanwhile: {others.text(2)} cores. {noise}",
        f"Load generator against the carrier itself: {rates.text()} requests/s, {each_request}",
    ]
    return "\n".join(lines)


def _ceiling(results: Results) -> str:
    ceilings = results.ceilings
    rows = [
        [
            Spread.of([each.requests_per_second for each in ceilings]).text(),
            Spread.of([each.latency_ms["p50"] for each in ceilings]).text(1),
            Spread.of([each.latency_ms["p99"] for each in ceilings]).text(1),
            Spread.of([each.cpu_us["envoy"] for each in ceilings]).text(),
            Spread.of([each.cpu_us["python"] for each in ceilings]).text(),
            Spread.of([each.cpu_us_in_all for each in ceilings]).text(),
        ]
    ]
    heads = ["requests/s", "p50 ms", "p99 ms", "Envoy µs", "Python µs", "sum µs"]
    return f"Ceiling: Envoy and an empty handler, {SATURATED} connections\n" + table(heads, rows)


def _loads(runs: Sequence[Run]) -> str:
    rows = []
    for engine, load, repeats in _by_load(runs):
        figures = [
            Spread.of([read(each.measured) for each in repeats]).text(digits) for read, digits in _FIGURES.values()
        ]
        rows.append([engine, load, *figures])
    return table(["engine", "load", *_FIGURES], rows)


def _processes(runs: Sequence[Run]) -> str:
    names = [*OURS, *(["postgresql"] if any("postgresql" in run.measured.cpu_us for run in runs) else [])]
    rows = []
    for engine, load, repeats in _by_load(runs):
        cells = []
        for name in names:
            if name not in repeats[0].measured.cpu_us:
                cells.append("")
                continue
            cpu = Spread.of([each.measured.cpu_us[name] for each in repeats])
            memory = Spread.of([each.measured.resident_mib[name] for each in repeats])
            cells.append(f"{cpu.median:,.0f} / {memory.median:,.0f}")
        rows.append([engine, load, *cells])
    return table(["engine", "load", *names], rows)


def _ratios(results: Results) -> str:
    # What is asked of bulk is to be taken in fast; how fast it leaves is asked of single messages.
    bounds = {
        "accepted": None if results.items == 1 else LEAST_BULK_OF_CEILING,
        "delivered": LEAST_OF_CEILING if results.items == 1 else None,
    }
    rows = []
    for engine, ratios in ratios_of(results).items():
        for name, least in bounds.items():
            ratio, wanted = Spread.of(ratios[name]), "" if least is None else f">= {least}"
            verdict = _verdict(None if least is None else ratio.median >= least)
            rows.append([engine, f"{name}/s : ceiling", ratio.text(2), wanted, verdict])
        cpu = Spread.of(ratios["cpu"])
        verdict = _verdict(cpu.median <= MOST_TIMES_ECHO_CPU)
        rows.append([engine, "CPU a message : echo's", cpu.text(2), f"<= {MOST_TIMES_ECHO_CPU}", verdict])
    return table(["engine", "ratio", "median", "wanted", ""], rows)


def _verdict(is_reached: bool | None) -> str:  # noqa: FBT001  # a table's cell
    return "" if is_reached is None else "yes" if is_reached else "no"


def _by_load(runs: Sequence[Run]) -> Iterator[tuple[str, str, list[Run]]]:
    groups: dict[tuple[str, int, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.engine, run.connections, run.rate), []).append(run)
    for (engine, connections, rate), repeats in groups.items():
        yield engine, f"{rate:,.0f}/s" if rate else f"{connections} at once", repeats
