"""Metrics of any service: what is counted, and that looking twice at a database makes no series twice."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY, generate_latest

from servicekit.batching import Batcher
from servicekit.database import Database
from servicekit.errors import UnavailableError
from servicekit.metrics import CallMeter


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_counts_a_call_by_its_code_and_times_it():
    meter = CallMeter("probe.v1.Probe/Look")

    meter.answered("OK", 0.002)
    meter.answered("OK", 0.002)
    meter.answered("NOT_FOUND", 0.3)

    assert value("textway_grpc_requests_total", method="probe.v1.Probe/Look", code="OK") == 2
    assert value("textway_grpc_requests_total", method="probe.v1.Probe/Look", code="NOT_FOUND") == 1
    assert value("textway_grpc_request_duration_seconds_count", method="probe.v1.Probe/Look") == 3


def test_shows_that_a_method_has_had_no_defect_yet():
    CallMeter("probe.v1.Probe/Rest")

    shown = REGISTRY.get_sample_value(
        "textway_grpc_requests_total", {"method": "probe.v1.Probe/Rest", "code": "INTERNAL"}
    )

    assert shown == 0


async def test_times_what_wants_a_transaction_and_what_has_one(tmp_path):
    database = Database.open(f"sqlite:///{tmp_path}/probe.db", name="probe-times")
    labels = {"database": "probe-times", "access": "write"}

    async with database.write():
        waiting = value("textway_database_waiting", **labels)
        in_use = value("textway_database_pool_connections_in_use", database="probe-times", pool="writer")

    await database.close()
    assert (waiting, in_use) == (0, 1)
    assert value("textway_database_wait_seconds_count", **labels) == 1
    assert value("textway_database_transaction_duration_seconds_count", **labels) == 1


async def test_counts_outages_and_forgets_who_waited(tmp_path):
    first = Database.open(f"sqlite:///{tmp_path}/probe.db", name="probe-outages")

    async with first.write():
        with pytest.raises(UnavailableError):
            async with first.write(patience_seconds=0.01):
                pass

    await first.close()
    assert value("textway_database_outages_total", database="probe-outages") == 1
    assert value("textway_database_waiting", database="probe-outages", access="write") == 0


async def test_two_databases_of_one_name_are_one_series(tmp_path):
    opened = [Database.open(f"sqlite:///{tmp_path}/{name}.db", name="probe-twice") for name in ("one", "two")]

    lines = [line for line in generate_latest().decode().splitlines() if 'database="probe-twice"' in line]

    assert len(lines) == len({line.rpartition(" ")[0] for line in lines}) > 0
    for database in opened:
        await database.close()


async def test_counts_how_many_items_went_together():
    async def handle(items):
        return items

    batcher = Batcher(handle, max_size=10, name="probe-batch")

    await batcher.submit("one")

    assert value("textway_batch_size_items_count", batch="probe-batch") == 1
    assert value("textway_batch_size_items_sum", batch="probe-batch") == 1
