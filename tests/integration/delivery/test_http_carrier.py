"""The HTTP engine, by the definition of an own gateway, against servers that answer well, badly, and not at all."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from servicekit import tracing
from servicekit.errors import ValidationError
from services.delivery.carriers.base import (
    Capability,
    CarrierReceipt,
    OutboundMessage,
    Refused,
    SendResult,
    Taken,
    TryLater,
    Unknown,
)
from services.delivery.carriers.http import answers
from services.delivery.carriers.http import carrier as http
from services.delivery.carriers.http.carrier import HttpCarrier
from services.delivery.carriers.http.definition import Installation, load_definition, shipped
from services.delivery.domain import FailureReason, Status
from tests.kit.carrier import serving

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MESSAGE = OutboundMessage(
    message_id="msg_01m82aa6rjf2w4dfra4tnmseb0",
    attempt_number=1,
    to="+6581230000",
    sender="+6598765432",
    text="Ünïcode 😀",
)


@contextlib.asynccontextmanager
async def gateway_that(handle: Handler) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/messages"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def carrier_to(url: str, clock, **options) -> AsyncIterator[HttpCarrier]:
    capability = options.pop("capability", Capability.RECONCILABLE)
    installation = Installation(
        name="main", sender="+6598765432", settings={"url": url, **options}, capability=capability
    )
    carrier = HttpCarrier(load_definition(shipped()["own-gateway"]), installation, clock)
    await carrier.start(None)
    try:
        yield carrier
    finally:
        await carrier.stop()


async def sent(handle: Handler, clock, **options) -> SendResult:
    async with gateway_that(handle) as url, carrier_to(url, clock, **options) as carrier:
        return await carrier.send(MESSAGE)


def answering(status: int, body: str | bytes = "", **headers: str) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        content = body.encode() if isinstance(body, str) else body
        return web.Response(
            status=status, body=content, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return handle


async def test_sends_the_message_with_its_id_as_key_and_the_token(clock):
    seen = {}

    async def handle(request: web.Request) -> web.Response:
        seen.update(method=request.method, headers=request.headers.copy(), body=await request.json())
        return web.json_response({"id": "c-1"}, status=202)

    result = await sent(handle, clock, token="s3cret")

    assert result == Taken(carrier_message_id="c-1", detail='HTTP 202: {"id": "c-1"}')
    assert seen["method"] == "POST"
    assert seen["body"] == {
        "id": MESSAGE.message_id,
        "to": "+6581230000",
        "from": "+6598765432",
        "text": "Ünïcode 😀",
    }
    assert seen["headers"]["Idempotency-Key"] == MESSAGE.message_id
    assert seen["headers"]["Authorization"] == "Bearer s3cret"
    assert seen["headers"]["Accept-Encoding"] == "identity"


class FixedTracer:
    """Is in the midst of one span, for ever."""

    def traceparent(self) -> str:
        return "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("tracer", [None, FixedTracer()])
async def test_names_its_span_to_the_carrier_while_somebody_traces_and_else_nothing(clock, monkeypatch, tracer):
    monkeypatch.setattr(tracing, "_tracer", tracer)
    seen = {}

    async def handle(request: web.Request) -> web.Response:
        seen.update(request.headers)
        return web.json_response({"id": "c-1"}, status=202)

    await sent(handle, clock)

    assert seen.get("traceparent") == (tracer.traceparent() if tracer else None)


def test_does_not_show_its_token():
    assert "s3cret" not in repr(Installation(name="main", settings={"token": "s3cret"}))


async def test_sends_an_empty_sender_when_the_gateway_is_to_choose(clock):
    seen = {}

    async def handle(request: web.Request) -> web.Response:
        seen.update(await request.json())
        return web.Response()

    async with gateway_that(handle) as url, carrier_to(url, clock) as carrier:
        await carrier.send(dataclasses.replace(MESSAGE, sender=""))

    assert seen["from"] == ""


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://me:secret@x/", "http://x/#a", "http://x:99999/"])
def test_refuses_an_address_that_can_not_be_called_without_showing_it(clock, url):
    installation = Installation(name="main", settings={"url": url})

    with pytest.raises(ValidationError, match=r"carriers\.main\.settings\.url") as refused:
        HttpCarrier(load_definition(shipped()["own-gateway"]), installation, clock)

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "ok",
        "[1]",
        "{",
        "[" * 60_000,
        '{"id": null}',
        '{"id": {"a": 1}}',
        b"\xff\xfe",
        gzip.compress(b'{"id": "x"}', mtime=0),
        "x" * 200_000,
    ],
)
async def test_takes_our_own_id_when_the_answer_has_none(clock, body):
    result = await sent(answering(200, body), clock)

    assert isinstance(result, Taken)
    assert result.carrier_message_id == MESSAGE.message_id


async def test_lets_nothing_into_the_database_that_it_can_not_hold(clock):
    taken = await sent(answering(200, '{"id": "a\\u0000b\\ud800c' + "d" * 500 + '"}'), clock)
    refused = await sent(answering(400, b"no\x00\xed\xa0\x80\r\n\x1b[31m"), clock)

    assert taken.carrier_message_id.startswith("a b cddd")
    assert len(taken.carrier_message_id) <= answers.MAX_CARRIER_ID_LENGTH
    assert refused.detail.isprintable()
    refused.detail.encode()


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        ("", None),
        ("7", 7.0),
        ("0", 0.0),
        ("99999999999999999999999", 86_400.0),
        ("-5", None),
        ("soon", None),
        ("٣", None),
        ("Fri, 12 Jun 2026 14:33:30 GMT", 90.0),
        ("Fri, 12 Jun 2026 14:00:00 GMT", 0.0),
        ("Fri, 12 Jun 2099 14:00:00 GMT", 86_400.0),
        ("Fri, 99 Jun 2026 14:33:30 GMT", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_reads_when_it_may_try_again(clock, status, retry_after, expected):
    result = await sent(answering(status, Retry_After=retry_after), clock)

    assert isinstance(result, TryLater)
    assert result.after_seconds == expected


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason", "code"),
    [
        (429, "", TryLater, FailureReason.THROTTLED, "429"),
        (503, "", TryLater, FailureReason.CARRIER_UNAVAILABLE, "503"),
        (302, "", TryLater, FailureReason.CARRIER_UNAVAILABLE, "302"),
        (308, "", TryLater, FailureReason.CARRIER_UNAVAILABLE, "308"),
        (400, "", Refused, FailureReason.CARRIER_REJECTED, "400"),
        (400, '{"error": "invalid_number"}', Refused, FailureReason.INVALID_NUMBER, "invalid_number"),
        (400, '{"error": "blocked by us"}', Refused, FailureReason.CARRIER_REJECTED, "blocked by us"),
        (402, "", Refused, FailureReason.INSUFFICIENT_FUNDS, "402"),
        (403, '{"error": "opted_out"}', Refused, FailureReason.OPTED_OUT, "opted_out"),
        (401, "", Refused, FailureReason.ACCOUNT_REJECTED, "401"),
        (404, "", Refused, FailureReason.CARRIER_REJECTED, "404"),
        (408, "", Refused, FailureReason.CARRIER_REJECTED, "408"),
    ],
)
async def test_classifies_a_no(clock, status, body, kind, reason, code):
    result = await sent(answering(status, body), clock)

    assert isinstance(result, kind)
    assert (result.failure.reason, result.failure.carrier_code) == (reason, code)


@pytest.mark.parametrize("status", [303, 304, 500, 501, 502, 504, 599])
async def test_counts_every_other_answer_as_unknown(clock, status):
    assert isinstance(await sent(answering(status), clock), Unknown)


async def test_follows_no_redirect(clock):
    async with gateway_that(answering(200)) as elsewhere:
        result = await sent(answering(307, Location=elsewhere), clock)

    assert isinstance(result, TryLater)


@pytest.mark.parametrize("to", ["+6581230011", "+6581230012", "+6581230013", "+6581230014"])
async def test_does_not_know_the_outcome_when_the_answer_is_lost(clock, tmp_path, to):
    async with serving(tmp_path / "log") as url, carrier_to(url, clock) as carrier:
        message = OutboundMessage(message_id="msg_1", attempt_number=1, to=to, sender="", text="x")

        assert isinstance(await carrier.send(message), Unknown)


async def test_does_not_know_the_outcome_when_the_body_breaks_off(clock):
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=200, headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"id"')
        request.transport.abort()
        return response

    assert isinstance(await sent(handle, clock), Unknown)


async def test_tries_later_when_nobody_listens(clock):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    async with carrier_to(f"http://127.0.0.1:{port}/messages", clock) as carrier:
        result = await carrier.send(MESSAGE)

    assert isinstance(result, TryLater)
    assert result.failure.reason is FailureReason.CARRIER_UNAVAILABLE


async def test_tries_later_when_the_address_leads_nowhere(clock):
    async with carrier_to("http://no-such-host.invalid/messages", clock) as carrier:
        assert isinstance(await carrier.send(MESSAGE), TryLater)


async def test_tries_later_when_tls_can_not_be_agreed_on(clock):
    async with gateway_that(answering(200)) as url, carrier_to(url.replace("http:", "https:"), clock) as carrier:
        assert isinstance(await carrier.send(MESSAGE), TryLater)


async def test_tries_later_when_no_connection_comes_about(clock, monkeypatch):
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        with contextlib.ExitStack() as others:
            for _ in range(4):  # the queue of connections that nobody takes is full then
                waiting = others.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(address)
            async with carrier_to(f"http://127.0.0.1:{address[1]}/", clock) as carrier, asyncio.timeout(5):
                result = await carrier.send(MESSAGE)

    assert isinstance(result, TryLater)


async def test_keeps_its_connection(clock):
    ports = set()

    async def handle(request: web.Request) -> web.Response:
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.Response()

    async with gateway_that(handle) as url, carrier_to(url, clock) as carrier:
        for _ in range(5):
            await carrier.send(MESSAGE)

    assert len(ports) == 1


async def test_never_repeats_a_post_by_itself(clock):
    requests = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        if requests > 1:
            request.transport.abort()
        return web.Response()

    async with gateway_that(handle) as url, carrier_to(url, clock) as carrier:
        first, second = [await carrier.send(MESSAGE) for _ in range(2)]

    assert isinstance(first, Taken)
    assert isinstance(second, Unknown)
    assert requests == 2


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, '{"status": "delivered"}', Status.DELIVERED),
        (200, '{"status": "sent"}', Status.SENT),
        (200, '{"status": "undelivered", "error": "unreachable"}', Status.UNDELIVERED),
        (200, '{"status": "thinking"}', None),
        (200, '{"status": ["delivered"]}', None),
        (200, "delivered", None),
        (404, "", None),
        (500, '{"status": "delivered"}', None),
    ],
)
async def test_looks_up_what_became_of_a_message(clock, status, body, expected):
    async with gateway_that(answering(status, body)) as url, carrier_to(url, clock) as carrier:
        receipt: CarrierReceipt | None = await carrier.look_up(MESSAGE)

    assert (receipt and receipt.status) == expected


async def test_can_tell_nothing_when_the_look_up_hangs(clock, monkeypatch):
    monkeypatch.setattr(http, "LOOK_UP_SECONDS", 0.1)

    async def handle(_request: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    async with gateway_that(handle) as url, carrier_to(url, clock) as carrier:
        assert await carrier.look_up(MESSAGE) is None
