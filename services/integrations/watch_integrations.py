"""Keeps other services' copies of all integrations fresh: a snapshot first, then every change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from servicekit.clock import Clock
from servicekit.errors import NotFoundError
from services.integrations.domain import Change, Integration
from services.integrations.store import Snapshot
from services.integrations.watchers import EXACT_SECONDS, Broadcaster, Pong, Watcher

PAGE_SIZE: Final = 200


@dataclass(frozen=True, kw_only=True)
class Update:
    """One step of a watcher's copy. Its revision is what the watcher acknowledges, 0 where more pages follow.

    A pong is the number of a ping, and says that the copy is exact for EXACT_SECONDS from when the watcher sent it.
    """

    revision: int = 0
    changed: Sequence[Integration] = ()
    deleted_ids: Sequence[str] = ()
    snapshot_complete: bool = False
    pong: int = 0
    exact_seconds: float = EXACT_SECONDS


@dataclass(frozen=True, kw_only=True)
class WatcherWord:
    """What a watcher says: how far it is, or a number to be answered."""

    applied_revision: int = 0
    ping: int = 0


class Registry(Protocol):
    """What is asked of storage."""

    async def find_by_ingress_key(self, sha256: bytes) -> Integration | None:
        """Return the integration that a key leads to, expired or not; None when there is none."""

    async def snapshot(self, page_size: int) -> Snapshot:
        """Return every integration; exactly the changes up to the snapshot's revision are in it."""


class WatchIntegrations:
    """Answers the services that keep a copy, and those that ask for one address."""

    def __init__(self, *, store: Registry, broadcaster: Broadcaster[Change], clock: Clock) -> None:
        self._store = store
        self._broadcaster = broadcaster
        self._clock = clock

    async def resolve(self, sha256: bytes) -> Integration:
        """Return the integration that an address leads to now; raise NotFoundError."""
        integration = await self._store.find_by_ingress_key(sha256)
        if integration is not None:
            for key in integration.ingress_keys:
                if key.sha256 == sha256 and key.works_at(self._clock.now()):
                    return integration
        raise NotFoundError

    async def updates(self, words: AsyncIterator[WatcherWord]) -> AsyncIterator[Update]:
        """Return the snapshot and then every change; raise UnavailableError when the watcher falls behind."""
        # It joins before the snapshot is read: a change that is committed meanwhile waits in its queue.
        with self._broadcaster.watch() as watcher:
            reading = asyncio.create_task(self._read(words, watcher))
            reading.add_done_callback(_forget)
            try:
                snapshot = await self._store.snapshot(PAGE_SIZE)
                watcher.begin_after(snapshot.revision)
                for update in _snapshot_updates(snapshot):
                    watcher.require_live()
                    yield update
                while True:
                    for update in _updates(await watcher.next_change()):
                        watcher.require_live()
                        yield update
            finally:
                reading.cancel()

    async def _read(self, words: AsyncIterator[WatcherWord], watcher: Watcher[Change]) -> None:
        async for word in words:
            watcher.acknowledge(word.applied_revision)
            if word.ping:
                self._broadcaster.ping(watcher, word.ping)


def _forget(task: asyncio.Task[None]) -> None:
    # A stream that breaks ends its acknowledgements with an error, and the stream's own end says all that there is.
    if not task.cancelled():
        task.exception()


def _snapshot_updates(snapshot: Snapshot) -> Iterator[Update]:
    for page, last in _with_last(snapshot.pages):
        revision = snapshot.revision if last else 0
        yield Update(revision=revision, changed=page, snapshot_complete=last)


def _updates(news: tuple[int, Change] | Pong) -> Iterator[Update]:
    """Return a pong, or one change in pages, of which only the last can be acknowledged."""
    if isinstance(news, Pong):
        yield Update(pong=news.number)
        return
    revision, change = news
    starts = range(0, len(change.changed), PAGE_SIZE)
    for page, last in _with_last(change.changed[start : start + PAGE_SIZE] for start in starts):
        yield Update(revision=revision if last else 0, changed=page, deleted_ids=change.deleted_ids if last else ())


def _with_last(pages: Iterable[Sequence[Integration]]) -> Iterator[tuple[Sequence[Integration], bool]]:
    """Return each page and whether it is the last; one empty page when there is none."""
    remaining = iter(pages)
    page: Sequence[Integration] = next(remaining, ())
    for following in remaining:
        yield page, False
        page = following
    yield page, True
