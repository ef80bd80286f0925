"""Deadlines with one timer: each block is cut off in its own time, and nothing else is."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from servicekit.deadlines import STOOD_STILL_SECONDS, Deadlines


async def test_cuts_off_every_block_that_takes_too_long():
    deadlines = Deadlines(0.02)

    async def wait() -> None:
        with deadlines.begin():
            await asyncio.Event().wait()

    ended = await asyncio.gather(*(wait() for _ in range(3)), return_exceptions=True)

    assert [type(each) for each in ended] == [TimeoutError] * 3


async def test_cuts_off_what_began_after_the_timer_was_set_and_not_with_it():
    deadlines, loop = Deadlines(0.1), asyncio.get_running_loop()

    async def wait() -> float:
        began = loop.time()
        with pytest.raises(TimeoutError), deadlines.begin():
            await asyncio.Event().wait()
        return loop.time() - began

    first = asyncio.create_task(wait())
    await asyncio.sleep(0.05)
    second = asyncio.create_task(wait())

    assert min(await first, await second) >= deadlines.seconds * 0.99


async def test_reads_first_what_has_come_while_the_process_stood_still():
    deadlines, loop = Deadlines(0.05), asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def read() -> bytes:
        with deadlines.begin():
            return await loop.sock_recv(ours, 16)

    async def wait() -> None:
        with deadlines.begin():
            await asyncio.Event().wait()

    with ours, theirs:
        reading, waiting = asyncio.create_task(read()), asyncio.create_task(wait())
        await asyncio.sleep(0)
        theirs.sendall(b"answer")
        time.sleep(deadlines.seconds + STOOD_STILL_SECONDS + 0.1)  # noqa: ASYNC251  # nothing of the loop goes on

        assert await reading == b"answer"
        with pytest.raises(TimeoutError):
            await waiting


async def test_leaves_alone_what_ends_in_time_and_what_its_task_does_afterwards():
    deadlines = Deadlines(0.01)

    with deadlines.begin():
        await asyncio.sleep(0)
    await asyncio.sleep(0.03)

    assert asyncio.current_task().cancelling() == 0


async def test_a_block_that_is_cancelled_by_somebody_else_is_cancelled():
    deadlines = Deadlines(60.0)

    async def wait() -> None:
        with deadlines.begin():
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_block_that_is_cancelled_when_its_time_is_over_is_cancelled():
    deadlines = Deadlines(0.01)

    async def wait() -> None:
        with deadlines.begin():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                waiting.cancel()
                await asyncio.sleep(0)

    waiting = asyncio.create_task(wait())

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_fails_by_itself_is_told_as_it_is():
    with pytest.raises(ValueError, match="its own"), Deadlines(60.0).begin():
        raise ValueError("its own")
