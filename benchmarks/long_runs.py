"""What only shows after a while: a minute at saturation, a long queue, a full database, and doing nothing."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import databases, fill, peers, processes, product
from benchmarks.peers import Sink
from benchmarks.processes import Usage
from benchmarks.stage import OURS, Measured, Stage
from tests.fakes.postgres import PostgresServer

CONNECTIONS: Final = 64
WARM_UP_SECONDS: Final = 2.0
# What a load of so many seconds leaves is copied to fill a database.
COPIED_SECONDS: Final = 15.0
# Carriers that were away are tried again at growing intervals.
CARRIER_BACK_WITHIN_SECONDS: Final = 180.0
_IDLE_AFTER_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One figure, and what is wanted of it."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def wanted(self) -> str:
        """The bound in words; empty when there is none."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def is_reached(self) -> bool | None:
        """Whether the bound is kept; None when there is none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where a long run takes place: a folder and databases that outlive a product, and a carrier."""

    folder: Path
    engine: str
    server: PostgresServer | str | None
    database: databases.Databases
    sink: Sink
    say: Callable[[str], None]

    def another(self) -> contextlib.AbstractContextManager[Bench]:
        """Have a place like this one meanwhile, with empty databases and a carrier of its own."""
        return bench(self.folder.parent, self.engine, self.server, self.say)

    @contextlib.contextmanager
    def product(self) -> Iterator[Stage]:
        """Run a product on what is there."""
        settings = self.database.settings
        with product.running(self.folder, carrier_port=self.sink.port, settings=settings) as shown:
            yield Stage(shown, self.sink, self.database.server_pid)

    @property
    def delivery_url(self) -> str:
        """Delivery's database."""
        default = f"sqlite:///{self.folder / 'data' / 'delivery.db'}"
        return self.database.settings.get("TEXTWAY_DELIVERY_DATABASE_URL", default)


@contextlib.contextmanager
def bench(
    folder: Path, engine: str, server: PostgresServer | str | None, say: Callable[[str], None]
) -> Iterator[Bench]:
    """Have empty databases and a carrier meanwhile."""
    own = Path(tempfile.mkdtemp(prefix=f"{engine}-", dir=folder))
    try:
        with databases.fresh(engine, server) as database, peers.running_sink() as sink:
            yield Bench(folder=own, engine=engine, server=server, database=database, sink=sink, say=say)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def soak(here: Bench, seconds: float = 60.0) -> list[Finding]:
    """Load it for a minute: no second may pass without accepts, and memory must stay small."""
    with here.product() as stage:
        stage.warm_up(WARM_UP_SECONDS)
        measured = stage.measure(stage.load(connections=CONNECTIONS, seconds=seconds))
    worst, memory = measured.outcome.worst_second, measured.resident_mib_of_ours
    return [
        Finding(name="accepted/s", value=measured.accepted_per_second),
        Finding(name="delivered/s", value=measured.delivered_per_second),
        Finding(name="accepted in the poorest second", value=worst, at_least=1),
        Finding(name="lost", value=measured.lost, at_most=0),
        Finding(name="resident MiB, all ours", value=memory, at_most=300),
        *(Finding(name=f"resident MiB, {name}", value=measured.resident_mib[name]) for name in OURS),
        Finding(name="MiB, all ours, shared pages once", value=measured.proportional_mib_of_ours),
        *(Finding(name=f"MiB, {name}, shared pages once", value=measured.proportional_mib[name]) for name in OURS),
        Finding(name="CPU of others, cores", value=measured.others_share),
    ]


def idle(here: Bench, seconds: float = 20.0) -> list[Finding]:
    """Look at it when nothing is to be done."""
    with here.product() as stage:
        stage.warm_up(WARM_UP_SECONDS)
        time.sleep(_IDLE_AFTER_SECONDS)
        before = processes.snapshot(stage.groups())
        time.sleep(seconds)
        usage = Usage.between(before, processes.snapshot(stage.groups()))
        groups = stage.groups()
        memory, proportional = processes.resident_mebibytes(groups), processes.proportional_mebibytes(groups)
    shares = {name: 100 * spent / usage.seconds for name, spent in usage.cpu_seconds.items()}
    ours = sum(shares[name] for name in OURS)
    return [
        Finding(name="CPU, % of a core, all ours", value=ours, at_most=3),
        *(Finding(name=f"CPU, % of a core, {name}", value=share) for name, share in shares.items()),
        Finding(name="resident MiB, all ours", value=sum(memory[name] for name in OURS)),
        Finding(name="MiB, all ours, shared pages once", value=sum(proportional[name] for name in OURS)),
        Finding(name="CPU of others, cores", value=usage.others_share),
    ]


def backlog(here: Bench, messages: int = 200_000, seconds: float = 10.0) -> list[Finding]:
    """Stop the carrier and queue up a lot: accepting and memory must not mind, and then it must drain."""
    with here.product() as stage:
        stage.warm_up(WARM_UP_SECONDS)
        normal = stage.measure(stage.load(connections=CONNECTIONS, seconds=seconds))
        here.say(f"with the carrier: accepted {normal.accepted_per_second:,.0f}/s")
        here.sink.stop()
        short = peers.send(stage.load(connections=CONNECTIONS, seconds=seconds))
        short_memory = sum(processes.resident_mebibytes(stage.groups())[name] for name in OURS)
    queued = fill.queued(here.delivery_url, messages)
    here.say(f"{queued:,} messages queued")
    with here.product() as stage:
        peers.send(stage.load(connections=CONNECTIONS, seconds=WARM_UP_SECONDS))
        full = peers.send(stage.load(connections=CONNECTIONS, seconds=seconds))
        memory = sum(processes.resident_mebibytes(stage.groups())[name] for name in OURS)
        here.say(f"with the queue: accepted {full.accepted_per_second:,.0f}/s; the carrier comes back")
        here.sink.start()
        drained = _drained_per_second(here.sink, seconds)
    kept, growth = full.accepted_per_second / short.accepted_per_second, memory - short_memory
    against_normal = full.accepted_per_second / normal.accepted_per_second
    return [
        Finding(name="queued", value=queued),
        Finding(name="accepted/s, carrier up", value=normal.accepted_per_second),
        Finding(name="accepted/s, carrier stopped, short queue", value=short.accepted_per_second),
        Finding(name="accepted/s, carrier stopped, long queue", value=full.accepted_per_second),
        Finding(name="long queue : short queue", value=kept, at_least=0.8),
        Finding(name="long queue : carrier up", value=against_normal, at_least=0.8),
        Finding(name="MiB more with the long queue", value=growth, at_most=50),
        Finding(name="drained/s, nothing accepted meanwhile", value=drained),
        Finding(name="drained/s : delivered/s, carrier up", value=drained / normal.delivered_per_second),
    ]


def aged(here: Bench, messages: int = 1_000_000, seconds: float = 5.0, turns: int = 8) -> list[Finding]:
    """Deliver beside a million finished messages, in turn with a product on an empty database.

    A machine's speed changes within minutes, so that one load each would compare its moods.
    """
    with here.product() as stage:
        stage.warm_up(COPIED_SECONDS)
    finished = fill.finished(here.delivery_url, messages)
    here.say(f"{finished:,} finished messages")
    with here.another() as elsewhere, here.product() as full, elsewhere.product() as empty:
        for stage in (full, empty):
            stage.warm_up(WARM_UP_SECONDS)
        pairs = [_in_turn(full, empty, seconds, full_first=turn % 2 == 0) for turn in range(turns)]
    return [
        Finding(name="finished messages", value=finished),
        Finding(name="delivered/s, empty", value=median(young.delivered_per_second for _, young in pairs)),
        Finding(name="delivered/s, full", value=median(old.delivered_per_second for old, _ in pairs)),
        Finding(
            name="full : empty, median of pairs",
            value=median(old.delivered_per_second / young.delivered_per_second for old, young in pairs),
            at_least=0.9,
        ),
        Finding(
            name="CPU a message, full : empty, median of pairs",
            value=median(old.cpu_us_of_ours / young.cpu_us_of_ours for old, young in pairs),
        ),
        Finding(name="lost", value=sum(each.lost for pair in pairs for each in pair), at_most=0),
        Finding(name="CPU of others, cores", value=max(each.others_share for pair in pairs for each in pair)),
    ]


def _in_turn(full: Stage, empty: Stage, seconds: float, *, full_first: bool) -> tuple[Measured, Measured]:
    """Load one and then the other; return what came of the full one first."""
    measured = {
        stage: stage.measure(stage.load(connections=CONNECTIONS, seconds=seconds))
        for stage in ((full, empty) if full_first else (empty, full))
    }
    return measured[full], measured[empty]


def _drained_per_second(sink: Sink, seconds: float) -> float:
    """Return arrivals a second from the first one on, for so many seconds."""
    deadline = time.monotonic() + CARRIER_BACK_WITHIN_SECONDS
    while not (first := sink.stats())["total"]:
        if time.monotonic() > deadline:
            return 0.0
        time.sleep(_POLL_SECONDS)
    # The breaker lets one message try the carrier before all others follow.
    while (begun := sink.stats())["total"] - first["total"] < CONNECTIONS and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    started_at = time.monotonic()
    time.sleep(seconds)
    return (int(sink.stats()["distinct"]) - int(begun["distinct"])) / (time.monotonic() - started_at)
