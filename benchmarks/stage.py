"""One product under measurement with its carrier and its database: sends loads, and tells what each message cost."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from benchmarks import databases, peers, processes, product
from benchmarks.load import Load, Outcome
from benchmarks.processes import Process, Usage
from tests.fakes.postgres import PostgresServer

OURS: Final = ("gateway", "integrations", "ingress", "delivery", "launcher")
DRAINED_WITHIN_SECONDS: Final = 120.0
# For what is still written down when the carrier has the last message.
_SETTLE_SECONDS: Final = 0.5
_NUMBERS_FOR_EACH_LOAD: Final = 500_000


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one load came to. CPU is microseconds a delivered message, memory mebibytes at the end of the load."""

    outcome: Outcome
    accepted_per_second: float
    delivered_per_second: float  # until the last one arrived
    lost: int  # accepted, and never seen by the carrier
    repeated: int  # seen by the carrier twice
    cpu_us: Mapping[str, float]
    resident_mib: Mapping[str, float]
    proportional_mib: Mapping[str, float]  # pages that processes share counted once
    others_share: float  # CPU of processes that are not part of the measurement, in cores
    generator_share: float  # CPU of the load generator, in cores
    sink_share: float

    @property
    def cpu_us_of_ours(self) -> float:
        """CPU of all our processes for one message; the database server is not ours."""
        return _sum_of_ours(self.cpu_us)

    @property
    def resident_mib_of_ours(self) -> float:
        """Memory of all our processes."""
        return _sum_of_ours(self.resident_mib)

    @property
    def proportional_mib_of_ours(self) -> float:
        """Memory of all our processes, with what they share counted once."""
        return _sum_of_ours(self.proportional_mib)


def _sum_of_ours(figures: Mapping[str, float]) -> float:
    return sum(figure for name, figure in figures.items() if name in OURS)


class Shown(Protocol):
    """What takes payloads at an address and hands messages to the carrier."""

    port: int
    path: str
    secret: str

    def processes(self) -> dict[str, list[Process]]:
        """Return its processes by name."""


class Stage:
    """What is measured, and what it stands between."""

    def __init__(self, shown: Shown, sink: peers.Sink, server_pid: int | None) -> None:
        self._shown = shown
        self.sink = sink
        self._server_pid = server_pid
        self._first_numbers = itertools.count(0, _NUMBERS_FOR_EACH_LOAD)

    def load(self, *, connections: int, seconds: float, rate: float = 0.0, items: int = 1) -> Load:
        """Return a load for this product, with recipients that none before it had."""
        return Load(
            port=self._shown.port,
            path=self._shown.path,
            secret=self._shown.secret,
            connections=connections,
            seconds=seconds,
            rate=rate,
            items=items,
            first_number=next(self._first_numbers),
        )

    def groups(self) -> dict[str, list[Process]]:
        """Return the processes of the product, and the database server's."""
        groups = self._shown.processes()
        if self._server_pid is not None:
            groups["postgresql"] = processes.tree(self._server_pid, processes.all_processes())
        return groups

    def measure(self, load: Load, *, drain_seconds: float = DRAINED_WITHIN_SECONDS) -> Measured:
        """Send a load, wait until the carrier has it all, and return what it came to."""
        self.sink.reset()
        sink_before, before = self.sink.stats()["cpu_seconds"], processes.snapshot(self.groups())
        outcome = peers.send(load)
        groups = self.groups()
        memory, proportional = processes.resident_mebibytes(groups), processes.proportional_mebibytes(groups)
        arrived = self.sink.wait_for(outcome.accepted, drain_seconds)
        time.sleep(_SETTLE_SECONDS)
        usage = Usage.between(before, processes.snapshot(self.groups()))
        sink_seconds = self.sink.stats()["cpu_seconds"] - sink_before
        delivered = int(arrived["distinct"])
        return Measured(
            outcome=outcome,
            accepted_per_second=outcome.accepted_per_second,
            delivered_per_second=delivered / max(arrived["last_at"] - outcome.started_at, 0.001),
            lost=outcome.accepted - delivered,
            repeated=int(arrived["total"]) - delivered,
            cpu_us={name: spent * 1e6 / max(delivered, 1) for name, spent in usage.cpu_seconds.items()},
            resident_mib=memory,
            proportional_mib=proportional,
            others_share=usage.others_share - (outcome.cpu_seconds + sink_seconds) / usage.seconds,
            generator_share=outcome.cpu_seconds / (outcome.ended_at - outcome.started_at),
            sink_share=sink_seconds / usage.seconds,
        )

    def warm_up(self, seconds: float) -> None:
        """Let connections be opened and code be loaded before anything is measured."""
        outcome = peers.send(self.load(connections=64, seconds=seconds))
        self.sink.wait_for(outcome.accepted, DRAINED_WITHIN_SECONDS)


@contextlib.contextmanager
def staged(folder: Path, engine: str, server: PostgresServer | str | None) -> Iterator[Stage]:
    """Start a product on empty databases with a carrier that takes everything."""
    own = Path(tempfile.mkdtemp(prefix=f"{engine}-", dir=folder))
    try:
        with (
            databases.fresh(engine, server) as database,
            peers.running_sink() as sink,
            product.running(own, carrier_port=sink.port, settings=database.settings) as shown,
        ):
            yield Stage(shown, sink, database.server_pid)
    finally:
        shutil.rmtree(own, ignore_errors=True)
