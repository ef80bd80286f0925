"""What the least that could be called the product does (`bare.py`), under the product's own loads."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks import bare, ceiling, peers, processes
from benchmarks.ceiling import Ceiling, Groups
from benchmarks.figures import Spread
from benchmarks.machine import ROOT
from benchmarks.stage import Measured, Stage, staged
from services.launcher.tables import table
from tests.fakes.postgres import PostgresServer, execute, new_database

RATES: Final = (500.0, 1000.0)
WARM_UP_SECONDS: Final = 2.0
# By what `ceiling.behind_envoy` calls them.
_NAMES: Final = {"envoy": "gateway", "python": "ingress"}


@dataclass(kw_only=True)
class Bare:
    """One that runs, to be measured as the product is."""

    port: int
    groups: Groups
    delivery_pid: int
    path: str = ceiling.PATH
    secret: str = bare.SECRET

    def processes(self) -> dict[str, list[processes.Process]]:
        """Return its processes, by the names that the product's have."""
        behind = {_NAMES[name]: list(group) for name, group in self.groups().items()}
        return {**behind, "delivery": processes.tree(self.delivery_pid, processes.all_processes())}


@contextlib.contextmanager
def staged_least(folder: Path, server: PostgresServer) -> Iterator[Stage]:
    """Start one on a table of its own with a carrier that takes everything."""
    own = Path(tempfile.mkdtemp(prefix="bare-", dir=folder))
    command = [sys.executable, "-m", "benchmarks.bare"]
    try:
        with new_database(server.url) as url, peers.running_sink() as sink:
            execute(url, *bare.SCHEMA)
            with (
                _running([*command, "delivery", url, str(sink.port)]) as delivery_pid,
                ceiling.behind_envoy(
                    own, lambda descriptors, port: [*command, "ingress", url, str(descriptors), str(port)]
                ) as (port, groups),
            ):
                yield Stage(Bare(port=port, groups=groups, delivery_pid=delivery_pid), sink, server.pid)
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[int]:
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(ceiling.STARTED_WITHIN_SECONDS)


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
    with staged_least(folder, server) as stage:
        measured = measure(stage, seconds, RATES, success=ceiling.SUCCESS)
    for each in measured.values():
        ceiling.refuse_failures(each.outcome)
    yield _compared("the least", roof, measured)
    for engine in engines:
        with staged(folder, engine, server) as stage:
            yield _compared(f"the product, {engine}", roof, measure(stage, seconds, RATES))


def measure(
    stage: Stage,
    seconds: float,
    rates: Sequence[float],
    *,
    success: str = "202",
    warm_up_seconds: float = WARM_UP_SECONDS,
) -> dict[float, Measured]:
    """Send a closed loop at saturation, then each of the rates; return what each came to, the closed loop's by 0."""

    def send(rate: float, for_seconds: float) -> Measured:
        load = stage.load(connections=ceiling.CONNECTIONS, seconds=for_seconds, rate=rate)
        return stage.measure(replace(load, success=success))

    send(0.0, warm_up_seconds)
    return {rate: send(rate, seconds) for rate in (0.0, *rates)}


def _compared(what: str, roof: Ceiling, measured: Mapping[float, Measured]) -> Compared:
    saturated = measured[0.0]
    return Compared(
        what=what,
        of_ceiling=saturated.delivered_per_second / roof.requests_per_second,
        times_echo_cpu=saturated.cpu_us_of_ours / roof.cpu_us_in_all,
        times_echo_cpu_in_all=sum(saturated.cpu_us.values()) / roof.cpu_us_in_all,
        p99_ms={rate: each.outcome.latency_ms["p99"] for rate, each in measured.items()},
        lost=sum(each.lost for each in measured.values()),
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
