"""Keeps one bind to an SMSC up: connects, binds, serves the link, and comes again after a growing pause."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

import structlog

from servicekit.clock import Clock
from servicekit.errors import Issue, ValidationError
from services.delivery.carriers.base import LinkProblem
from services.delivery.carriers.smpp import statuses
from services.delivery.carriers.smpp.link import SmppLink
from services.delivery.carriers.smpp.pdu import BrokenPduError, Command, Delivery
from services.delivery.carriers.smpp.session import BindRefusedError, SmppSession, within
from services.delivery.carriers.smpp.window import NotSubmittedError

BIND_SECONDS: Final = 5.0  # for the connection, TLS and the bind together
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
STEADY_SECONDS: Final = 30.0  # a link that lasted so long was a good one: the pauses begin anew

log = structlog.get_logger(__name__)


def tls_context(link: SmppLink) -> ssl.SSLContext | None:
    """Return how to verify the SMSC; None without TLS. Raises ValidationError for a CA file that can not be read."""
    if not link.tls:
        return None
    try:
        return ssl.create_default_context(cafile=link.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        problem = f"can not be read as PEM certificates ({type(error).__name__})"
        raise ValidationError([Issue(path="ca_file", message=problem)]) from None


class SmppConnection:
    """One bind. `last_error` tells why there is none; it is empty while there is one."""

    def __init__(
        self,
        link: SmppLink,
        command: Command,
        *,
        clock: Clock,
        random: Callable[[], float],
        on_delivery: Callable[[Delivery, object], Awaitable[int]],
    ) -> None:
        """Raise ValidationError for a CA file that can not be read."""
        self._link = link
        self._command = command
        self._clock = clock
        self._random = random
        self._on_delivery = on_delivery
        self._tls = tls_context(link)
        self._session: SmppSession | None = None
        self._running: asyncio.Task[None] | None = None
        self._trying = asyncio.Event()  # set while no attempt to bind is under way
        self._failures = 0
        self._next_try_at = 0.0
        self._code = ""
        self._failed_at: datetime | None = None
        self.last_error = "the link has not been started"

    @property
    def problem(self) -> LinkProblem | None:
        """What went wrong, and when; None while there is a bind, and until the first try has failed."""
        if self._failed_at is None:
            return None
        return LinkProblem(at=self._failed_at, detail=f"no link ({self._command.name.lower()}): {self.last_error}")

    def start(self) -> None:
        """Begin to connect."""
        self._trying.clear()
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Unbind and close."""
        if self._running:
            if self._session:
                self._session.unbind()
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
            self._running = None

    async def session(self) -> SmppSession:
        """Return the bound session, after the end of an attempt that is under way. Raises NotSubmittedError."""
        if self._session is None and self._running:
            await self._trying.wait()
        if self._session is None:
            wait = max(0.0, self._next_try_at - self._clock.monotonic()) or None
            raise NotSubmittedError(f"not bound: {self.last_error}", code=self._code, after_seconds=wait)
        return self._session

    async def _run(self) -> None:
        try:
            while True:
                self._trying.clear()
                begun_at = self._clock.monotonic()
                await self._serve()
                self._trying.set()
                steady = self._clock.monotonic() - begun_at >= STEADY_SECONDS
                self._failures = 1 if steady else self._failures + 1
                pause = pause_seconds(self._failures, self._random())
                self._next_try_at = self._clock.monotonic() + pause
                log.warning("no SMPP link", carrier=self._link.name, problem=self.last_error, pause_seconds=pause)
                await self._clock.sleep(pause)
        finally:
            self.last_error = "the link was closed"
            self._trying.set()

    async def _serve(self) -> None:
        """Bind and serve the link to its end; leave in `last_error` what went wrong."""
        try:
            session = await within(self._clock, BIND_SECONDS, self._bind())
        except BindRefusedError as error:
            self._fail(str(error), statuses.meaning_of(error.status).name)
        except TimeoutError:
            self._fail(f"no bind within {BIND_SECONDS:.0f} s", "TimeoutError")
        except ssl.SSLCertVerificationError as error:
            self._fail(f"the SMSC's certificate is not accepted: {error.verify_message}", type(error).__name__)
        except (OSError, EOFError, BrokenPduError) as error:
            self._fail(f"the SMSC could not be reached ({type(error).__name__})", type(error).__name__)
        else:
            self._session, self.last_error, self._code, self._failed_at = session, "", "", None
            self._trying.set()
            log.info("SMPP link is up", carrier=self._link.name, bound_as=self._command.name.lower())
            try:
                self._fail(await session.run(), "LinkLost")
            finally:
                self._session = None

    def _fail(self, problem: str, code: str) -> None:
        self.last_error, self._code, self._failed_at = problem, code, self._clock.now()

    async def _bind(self) -> SmppSession:
        link = self._link
        reader, writer = await asyncio.open_connection(
            link.host, link.port, ssl=self._tls, server_hostname=link.host if self._tls else None
        )
        session = SmppSession(reader, writer, link=link, clock=self._clock, on_delivery=self._on_delivery)
        try:
            await session.bind(self._command)
        except BaseException:
            writer.close()
            raise
        return session


def pause_seconds(failures: int, chance: float) -> float:
    """Return the pause after so many failures in a row, from 1: doubled each time, and a half of it left to chance."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 30))
    return longest * (0.5 + 0.5 * chance)
