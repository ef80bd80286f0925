"""A carrier over HTTP: hands messages over and reads callbacks as its definition says.

Documentation: docs/guides/new-carrier.md. Limits: an answer is read up to 64 KiB; a connection must stand within 5 s; a
look-up has 5 s; a send has the caller's deadline. No redirects, no proxies, no compressed answers, one request for one
call.

    connection never stood          it does not have the message: try later
    broke off after the first byte  it may have the message, or not
    an answer                       `answers`, by the definition's rules
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from yarl import URL

from servicekit import tracing
from servicekit.clock import Clock
from servicekit.errors import Issue, ValidationError
from servicekit.sms_text import measure
from services.delivery.carriers.base import (
    Callback,
    Capability,
    CarrierEvents,
    CarrierReceipt,
    Failure,
    FailureReason,
    OutboundMessage,
    ReadCallback,
    Refused,
    SendResult,
    TryLater,
    Unknown,
)
from services.delivery.carriers.http.answers import HttpAnswer, look_up_result, send_result
from services.delivery.carriers.http.callback_signatures import message_key
from services.delivery.carriers.http.callbacks import CallbackReader
from services.delivery.carriers.http.calls import CarrierCalls, Progress
from services.delivery.carriers.http.definition import Definition, Installation, setting_problems
from services.delivery.carriers.http.model import Limits, Request
from services.delivery.carriers.http.requests import (
    Head,
    Prepared,
    constant_head,
    message_values,
    prepare,
    request_host,
    resolved_settings,
)
from services.delivery.carriers.http.templates import Values

CONNECT_SECONDS: Final = 5.0
LOOK_UP_SECONDS: Final = 5.0


class HttpCarrier:
    """One installation of one definition, over a pool of kept connections."""

    kind = "http"

    def __init__(
        self, definition: Definition, installation: Installation, clock: Clock, *, origin: str | None = None
    ) -> None:
        """Take what the definition needs; `origin` stands in for every request's scheme, host and port, to try it out.

        Raises ValidationError when the installation's settings do not fit the definition.
        """
        problems = setting_problems(definition, installation.settings)
        if problems:
            raise ValidationError(
                [
                    Issue(path=f"carriers.{installation.name}.settings.{name}", message=problem)
                    for name, problem in problems.items()
                ]
            )
        self.name = installation.name
        self.sender = installation.sender
        self.definition_name = definition.name
        self._settings = resolved_settings(definition, installation.settings)
        self._can_call_back = _can_call_back(definition, self._settings, installation.public_url)
        self.capability = _capability(definition, installation, can_call_back=self._can_call_back)
        self.can_look_up = definition.look_up is not None and self.capability is Capability.RECONCILABLE
        self._definition = definition
        rotated = resolved_settings(definition, installation.settings, nth=1)
        settings = [self._settings] if rotated == self._settings else [self._settings, rotated]
        self._callbacks = CallbackReader(definition, settings)
        self._callback_url = f"{installation.public_url.rstrip('/')}/v1/carriers/{installation.name}"
        self._key_secret = _key_secret(definition, self._settings)
        self._head = constant_head(definition, definition.request, self._settings)
        self._origin = origin
        self._clock = clock
        self._calls: CarrierCalls | None = None

    async def start(self, events: CarrierEvents) -> None:  # noqa: ARG002  # what it tells comes in through `read`
        """Make the pool; connections are made when they are needed."""
        # The dispatcher bounds how many calls there are; a second bound here would use up their deadlines.
        self._calls = CarrierCalls(connect_seconds=CONNECT_SECONDS)

    async def stop(self) -> None:
        """Close the connections."""
        if self._calls:
            self._calls.close()

    async def send(self, message: OutboundMessage) -> SendResult:
        """Make the definition's request once."""
        too_long = _too_long(self._definition.limits, message.text)
        if too_long:
            return Refused(failure=Failure(reason=FailureReason.CARRIER_REJECTED), detail=too_long)
        progress = Progress()
        try:
            answer = await self._answer(self._prepared(self._definition.request, message, self._head), progress)
        except OSError as error:
            return _broken_off(error, begun=progress.begun)
        return send_result(self._definition.answer, answer, message, self._clock.now())

    async def look_up(self, message: OutboundMessage) -> CarrierReceipt | None:
        """Ask what became of the message; None as well when the carrier can not be asked just now."""
        look_up = self._definition.look_up
        if look_up is None:
            return None
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                answer = await self._answer(self._prepared(look_up.request, message), Progress())
        except OSError:  # a deadline that has passed is an OSError too
            return None
        return look_up_result(look_up, answer, message)

    def read(self, callback: Callback) -> ReadCallback:
        """Verify a callback, then read it; see base.TakesCallbacks."""
        return self._callbacks.read(callback)

    def _prepared(self, request: Request, message: OutboundMessage, head: Head | None = None) -> Prepared:
        return prepare(self._definition, request, self._values(message), head)

    def _values(self, message: OutboundMessage) -> Values:
        status_url = inbound_url = ""
        if self._can_call_back and self._definition.status_callback:
            status_url = f"{self._callback_url}/status?message={message.message_id}"
            if self._key_secret:
                status_url += f"&key={message_key(self._key_secret, message.message_id)}"
        if self._can_call_back and self._definition.inbound_callback:
            inbound_url = f"{self._callback_url}/inbound"
        return message_values(message, self._settings, status_url=status_url, inbound_url=inbound_url)

    async def _answer(self, request: Prepared, progress: Progress) -> HttpAnswer:
        assert self._calls is not None  # noqa: S101  # `start` comes before everything else
        if traced := tracing.headers():
            request = replace(request, headers={**request.headers, **traced})
        return await self._calls.call(request, progress, origin=self._origin)


def _too_long(limits: Limits, text: str) -> str:
    """Return why the carrier would not take all of a text; empty when it does."""
    segments = measure(text).segments
    if limits.text_characters is not None and len(text) > limits.text_characters:
        return f"the text has {len(text)} characters, and the carrier takes at most {limits.text_characters}"
    if limits.segments is not None and segments > limits.segments:
        return f"the text takes {segments} SMS parts, and the carrier takes at most {limits.segments}"
    return ""


def _can_call_back(definition: Definition, settings: Mapping[str, str], public_url: str) -> bool:
    # A carrier elsewhere refuses messages with an address that only this machine reaches, or calls itself.
    where = request_host(definition, settings)
    return bool(public_url) and (not _is_here(URL(public_url).host or "") or _is_here(where))


def _is_here(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


def _capability(definition: Definition, installation: Installation, *, can_call_back: bool) -> Capability:
    capability = installation.capability or definition.capability
    can_tell = definition.look_up or (definition.status_callback and can_call_back)
    return Capability.BLIND if capability is Capability.RECONCILABLE and not can_tell else capability


def _key_secret(definition: Definition, settings: Values) -> str:
    callback = definition.status_callback
    if callback is None or callback.form.verify.scheme != "message_key":
        return ""
    return callback.form.verify.texts["secret"].text(settings) or ""


def _broken_off(error: Exception, *, begun: bool) -> SendResult:
    kind = type(error).__name__
    if begun:
        return Unknown(detail=f"the connection broke off before the answer was there ({kind})")
    failure = Failure(reason=FailureReason.CARRIER_UNAVAILABLE, carrier_code=kind)
    return TryLater(failure=failure, detail=f"the carrier could not be reached, so nothing was sent ({kind})")
