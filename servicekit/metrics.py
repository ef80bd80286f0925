"""What is measured of any service: its calls, its event loop, its database and its batches, for Prometheus to scrape.

Names follow https://prometheus.io/docs/practices/naming/. Labels have few values: never a tenant, a number or an id.
Everything here is counted by one thread and is cheap enough for the hot path: children are looked up once and kept.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

import prometheus_client
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

# When a series began is of no use to Prometheus and would double what it reads.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

SHORT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LAG_EVERY_SECONDS: Final = 0.5
DEFECT: Final = "INTERNAL"  # the canonical gRPC code

REQUESTS: Final = Counter("textway_grpc_requests_total", "Calls that were answered.", ["method", "code"])
REQUEST_SECONDS: Final = Histogram(
    "textway_grpc_request_duration_seconds", "From a call to its answer.", ["method"], buckets=SHORT_SECONDS
)
STREAMS: Final = Gauge("textway_grpc_streams_open", "Calls that stay open, such as watches.", ["method"])
LOOP_LAG: Final = Histogram(
    "textway_event_loop_lag_seconds",
    "How much later than asked for the event loop came back to a sleeper.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
BATCH_SIZE: Final = Histogram(
    "textway_batch_size_items",
    "How many items went together.",
    ["batch"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
)
DATABASE_WAIT: Final = Histogram(
    "textway_database_wait_seconds",
    "From wanting a transaction to having it: a free connection, and on SQLite the write lock.",
    ["database", "access"],
    buckets=SHORT_SECONDS,
)
DATABASE_TRANSACTION: Final = Histogram(
    "textway_database_transaction_duration_seconds",
    "From having a transaction to its end, the commit included.",
    ["database", "access"],
    buckets=SHORT_SECONDS,
)
DATABASE_WAITING: Final = Gauge(
    "textway_database_waiting", "Who waits for a transaction just now.", ["database", "access"]
)
DATABASE_OUTAGES: Final = Counter(
    "textway_database_outages_total", "Transactions that ended because the database could not be had.", ["database"]
)


class CallMeter:
    """Counts and times the calls of one method; the name is the `package.Service/Method` of the contract."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._seconds = REQUEST_SECONDS.labels(method)
        # Shown from the start: a counter that begins at 1 has not increased, and no alert would see the first defect.
        self._by_code: dict[str, Counter] = {DEFECT: REQUESTS.labels(method, DEFECT)}

    def answered(self, code: str, seconds: float) -> None:
        """Count one call that ended with a canonical gRPC code."""
        self._seconds.observe(seconds)
        self.ended(code)

    def ended(self, code: str) -> None:
        """Count one that says nothing by how long it took."""
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = REQUESTS.labels(self._method, code)
        counter.inc()


class DatabaseMeter:
    """Times the transactions of one database, those that write or those that read."""

    def __init__(self, database: str, access: str) -> None:
        self.wait_seconds = DATABASE_WAIT.labels(database, access)
        self.transaction_seconds = DATABASE_TRANSACTION.labels(database, access)
        self.waiting = DATABASE_WAITING.labels(database, access)
        self.outages = DATABASE_OUTAGES.labels(database)


class Pool(Protocol):
    """Connections to a database, kept to be used again."""

    def size(self) -> int:
        """Return how many there are at most."""

    def checkedout(self) -> int:
        """Return how many are in use."""


class HasPools(Protocol):
    """A database."""

    @property
    def name(self) -> str:
        """What it is called in the metrics."""

    def pools(self) -> Mapping[str, Pool]:
        """Return its pools by what they are for."""


class _Pools(Collector):
    """Asks pools how they are whenever somebody reads the metrics."""

    def __init__(self) -> None:
        self._databases: weakref.WeakSet[HasPools] = weakref.WeakSet()

    def watch(self, database: HasPools) -> None:
        self._databases.add(database)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        most = GaugeMetricFamily(
            "textway_database_pool_connections", "Connections at most.", labels=["database", "pool"]
        )
        in_use = GaugeMetricFamily(
            "textway_database_pool_connections_in_use", "Connections in use.", labels=["database", "pool"]
        )
        for name, pool, connections in self._named():
            most.add_metric([name, pool], connections.size())
            in_use.add_metric([name, pool], connections.checkedout())
        return (most, in_use)

    def _named(self) -> Iterable[tuple[str, str, Pool]]:
        # One of each name: a series that stands there twice makes Prometheus refuse all of them.
        named = {
            (database.name, pool): found for database in self._databases for pool, found in database.pools().items()
        }
        return [(*key, pool) for key, pool in named.items()]


_POOLS: Final = _Pools()
REGISTRY.register(_POOLS)


def watch_pools(database: HasPools) -> None:
    """Show how full a database's pools are, for as long as it lives."""
    _POOLS.watch(database)


async def watch_event_loop() -> None:
    """Measure for ever how late the event loop is; whoever starts it cancels it."""
    loop = asyncio.get_running_loop()
    while True:
        wanted = loop.time() + LAG_EVERY_SECONDS
        await asyncio.sleep(LAG_EVERY_SECONDS)
        LOOP_LAG.observe(max(0.0, loop.time() - wanted))
