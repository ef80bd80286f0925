"""Holding the queue on PostgreSQL, which many processes may use at once: not while one of them sends."""

from __future__ import annotations

import asyncio

import pytest

from servicekit.clock import SystemClock
from servicekit.settings import SettingsError
from services.delivery import maintenance
from tests.integration.delivery.conftest import PATIENCE_SECONDS, World

pytestmark = pytest.mark.usefixtures("on_postgres")


async def held(world: World) -> int:
    return await maintenance.hold_queue(world.settings, SystemClock())


async def test_nothing_is_held_while_delivery_runs(world: World) -> None:
    with pytest.raises(
        SettingsError, match=r"^[0-9]+ connections? of Delivery uses? this database: stop every process of Delivery"
    ):
        await held(world)


async def test_holds_once_delivery_is_stopped(world: World) -> None:
    await world.stop("delivery")

    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:  # the server sees the end of a connection a moment after its client
            try:
                assert await held(world) == 0
            except SettingsError:
                await asyncio.sleep(0.01)
            else:
                break
