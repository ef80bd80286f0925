"""Chaos by seed: kills and pauses the processes of a running product, and waits until they have been brought back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import httpx

from tests.e2e.conftest import Product

CHILDREN = ("delivery", "ingress", "integrations", "gateway")
BACK_WITHIN_SECONDS = 30
# `up` counts a child that dies within five seconds of its start as one that can not be started.
LIVES_AT_LEAST_SECONDS = 5.5


class Chaos:
    """Hurts the processes of one product."""

    def __init__(self, product: Product, *, seed: int, victims: Sequence[str] = CHILDREN) -> None:
        self.killed: Counter[str] = Counter()
        self._product = product
        self._random = random.Random(seed)
        self._victims = victims
        self._born = dict.fromkeys(victims, time.monotonic() - LIVES_AT_LEAST_SECONDS)

    async def kill(self, times: int, progress: Callable[[], float]) -> None:
        """Kill so many victims at random points of a progress from 0 to 1; return when all are back.

        Every fourth dies while its predecessor is not back yet.
        """
        points = sorted(self._random.uniform(0.05, 0.9) for _ in range(times))
        for each in range(3, times, 4):
            points[each] = points[each - 1]
        returning: list[asyncio.Task[None]] = []
        for point in points:
            while progress() < point:
                await asyncio.sleep(0.01)
            await asyncio.sleep(self._random.uniform(0, 0.05))
            name = await self._next_victim()
            pid = (await asyncio.to_thread(self._product.children))[name]
            os.kill(pid, signal.SIGKILL)
            self.killed[name] += 1
            returning.append(asyncio.create_task(self._returned(name, pid)))
            # Until its new process is there it can not be killed, so its birth lies in the future.
            self._born[name] = float("inf")
        await asyncio.gather(*returning)
        await self.ready()

    @contextlib.asynccontextmanager
    async def paused(self, name: str) -> AsyncIterator[None]:
        """Let one process stand still, as a stalled virtual machine does."""
        pid = (await asyncio.to_thread(self._product.children))[name]
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    async def ready(self) -> None:
        """Wait until the product says that all of it is there."""
        deadline = time.monotonic() + BACK_WITHIN_SECONDS
        async with httpx.AsyncClient(base_url=self._product.address, trust_env=False, timeout=5) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/health/ready")).status_code == httpx.codes.OK:
                        return
                assert time.monotonic() < deadline, "the product did not come back"
                await asyncio.sleep(0.2)

    async def _next_victim(self) -> str:
        while True:
            now = time.monotonic()
            ready = [name for name in self._victims if now - self._born[name] >= LIVES_AT_LEAST_SECONDS]
            if ready:
                return self._random.choice(ready)
            await asyncio.sleep(0.05)

    async def _returned(self, name: str, old_pid: int) -> None:
        deadline = time.monotonic() + BACK_WITHIN_SECONDS
        while (await asyncio.to_thread(self._product.children)).get(name, old_pid) == old_pid:
            assert time.monotonic() < deadline, f"{name} was not brought back"
            await asyncio.sleep(0.2)
        self._born[name] = time.monotonic()
