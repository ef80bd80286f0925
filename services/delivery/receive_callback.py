"""Take in what a carrier calls back about: verified and read by the carrier, on disk before it is answered."""

from __future__ import annotations

import asyncio
from typing import Final

from servicekit.errors import NotFoundError
from services.delivery.carriers.base import Callback, CallbackAnswer, CarrierEvents, TakesCallbacks
from services.delivery.carriers.registry import Carriers
from services.delivery.errors import CallbackTooLargeError

MAX_CALLBACK_BYTES: Final = 65_536


class ReceiveCallback:
    """Hands a callback to its carrier, and what that reads in it to `events`."""

    def __init__(self, *, carriers: Carriers, events: CarrierEvents) -> None:
        self._carriers = carriers
        self._events = events

    async def __call__(self, name: str, callback: Callback) -> CallbackAnswer:
        """Return what the carrier wants to hear, once all that it told is on disk.

        Raises NotFoundError for a carrier that is not configured or does not call back, CallbackTooLargeError, what
        `TakesCallbacks.read` raises, and UnavailableError when the store can not be had: the carrier repeats it then.
        """
        carrier = self._carriers.named(name)
        if not isinstance(carrier, TakesCallbacks):
            raise NotFoundError
        if len(callback.body) > MAX_CALLBACK_BYTES:
            raise CallbackTooLargeError(limit=MAX_CALLBACK_BYTES)
        read = carrier.read(callback)
        # All at once, so that they share commits.
        await asyncio.gather(
            *(self._events.receipt(name, receipt) for receipt in read.receipts),
            *(self._events.reply(name, reply) for reply in read.replies),
        )
        return read.answer
