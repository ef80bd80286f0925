"""Ingress' own copy of every integration, kept fresh by a watch, so that a payload costs no call to Integrations."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import grpc
import structlog
import tenacity

from servicekit import clients
from servicekit.clock import Clock
from servicekit.errors import Kind, NotFoundError, RemoteError, UnavailableError
from services.ingress import convert, metrics
from services.ingress.domain import Integration
from textway.integrations.v1 import registry_service_pb2_grpc
from textway.integrations.v1.registry_service_pb2 import (
    ResolveIngressKeyRequest,
    WatchIntegrationsRequest,
    WatchIntegrationsResponse,
)

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 1.0
RESOLVE_SECONDS: Final = 1.0
# Of the time for which a pong is good: one may be late by a third of it. Little is done so often where nothing goes on.
PINGS_IN_THAT_TIME: Final = 1.5
# A watch on which no ping is answered for so long is given up for another one, perhaps of another process.
SILENCE_SECONDS: Final = 2.0
PART: Final = "Integrations"

log = structlog.get_logger(__name__)


class WatchEndedError(Exception):
    """Integrations closed the watch."""


class WatchSilentError(Exception):
    """Integrations does not answer on the watch any more."""


class IntegrationsReplica:
    """Answers from a copy that Integrations keeps fresh.

    While the watch is live the copy is exact: a change is answered to its author only when this copy has acknowledged
    it, or its watch is live no longer. So an unknown key is nobody's, and no call is made for it. The watch is live
    for a moment after each ping that is answered, counted from when the ping was sent, so that a connection which
    nobody answers on is not taken for a quiet one. When the watch is not live, what is known serves for
    `known_for_seconds`; anything else is asked for, key by key, or can not be told.
    """

    def __init__(
        self,
        registry: registry_service_pb2_grpc.RegistryServiceAsyncStub,
        *,
        clock: Clock,
        known_for_seconds: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._known_for_seconds = known_for_seconds
        self._jitter = jitter
        self._integrations = _Integrations()
        self._exact_until: float | None = None  # None before the first snapshot
        self._fruitless_tries = 0
        self._first_snapshot = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def start(self, wait_seconds: float) -> None:
        """Open the watch; wait so long for the first snapshot, and go on without one."""
        self._watch = asyncio.create_task(self._watch_for_ever())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first_snapshot.wait(), wait_seconds)

    async def stop(self) -> None:
        """Close the watch."""
        if self._watch:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch

    async def by_ingress_key(self, sha256: bytes) -> Integration:
        """Return the integration that has the key with this hash, expired or not.

        Raises NotFoundError when there is none, and UnavailableError when that can not be told now.
        """
        known = self._integrations.by_key.get(sha256)
        if self._is_live and known is None:
            raise NotFoundError
        if known is not None and self._may_serve():
            return known
        return await self._resolve(sha256)

    async def by_id(self, integration_id: str) -> Integration:
        """Return an integration. Raises NotFoundError, or UnavailableError when that can not be told now."""
        known = self._integrations.by_id.get(integration_id)
        if known is not None and self._may_serve():
            return known
        if self._is_live:
            raise NotFoundError
        raise UnavailableError("Integrations can not be reached just now. Send the request again.")

    async def readiness(self) -> tuple[bool, str]:
        """Tell whether payloads can be taken, and what is wrong with the watch."""
        if self._is_live:
            return True, ""
        if self._exact_until is None:
            return False, "has not heard from Integrations yet"
        seconds = int(self._clock.monotonic() - self._exact_until)
        return self._may_serve(), f"lost its watch of Integrations {seconds} s ago and goes on with what it knows"

    @property
    def _is_live(self) -> bool:
        return self._exact_until is not None and self._clock.monotonic() < self._exact_until

    def _may_serve(self) -> bool:
        if self._exact_until is None:
            return False
        return self._clock.monotonic() < self._exact_until + self._known_for_seconds

    async def _resolve(self, sha256: bytes) -> Integration:
        request = ResolveIngressKeyRequest(sha256=sha256)
        try:
            response = await clients.call(
                self._registry.ResolveIngressKey, request, part=PART, timeout_seconds=RESOLVE_SECONDS
            )
        except RemoteError as error:
            if error.kind is Kind.NOT_FOUND:
                raise NotFoundError from error
            raise
        return convert.integration_from(response.integration)

    async def _watch_for_ever(self) -> None:
        # The watch may be opened again as often as one likes, and nothing that goes wrong in it may end it.
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Exception), wait=self._pause, sleep=self._clock.sleep
        )
        await retrying(self._watch_once)

    def _pause(self, _: tenacity.RetryCallState) -> float:
        longest: float = min(FIRST_PAUSE_SECONDS * 2 ** min(self._fruitless_tries, 10), LONGEST_PAUSE_SECONDS)
        self._fruitless_tries += 1
        return longest * self._jitter()

    async def _watch_once(self) -> None:
        watch: Any = self._registry.WatchIntegrations  # Any: the stub's type has only the form with an iterator
        call = watch()
        stream = _Stream(call, self._clock)
        try:
            await stream.write(WatchIntegrationsRequest())
            await _until_first_ends(self._follow(stream), stream.ping(self._show))
        except Exception as error:
            log.warning("watch of integrations broke", error=_cause(error), try_number=self._fruitless_tries + 1)
            raise
        finally:
            self._lose()
            call.cancel()

    async def _follow(self, stream: _Stream) -> None:
        snapshot: _Integrations | None = _Integrations()
        while (response := await stream.read()) is not grpc.aio.EOF:
            if snapshot is None:
                self._integrations.apply(response)
                metrics.INTEGRATIONS.set(len(self._integrations.by_id))
            else:
                snapshot.apply(response)
                if not response.snapshot_complete:
                    continue
                self._begin(snapshot, stream, response.exact_for_ms / 1000)
                snapshot = None
            if response.pong:
                self._live_until(stream.good_until(response.pong))
            if response.revision:  # a change in several pages has its revision on the last
                await stream.write(WatchIntegrationsRequest(applied_revision=response.revision))
        raise WatchEndedError

    def _begin(self, snapshot: _Integrations, stream: _Stream, exact_seconds: float) -> None:
        self._integrations = snapshot
        metrics.INTEGRATIONS.set(len(snapshot.by_id))
        self._fruitless_tries = 0
        if exact_seconds:
            # Known, but not exact before the first pong.
            self._exact_until = self._clock.monotonic()
            stream.begin_pings(exact_seconds)
        else:
            self._live_until(math.inf)
        log.info("integrations known", count=len(snapshot.by_id))

    def _live_until(self, moment: float) -> None:
        self._exact_until = moment
        self._show()
        self._first_snapshot.set()

    def _lose(self) -> None:
        if self._is_live:
            self._exact_until = self._clock.monotonic()
        self._show()

    def _show(self) -> None:
        metrics.WATCH_LIVE.set(int(self._is_live))


class _Stream:
    """One watch: what goes out in turns, and the pings."""

    def __init__(self, call: Any, clock: Clock) -> None:  # Any: grpc.aio has no type for a stream of a stub
        self._call = call
        self._clock = clock
        self._in_turns = asyncio.Lock()  # grpc.aio takes one message at a time
        self._exact_seconds = 0.0
        self._begun = asyncio.Event()
        self._sent_at: dict[int, float] = {}
        self._answered_at = 0.0

    async def read(self) -> Any:  # Any: a response, or grpc.aio's word for the end
        return await self._call.read()

    async def write(self, request: WatchIntegrationsRequest) -> None:
        async with self._in_turns:
            await self._call.write(request)

    def begin_pings(self, exact_seconds: float) -> None:
        """Ping from now on; a pong is good for so long."""
        self._exact_seconds = exact_seconds
        self._answered_at = self._clock.monotonic()
        self._begun.set()

    def good_until(self, number: int) -> float:
        """Return until when a pong is good."""
        self._answered_at = self._clock.monotonic()
        sent_at = self._sent_at[number]
        self._sent_at = {later: moment for later, moment in self._sent_at.items() if later >= number}
        return sent_at + self._exact_seconds

    async def ping(self, show: Callable[[], None]) -> None:
        """Ping until nothing comes back; raise WatchSilentError then. Each time `show` is called first."""
        await self._begun.wait()
        number = 0
        while self._clock.monotonic() - self._answered_at < SILENCE_SECONDS:
            show()
            number += 1
            self._sent_at[number] = self._clock.monotonic()
            async with asyncio.timeout(SILENCE_SECONDS):
                await self.write(WatchIntegrationsRequest(ping=number))
            await self._clock.sleep(self._exact_seconds / PINGS_IN_THAT_TIME)
        raise WatchSilentError


async def _until_first_ends(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, which it does by raising."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            if task.cancelled():  # grpc.aio cancels whoever reads from a call that a write has given up
                raise WatchSilentError
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Integrations:
    """Integrations by their id and by the hashes of their keys."""

    def __init__(self) -> None:
        self.by_id: dict[str, Integration] = {}
        self.by_key: dict[bytes, Integration] = {}

    def apply(self, change: WatchIntegrationsResponse) -> None:
        """Take over what changed; there is no await in here, so nobody sees half of it."""
        self._remove(change.deleted_ids)
        for config in change.changed:
            integration = convert.integration_from(config)
            self._remove([integration.id])
            self.by_id[integration.id] = integration
            for key in integration.ingress_keys:
                self.by_key[key.sha256] = integration

    def _remove(self, integration_ids: Iterable[str]) -> None:
        for integration_id in integration_ids:
            known = self.by_id.pop(integration_id, None)
            for key in known.ingress_keys if known else ():
                self.by_key.pop(key.sha256, None)


def _cause(error: Exception) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
