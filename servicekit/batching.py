"""Natural batching: what arrives while a batch is under way goes together with the next one, and nothing ever waits."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from servicekit.errors import UnavailableError
from servicekit.metrics import BATCH_SIZE

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Turns many calls of `submit` into few calls of a handler.

    The handler gets 1 to `max_size` items in the order in which they were submitted and returns one result for each.
    With `weigh`, `max_size` is what a batch's items may weigh together; an item that weighs more goes alone. At most
    `concurrency` handlers run at once, and none begins sooner than `spacing_seconds` after the one before: what comes
    alone goes at once, and what comes in crowds goes in crowds. With `overlap_seconds`, one begins beside others only
    when the last of them began that long ago: a slow handler is helped, and behind one that is not slow items gather.
    With `stretch`, one that begins alone waits until so many times the last one's duration is over since that began, at
    most `overlap_seconds`: where a batch takes long because the machine is busy, the next one is larger, and an item
    costs less; where it is quick, hardly anything waits.

    When a handler raises, each of its items' callers gets that exception; when it raises UnavailableError, so do all
    who wait behind it, for they have waited long enough for the same thing. A caller that is cancelled while its item
    waits takes the item back; one whose batch is under way can not.
    """

    def __init__(
        self,
        handler: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_size: int,
        concurrency: int = 1,
        weigh: Callable[[Item], int] = lambda _: 1,
        spacing_seconds: float = 0.0,
        overlap_seconds: float = 0.0,
        stretch: float = 1.0,
        name: str = "",
    ) -> None:
        """Take `name` for the sizes of the batches to be counted under it."""
        self._handler = handler
        self._max_size = max_size
        self._weigh = weigh
        self._spacing_seconds = spacing_seconds
        self._overlap_seconds = max(overlap_seconds, spacing_seconds)
        self._stretch = stretch
        self._lasted_seconds = 0.0  # the last batch
        self._under_way = 0
        self._started_at = -self._overlap_seconds
        self._sizes = BATCH_SIZE.labels(name) if name else None
        self._free = concurrency
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        # A batch serves many requests, so its logs must not carry the id of the one that happened to start it.
        self._context = contextvars.copy_context()

    async def submit(self, item: Item) -> Result:
        """Hand in one item and return its result."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._free:
            self._free -= 1
            task = asyncio.create_task(self._run(), context=self._context.copy())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    @property
    def depth(self) -> int:
        """How many items wait for a handler."""
        return len(self._waiting)

    async def drain(self) -> None:
        """Return when everything that was submitted so far has its result."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                if self._overlap_seconds:
                    await self._wait_for_turn()
                batch = self._take()
                if batch:
                    await self._begin(batch)
        finally:
            self._free += 1

    async def _wait_for_turn(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            distance = self._overlap_seconds if self._under_way else self._alone_seconds()
            wait_seconds = self._started_at + distance - loop.time()
            if wait_seconds <= 0:
                self._started_at = loop.time()
                return
            await asyncio.sleep(wait_seconds)

    def _alone_seconds(self) -> float:
        return max(self._spacing_seconds, min(self._stretch * self._lasted_seconds, self._overlap_seconds))

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        room = self._max_size
        while self._waiting:
            item, future = self._waiting[0]
            if not future.cancelled():
                room -= self._weigh(item)
                if batch and room < 0:
                    break
                batch.append((item, future))
            self._waiting.popleft()
        return batch

    async def _begin(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        self._under_way += 1
        began = asyncio.get_running_loop().time()
        try:
            await self._handle(batch)
        finally:
            self._under_way -= 1
            self._lasted_seconds = asyncio.get_running_loop().time() - began

    async def _handle(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        if self._sizes:
            self._sizes.observe(len(batch))
        try:
            results = await self._handler([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(  # noqa: TRY301  # to be told to every caller like any other failure
                    f"the handler answered {len(results)} of {len(batch)} items"
                )
        except BaseException as error:
            if isinstance(error, UnavailableError):
                batch += self._waiting
                self._waiting.clear()
            for _, future in batch:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
