"""The main campaign: for each repeat the ceiling, then the product on each engine, at saturation and at fixed rates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import ceiling, databases, peers
from benchmarks.ceiling import Ceiling
from benchmarks.load import Load
from benchmarks.stage import Measured, Stage, staged

ALL_CONNECTIONS: Final = (64, 32, 8, 1)
ALL_RATES: Final = (250.0, 500.0, 1000.0, 1500.0)
# With which connections requests are sent at a fixed rate: enough that one is always free.
OPEN_CONNECTIONS: Final = 64
SATURATED: Final = 64
_WARM_UP_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of it is run."""

    engines: Sequence[str]
    repeats: int
    seconds: float  # of each load
    connections: Sequence[int]
    rates: Sequence[float]
    items: int = 1  # messages a request


@dataclass(frozen=True, kw_only=True)
class Run:
    """One load of one repeat."""

    engine: str
    repeat: int
    connections: int
    rate: float
    measured: Measured


@dataclass(frozen=True, kw_only=True)
class Peers:
    """What the load generator and the carrier do with nothing between them."""

    requests_per_second: float
    generator_cpu_us: float  # a request
    sink_cpu_us: float


@dataclass(kw_only=True)
class Results:
    """Everything that was measured."""

    items: int = 1  # messages a request
    peers: list[Peers] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)


def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> Results:
    """Run it all."""
    results = Results(items=plan.items)
    with databases.running_postgres(folder, wanted=databases.POSTGRESQL in plan.engines) as server:
        for repeat in range(plan.repeats):
            results.peers.append(measure_peers(min(plan.seconds, 3.0)))
            results.ceilings.append(ceiling.measure(folder, plan.seconds))
            say(f"{_now()} repeat {repeat + 1}: ceiling {results.ceilings[-1].requests_per_second:,.0f}/s")
            for engine in plan.engines:
                with staged(folder, engine, server) as stage:
                    for each in _measure_all(plan, stage, engine, repeat):
                        say(f"{_now()} repeat {repeat + 1}: {_line(each)}")
                        results.runs.append(each)
    return results


def measure_peers(seconds: float) -> Peers:
    """Let the load generator call the carrier itself."""
    with peers.running_sink() as sink:
        before = sink.stats()["cpu_seconds"]
        outcome = peers.send(
            Load(port=sink.port, path="/messages", connections=SATURATED, seconds=seconds, secret="s" * 48)
        )
        used = sink.stats()["cpu_seconds"] - before
    return Peers(
        requests_per_second=outcome.accepted_per_second,
        generator_cpu_us=outcome.cpu_seconds * 1e6 / outcome.requests,
        sink_cpu_us=used * 1e6 / outcome.requests,
    )


def _measure_all(plan: Plan, stage: Stage, engine: str, repeat: int) -> Iterator[Run]:
    stage.warm_up(_WARM_UP_SECONDS)
    loads = [(connections, 0.0) for connections in plan.connections]
    loads += [(OPEN_CONNECTIONS, rate) for rate in plan.rates]
    for connections, rate in loads:
        load = stage.load(connections=connections, seconds=plan.seconds, rate=rate, items=plan.items)
        yield Run(engine=engine, repeat=repeat, connections=connections, rate=rate, measured=stage.measure(load))


def _line(run: Run) -> str:
    measured = run.measured
    kind = f"{run.rate:,.0f}/s" if run.rate else f"{run.connections} connections"
    return (
        f"{run.engine}, {kind}: accepted {measured.accepted_per_second:,.0f}/s,"
        f" delivered {measured.delivered_per_second:,.0f}/s, lost {measured.lost},"
        f" p50 {measured.outcome.latency_ms['p50']:.1f} p99 {measured.outcome.latency_ms['p99']:.1f} ms,"
        f" {measured.cpu_us_of_ours:,.0f} µs a message, others {measured.others_share:.2f} cores"
    )


def _now() -> str:
    return time.strftime("%H:%M:%S")
