"""Ingress' own copy of every integration, kept fresh by a watch, so that a payload costs no call to Integrations."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
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
PART: Final = "Integrations"

log = structlog.get_logger(__name__)


class WatchEndedError(Exception):
    """Integrations closed the watch."""


class IntegrationsReplica:
    """Answers from a copy that Integrations keeps fresh.

    While the watch is live the copy is exact: a change is answered to its author only when this copy has acknowledged
    it, or its watch has been cut off. So an unknown key is nobody's, and no call is made for it. When the watch is
    broken, what is known serves for `known_for_seconds`; anything else is asked for, key by key, or can not be told.
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
        self._is_live = False
        self._lost_at: float | None = None
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
        if self._lost_at is None:
            return False, "has not heard from Integrations yet"
        seconds = int(self._clock.monotonic() - self._lost_at)
        return self._may_serve(), f"lost its watch of Integrations {seconds} s ago and goes on with what it knows"

    def _may_serve(self) -> bool:
        if self._is_live:
            return True
        return self._lost_at is not None and self._clock.monotonic() - self._lost_at < self._known_for_seconds

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
        try:
            await call.write(WatchIntegrationsRequest())
            await self._follow(call)
        except Exception as error:
            log.warning("watch of integrations broke", error=_cause(error), try_number=self._fruitless_tries + 1)
            raise
        finally:
            self._lose()
            call.cancel()

    async def _follow(self, call: Any) -> None:  # Any: grpc.aio has no type for a stream of a stub
        snapshot: _Integrations | None = _Integrations()
        while (response := await call.read()) is not grpc.aio.EOF:
            if snapshot is None:
                self._integrations.apply(response)
                metrics.INTEGRATIONS.set(len(self._integrations.by_id))
            else:
                snapshot.apply(response)
                if not response.snapshot_complete:
                    continue
                self._begin(snapshot)
                snapshot = None
            if response.revision:  # a change in several pages has its revision on the last
                await call.write(WatchIntegrationsRequest(applied_revision=response.revision))
        raise WatchEndedError

    def _begin(self, snapshot: _Integrations) -> None:
        self._integrations = snapshot
        self._is_live = True
        metrics.WATCH_LIVE.set(1)
        metrics.INTEGRATIONS.set(len(snapshot.by_id))
        self._lost_at = None
        self._fruitless_tries = 0
        self._first_snapshot.set()
        log.info("integrations known", count=len(snapshot.by_id))

    def _lose(self) -> None:
        if self._is_live:
            self._is_live = False
            metrics.WATCH_LIVE.set(0)
            self._lost_at = self._clock.monotonic()


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
