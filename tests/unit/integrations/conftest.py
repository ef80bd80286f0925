"""Ways to let tasks run, and time pass, without waiting."""

from __future__ import annotations

import asyncio

import pytest


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def settle():
    """Let every task run as far as it can."""
    return _settle


@pytest.fixture
def pass_time(clock):
    """Move the clock, and let everybody who waited for that run."""

    async def move(seconds: float) -> None:
        await _settle()
        clock.advance(seconds)
        await _settle()

    return move
