"""Puts the parts of inbound long messages together, and decides when an SMSC may forget each part.

A part may be forgotten when the whole message is on disk. Parts come within moments of each other, so the answer to a
part waits for the others for a little while. If they do not come, it is a temporary error: the SMSC sends the part
again, and should this process end, nothing is lost. An SMSC that sends one part after the other would never get past
the first in this way, so a part that comes again is let go: from then on only memory has it, and a crash within ten
minutes loses it. `at_once` does so with every part.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from servicekit.clock import Clock
from services.delivery.carriers.smpp.session import within
from services.delivery.carriers.smpp.text import Part

PATIENCE_SECONDS: Final = 600.0
HOLD_SECONDS: Final = 2.0
MAX_MESSAGES: Final = 1000
MAX_OCTETS: Final = 8_388_608
REMEMBERED: Final = 10_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class PartKey:
    """What the parts of one message have in common."""

    sender: str
    recipient: str
    reference: tuple[str, int]
    total: int


@dataclass(kw_only=True)
class _Open:
    """A message of which parts are missing, or which is not on disk yet."""

    since: float
    parts: dict[int, Part] = field(default_factory=dict)
    let_go: bool = False  # the SMSC has forgotten a part of it
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    storing: asyncio.Lock = field(default_factory=asyncio.Lock)


# Tells the parts that there are, in order, and returns once they are on disk.
Tell = Callable[[PartKey, Sequence[Part]], Awaitable[None]]


class Assembler:
    """The open messages of one carrier, bounded in number and size: the oldest is told as it is to make room."""

    def __init__(self, *, carrier: str, clock: Clock, tell: Tell, at_once: bool) -> None:
        self._carrier = carrier
        self._clock = clock
        self._tell = tell
        self._at_once = at_once
        self._open: OrderedDict[PartKey, _Open] = OrderedDict()
        self._octets = 0
        self._stored: OrderedDict[tuple[PartKey, Part], float] = OrderedDict()  # parts, and when they were told

    @property
    def waiting(self) -> int:
        """How many messages are incomplete."""
        return len(self._open)

    async def take(self, key: PartKey, part: Part) -> bool:
        """Take a part in; return whether the SMSC may forget it. Raises what `tell` raises."""
        if (key, part) in self._stored:
            return True
        message = self._open.get(key)
        if message and message.parts.get(part.number, part) != part:
            # The sender has used the reference again before its last message was complete.
            await self._tell_and_close(key, message)
            message = None
        if message is None:
            await self._make_room(part)
            message = self._open.setdefault(key, _Open(since=self._clock.monotonic()))
        again = part.number in message.parts
        if not again:
            message.parts[part.number] = part
            self._octets += len(part.content)
        if len(message.parts) == key.total:
            await self._tell_and_close(key, message)
            return True
        if self._at_once or again:
            message.let_go = True
            return True
        return await self._held(message)

    async def _held(self, message: _Open) -> bool:
        try:
            await within(self._clock, HOLD_SECONDS, message.stored.wait())
        except TimeoutError:
            log.info("a part of a long message waits for the others, and is asked for again", carrier=self._carrier)
            return False
        return True

    async def _tell_and_close(self, key: PartKey, message: _Open) -> None:
        async with message.storing:
            if message.stored.is_set():
                return
            parts = [message.parts[number] for number in sorted(message.parts)]
            await self._tell(key, parts)
            message.stored.set()
            self._remember(key, parts)
            if self._open.get(key) is message:
                del self._open[key]
                self._octets -= sum(len(part.content) for part in message.parts.values())

    def _remember(self, key: PartKey, parts: Sequence[Part]) -> None:
        now = self._clock.monotonic()
        for part in parts:
            self._stored[key, part] = now
        while self._stored:
            oldest = next(iter(self._stored))
            if len(self._stored) <= REMEMBERED and self._stored[oldest] > now - PATIENCE_SECONDS:
                break
            del self._stored[oldest]

    async def _make_room(self, part: Part) -> None:
        while self._open and (len(self._open) >= MAX_MESSAGES or self._octets + len(part.content) > MAX_OCTETS):
            key, oldest = next(iter(self._open.items()))
            log.warning("too many incomplete long messages: the oldest is told as it is", carrier=self._carrier)
            await self._tell_and_close(key, oldest)

    async def tell_overdue(self) -> None:
        """Tell what has been incomplete for ten minutes with the parts that there are. Raises what `tell` raises."""
        limit = self._clock.monotonic() - PATIENCE_SECONDS
        for key, message in list(self._open.items()):
            if message.since <= limit:
                log.warning("parts of a long message never came: it is told as it is", carrier=self._carrier)
                await self._tell_and_close(key, message)

    async def close(self) -> None:
        """Tell what nobody else has any more; the SMSC sends the rest again. Raises what `tell` raises."""
        for key, message in list(self._open.items()):
            if message.let_go:
                await self._tell_and_close(key, message)
