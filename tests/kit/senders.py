"""Senders that post payloads at a pace, send again what was not acknowledged, and tell the oracle what was."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable

import aiohttp

from tests.kit.oracle import Oracle

SENDERS = 8
GIVE_UP_SECONDS = 60
ACCEPTED = 202
SAFE_TO_REPEAT = (429, 503)


async def send_payloads(
    url: str,
    oracle: Oracle,
    *,
    at_least: int,
    per_second: float,
    until: Callable[[], bool] = lambda: True,
) -> None:
    """Post so many payloads, and then more until `until` says that it is enough."""
    numbers = itertools.count()
    started = time.monotonic()

    async def send_on(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            if number >= at_least and until():
                return
            await asyncio.sleep(started + number / per_second - time.monotonic())
            await _send(session, url, oracle, number)

    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session, asyncio.TaskGroup() as group:
        for _ in range(SENDERS):
            group.create_task(send_on(session))


async def _send(session: aiohttp.ClientSession, url: str, oracle: Oracle, number: int) -> None:
    ref = str(number)
    payload = {"to": f"+658124{number % 10_000:04d}", "text": f"message {number}", "ref": ref}
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while True:
        assert time.monotonic() < deadline, f"payload {ref} was not acknowledged in {GIVE_UP_SECONDS} s"
        try:
            async with session.post(url, json=payload, headers={"Idempotency-Key": f"order-{ref}"}) as answer:
                body = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            await asyncio.sleep(0.05)
            continue
        if answer.status == ACCEPTED:
            oracle.acknowledge(ref, body["id"])
            return
        assert answer.status in SAFE_TO_REPEAT, f"{answer.status}: {body}"
        assert "Retry-After" in answer.headers, "an answer that asks for a repeat must say when"
        await asyncio.sleep(0.05)
