"""What the least that could be called the product does (`bare.py`), under the product's own loads."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks import bare, ceiling, peers, processes
from benchmarks.ceiling import Groups
from benchmarks.figures import Spread
from benchmarks.load import Load, Outcome
from benchmarks.machine import ROOT
from benchmarks.peers import Sink
from benchmarks.processes import Usage
from benchmarks.stage import DRAINED_WITHIN_SECONDS, NUMBERS_FOR_EACH_LOAD, SETTLE_SECONDS, staged
from services.launcher.tables import table
from tests.fakes.postgres import PostgresServer, execute, new_database

RATES: Final = (500.0, 1000.0)
WARM_UP_SECONDS: Final = 2.0
# By what `ceiling.behind_envoy` calls them.
_NAMES: Final = {"envoy": "gateway", "python": "ingress"}


@dataclass(frozen=True, kw_only=True)
class Bare:
    """What one load came to. CPU is microseconds a delivered message."""

    rate: float  # requests a second; 0 for a closed loop
    outcome: Outcome
    delivered_per_second: float  # until the last one arrived
    lost: int
    cpu_us: Mapping[str, float]

    @property
    def cpu_us_without_database(self) -> float:
        """CPU of Envoy and of the two Python processes."""
        return sum(spent for name, spent in self.cpu_us.items() if name != "postgresql")


def measure(
    folder: Path,
    server: PostgresServer,
    seconds: float,
    rates: Sequence[float],
    *,
    warm_up_seconds: float = WARM_UP_SECONDS,
) -> list[Bare]:
    """Run it on a table of its own: a closed loop at saturation, then each of the rates."""
    own = Path(tempfile.mkdtemp(prefix="bare-", dir=folder))
    try:
        with peers.running_sink() as sink, _running(own, server, sink) as (port, groups):
            load = Load(
                port=port, path=ceiling.PATH, connections=ceiling.CONNECTIONS, seconds=seconds, secret=bare.SECRET
            )
            _measure(replace(load, seconds=warm_up_seconds), sink, groups)
            return [
                _measure(replace(load, rate=rate, first_number=number * NUMBERS_FOR_EACH_LOAD), sink, groups)
                for number, rate in enumerate((0.0, *rates), start=1)
            ]
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _measure(load: Load, sink: Sink, groups: Groups) -> Bare:
    sink.reset()
    before = processes.snapshot(groups())
    outcome = peers.send(load)
    ceiling.refuse_failures(outcome)
    arrived = sink.wait_for(outcome.requests, DRAINED_WITHIN_SECONDS)
    time.sleep(SETTLE_SECONDS)
    usage = Usage.between(before, processes.snapshot(groups()))
    delivered = int(arrived["distinct"])
    return Bare(
        rate=load.rate,
        outcome=outcome,
        delivered_per_second=delivered / max(arrived["last_at"] - outcome.started_at, 0.001),
        lost=outcome.requests - delivered,
        cpu_us={name: spent * 1e6 / max(delivered, 1) for name, spent in usage.cpu_seconds.items()},
    )


@contextlib.contextmanager
def _running(folder: Path, server: PostgresServer, sink: Sink) -> Iterator[tuple[int, Groups]]:
    command = [sys.executable, "-m", "benchmarks.bare"]
    with new_database(server.url) as url:
        execute(url, *bare.SCHEMA)
        delivery = subprocess.Popen([*command, "delivery", url, str(sink.port)], cwd=ROOT)
        try:
            with ceiling.behind_envoy(
                folder, lambda descriptors, port: [*command, "ingress", url, str(descriptors), str(port)]
            ) as (port, behind):

                def groups() -> dict[str, Sequence[processes.Process]]:
                    found = processes.all_processes()
                    ours = {_NAMES[name]: group for name, group in behind().items()}
                    others = {"delivery": delivery.pid, "postgresql": server.pid}
                    return {**ours, **{name: processes.tree(pid, found) for name, pid in others.items()}}

                yield port, groups
        finally:
            delivery.send_signal(signal.SIGTERM)
            delivery.wait(ceiling.STARTED_WITHIN_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One repeat of one of those that are compared. Ratios are to the ceiling of the same repeat."""

    what: str
    of_ceiling: float  # delivered/s at saturation
    times_echo_cpu: float  # CPU a message at saturation, the database server's left out
    times_echo_cpu_in_all: float  # with the database server's
    p99_ms: Mapping[float, float]  # by requests a second
    lost: int


def compare(
    folder: Path, server: PostgresServer, engines: Sequence[str], seconds: float, say: Callable[[str], None]
) -> Iterator[Compared]:
    """Measure the ceiling, the least, and the product on each engine, one after the other."""
    roof = ceiling.measure(folder, seconds)
    say(f"ceiling: {roof.requests_per_second:,.0f}/s, {roof.cpu_us_in_all:.0f} µs")
    at_once, *at_rates = measure(folder, server, seconds, RATES)
    yield Compared(
        what="the least",
        of_ceiling=at_once.delivered_per_second / roof.requests_per_second,
        times_echo_cpu=at_once.cpu_us_without_database / roof.cpu_us_in_all,
        times_echo_cpu_in_all=sum(at_once.cpu_us.values()) / roof.cpu_us_in_all,
        p99_ms={each.rate: each.outcome.latency_ms["p99"] for each in at_rates},
        lost=sum(each.lost for each in (at_once, *at_rates)),
    )
    for engine in engines:
        with staged(folder, engine, server) as stage:
            stage.warm_up(WARM_UP_SECONDS)
            loads = {rate: stage.load(connections=ceiling.CONNECTIONS, seconds=seconds, rate=rate) for rate in RATES}
            saturated = stage.measure(stage.load(connections=ceiling.CONNECTIONS, seconds=seconds))
            measured = {rate: stage.measure(load) for rate, load in loads.items()}
        yield Compared(
            what=f"the product, {engine}",
            of_ceiling=saturated.delivered_per_second / roof.requests_per_second,
            times_echo_cpu=saturated.cpu_us_of_ours / roof.cpu_us_in_all,
            times_echo_cpu_in_all=sum(saturated.cpu_us.values()) / roof.cpu_us_in_all,
            p99_ms={rate: each.outcome.latency_ms["p99"] for rate, each in measured.items()},
            lost=sum(each.lost for each in (saturated, *measured.values())),
        )


def text(repeats: Sequence[Compared]) -> str:
    """Return medians and spread as a table."""
    columns: dict[str, tuple[Callable[[Compared], float], int]] = {
        "delivered/s : ceiling": (lambda each: each.of_ceiling, 2),
        "CPU : echo's": (lambda each: each.times_echo_cpu, 2),
        "with the database's": (lambda each: each.times_echo_cpu_in_all, 2),
        **{f"p99 ms at {rate:,.0f}/s": (_p99_at(rate), 0) for rate in RATES},
        "lost": (lambda each: each.lost, 0),
    }
    rows = [
        [
            what,
            *(
                Spread.of([figure(each) for each in repeats if each.what == what]).text(decimals)
                for figure, decimals in columns.values()
            ),
        ]
        for what in dict.fromkeys(each.what for each in repeats)
    ]
    return table(["", *columns], rows)


def _p99_at(rate: float) -> Callable[[Compared], float]:
    return lambda each: each.p99_ms[rate]
