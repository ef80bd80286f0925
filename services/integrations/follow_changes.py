"""Follows the changes that all processes on a shared database make, and tells this process' watchers of each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Final, Protocol

import structlog

from servicekit.clock import Clock
from servicekit.errors import UnavailableError
from servicekit.ids import new_id
from services.integrations.domain import NODE_PREFIX, Change
from services.integrations.other_nodes import LEASE_SECONDS, OtherNodes
from services.integrations.store import LeaseLostError, Node, View
from services.integrations.watchers import EXACT_SECONDS, Broadcaster

# How often the lease is renewed and the database asked for what no notification told of.
RENEW_SECONDS: Final = 0.35
# The same while an author waits, so that a node that has fallen silent costs its lease and no more.
LOOK_SECONDS: Final = 0.05
# A watcher that was promised something in the last moment has stopped believing it when the lease is over.
TRUSTED_SECONDS: Final = LEASE_SECONDS - EXACT_SECONDS
# How long an author waits for a change to be in force. What takes longer has a reason that nobody here can see.
IN_FORCE_SECONDS: Final = 3.5
START_TRIES: Final = 5

log = structlog.get_logger(__name__)


class Nodes(Protocol):
    """What is asked of storage; NodeStore has the words."""

    async def join(self, node_id: str, *, instead_of: str | None = None) -> View:
        """Count a node in, and return what is there then."""

    async def renew(self, node_id: str, applied_revision: int, *, is_news: bool) -> View:
        """Renew a node's lease; raise LeaseLostError when it has been removed."""

    async def look(self) -> View:
        """Return everything that is committed by now."""

    async def remove(self, node: Node) -> None:
        """Count a node out, unless it has renewed its lease since."""

    async def leave(self, node_id: str) -> None:
        """Count a node out."""

    async def changes_after(self, revision: int) -> Change | None:
        """Return in one all that happened after a revision; None when that can not be told."""

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard` whenever there is news."""


class BehindError(Exception):
    """What has changed can not be told one by one any more."""


class Follower:
    """Makes this process one of those that share the database: a node.

    It alone gives changes to this process' watchers, own changes too, so that all of them come in the order of
    revisions. A node has a lease that it renews; whoever makes a change waits until each node with a lease has told
    that its watchers have it. A node that can not renew in time promises nothing more to its watchers, cuts them off,
    and joins anew when it can.
    """

    def __init__(self, *, nodes: Nodes, broadcaster: Broadcaster[Change], clock: Clock) -> None:
        self._nodes = nodes
        self._broadcaster = broadcaster
        self._clock = clock
        self._others = OtherNodes()
        self._node_id = ""
        self._known = 0
        self._applied = 0
        self._recorded = 0
        self._renewed_at = 0.0
        self._is_joined = False
        self._news = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Join the other nodes, and go on following them; raise UnavailableError when the database is away."""
        # Until then no watcher is let in: it would not hear of what the others change.
        self._broadcaster.trust_until(self._clock.monotonic())
        await self._join_at_last()
        self._run(self._follow())
        self._run(self._listen())

    async def stop(self) -> None:
        """Leave the other nodes, when no watcher believes in this one any more. The broadcaster is closed by now."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._node_id:
            await self._broadcaster.promises_over()
            # Without it the others wait for the end of the lease, this once.
            with contextlib.suppress(UnavailableError):
                await self._nodes.leave(self._node_id)

    def hurry(self) -> None:
        """Look for changes now."""
        self._news.set()

    async def in_force(self, revision: int | None = None) -> None:
        """Return when every watcher of every node has applied a revision, or all there is, or believes no longer.

        Raises UnavailableError when that can not be told in time.
        """
        if revision is None:
            revision = (await self._nodes.look()).revision
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((revision, waiter))
        self.hurry()
        too_late = asyncio.ensure_future(self._clock.sleep(IN_FORCE_SECONDS))
        try:
            await asyncio.wait((waiter, too_late), return_when=asyncio.FIRST_COMPLETED)
        finally:
            too_late.cancel()
            self._waiting.remove((revision, waiter))
        if not waiter.done():
            raise UnavailableError("The change is made, but it may not be in force everywhere yet. Read it again.")

    async def _join_at_last(self) -> None:
        for _ in range(START_TRIES - 1):
            with contextlib.suppress(UnavailableError):
                return await self._join()
            await self._clock.sleep(RENEW_SECONDS)
        return await self._join()

    async def _follow(self) -> None:
        while True:
            try:
                if not self._is_joined:
                    await self._join()
                await self._step()
            except Exception as error:  # noqa: BLE001  # whatever it is, watchers are cut off and it begins again
                if not (isinstance(error, UnavailableError) and self._is_trusted()):
                    await self._lose(error)
            await self._pause()

    async def _join(self) -> None:
        """Count in under a new id: what the old one had told is no longer true."""
        began, node_id = self._clock.monotonic(), new_id(NODE_PREFIX, self._clock.now())
        view = await self._nodes.join(node_id, instead_of=self._node_id or None)
        self._node_id = node_id
        # There is no watcher yet, so that everything there is has been applied by all.
        self._known = self._applied = view.revision
        self._recorded = 0
        self._renewed(began)
        self._is_joined = True
        self._others.seen(view, self._node_id, self._clock.monotonic())

    async def _step(self) -> None:
        """Renew where it is time, tell what is new, and answer those whose change is in force by now."""
        view = await self._renew() if self._must_renew() else await self._nodes.look()
        self._others.seen(view, self._node_id, self._clock.monotonic())
        if view.revision > self._known:
            await self._publish()
        for node in self._others.silent_at(self._clock.monotonic()):
            log.warning("an Integrations process has fallen silent; changes do not wait for it", node=node.id)
            await self._nodes.remove(node)
        self._answer(view)

    def _is_trusted(self) -> bool:
        return self._is_joined and self._clock.monotonic() < self._renewed_at + TRUSTED_SECONDS

    def _must_renew(self) -> bool:
        return self._applied > self._recorded or self._clock.monotonic() - self._renewed_at >= RENEW_SECONDS

    async def _renew(self) -> View:
        began, applied = self._clock.monotonic(), self._applied
        view = await self._nodes.renew(self._node_id, applied, is_news=applied > self._recorded)
        self._recorded = applied
        self._renewed(began)
        return view

    def _renewed(self, began: float) -> None:
        # The others count from when they see it, which is later.
        self._renewed_at = began
        self._broadcaster.trust_until(began + TRUSTED_SECONDS)

    async def _publish(self) -> None:
        change = await self._nodes.changes_after(self._known)
        if change is None:
            raise BehindError
        self._known = change.revision
        self._broadcaster.publish(change.revision, change)
        self._run(self._wait_for_watchers(change.revision))

    async def _wait_for_watchers(self, revision: int) -> None:
        cut_off = await self._broadcaster.acknowledged(revision)
        if cut_off:
            log.warning("watchers cut off", revision=revision, count=cut_off)
        self._applied = max(self._applied, revision)
        self.hurry()

    def _answer(self, view: View) -> None:
        applied = min((self._applied, *self._others.applied_revisions()))
        for revision, waiter in self._waiting:
            # A view from before the change can not show a node that has come since then.
            if revision <= min(view.revision, applied) and not waiter.done():
                waiter.set_result(None)

    async def _lose(self, error: Exception) -> None:
        """Stop promising, and let what was promised run out."""
        was_joined, self._is_joined = self._is_joined, False
        self._broadcaster.trust_until(self._clock.monotonic())
        self._broadcaster.cut_off_all()
        is_expected = isinstance(error, (UnavailableError, LeaseLostError, BehindError))
        if was_joined or not is_expected:
            log.warning("watchers begin again", error=type(error).__name__, exc_info=None if is_expected else error)
        await self._broadcaster.promises_over()

    async def _pause(self) -> None:
        seconds = LOOK_SECONDS if self._waiting else RENEW_SECONDS
        news = asyncio.ensure_future(self._news.wait())
        time = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((news, time), return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            time.cancel()
        self._news.clear()

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(UnavailableError):
                await self._nodes.listen(self._hear)
            await self._clock.sleep(RENEW_SECONDS)

    def _hear(self, node_id: str) -> None:
        if node_id != self._node_id:
            self.hurry()

    def _run(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
