"""Plays a definition's fixtures: a small server stands in for the carrier, and its callbacks are read and forged.

Documentation: docs/guides/new-carrier.md, "Fixtures". `textway carriers test` runs this, as do the tests of what is
shipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from servicekit.clock import SystemClock
from servicekit.sms_text import Encoding, measure
from services.delivery.carriers.base import (
    Callback,
    CallbackUnauthenticatedError,
    CallbackUnreadableError,
    CarrierEvents,
    CarrierReceipt,
    CarrierReply,
    ReadCallback,
    Refused,
    SendResult,
    Taken,
    TryLater,
    Unknown,
)
from services.delivery.carriers.http.carrier import HttpCarrier
from services.delivery.carriers.http.definition import Definition, Installation
from services.delivery.carriers.http.fixtures import (
    CallbackCase,
    CallCase,
    ExpectedRequest,
    Fixtures,
    PlayedAnswer,
    fixtures_path,
    load_fixtures,
)
from services.delivery.carriers.http.model import CallbackForm

__all__ = ["Tried", "fixtures_path", "load_fixtures", "try_definition"]

SEND_CASES: Final = ("taken", "refused", "throttled", "outage", "unicode", "long_text")
STATUS_CASES: Final = ("delivered", "undelivered")
INBOUND_CASES: Final = ("reply",)
LOOK_UP_CASES: Final = ("delivered",)
# Longer than any scheme's tolerance.
LATE: Final = timedelta(days=2)

_NOWHERE: Final = "http://127.0.0.1:9"  # the discard service's port, on which nobody listens


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One case: what it tried, and what was wrong; an empty problem when all is as it should be."""

    section: str  # `send`, `look_up`, `status` or `inbound`
    name: str
    problem: str = ""


@dataclass
class _Seen:
    """The last request, and the answer to it; None breaks the connection off."""

    answer: PlayedAnswer | None = None
    request: web.BaseRequest | None = None
    body: bytes = b""
    cuts_answer: bool = False


class _Clock(SystemClock):
    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


class _NoEvents:
    async def receipt(self, carrier: str, receipt: CarrierReceipt) -> None:
        """Drop it: receipts come by `read` here."""

    async def reply(self, carrier: str, reply: CarrierReply) -> None:
        """Drop it: replies come by `read` here."""


async def try_definition(definition: Definition, fixtures: Fixtures) -> list[Tried]:
    """Return what came of every case, the engine's own among them. Nothing leaves this machine."""
    seen = _Seen()
    async with _serving(seen) as origin, _carrier(definition, fixtures, origin) as carrier:
        tried = [
            *_missing(definition, fixtures),
            *[await _try_send(carrier, case, seen) for case in fixtures.send],
            *[await _try_look_up(carrier, case, seen) for case in fixtures.look_up],
            *[await _try_lost(carrier, fixtures, seen, cuts_answer=cut) for cut in (False, True)],
            *_callbacks(carrier, "status", definition.status_callback, fixtures.status),
            *_callbacks(carrier, "inbound", definition.inbound_callback, fixtures.inbound),
        ]
    async with _carrier(definition, fixtures, _NOWHERE) as unreachable:
        result = await unreachable.send(fixtures.message)
    problem = "" if isinstance(result, TryLater) else f"is {_shown(result)}, not try_later"
    return [*tried, Tried(section="send", name="nobody listens", problem=problem)]


def _missing(definition: Definition, fixtures: Fixtures) -> Iterator[Tried]:
    there = {
        "send": [case.name for case in fixtures.send],
        "look_up": [case.name for case in fixtures.look_up],
        "status": [case.name for case in fixtures.status],
        "inbound": [case.name for case in fixtures.inbound],
    }
    wanted = {
        "send": SEND_CASES,
        "look_up": LOOK_UP_CASES if definition.look_up else (),
        "status": STATUS_CASES if definition.status_callback else (),
        "inbound": INBOUND_CASES if definition.inbound_callback else (),
    }
    for section, names in wanted.items():
        for name in names:
            if name not in there[section]:
                yield Tried(section=section, name=name, problem="is missing")


@contextlib.asynccontextmanager
async def _carrier(definition: Definition, fixtures: Fixtures, origin: str) -> AsyncIterator[HttpCarrier]:
    installation = Installation(
        name=definition.name,
        sender=fixtures.message.sender,
        settings=fixtures.settings,
        public_url=fixtures.public_url,
    )
    carrier = HttpCarrier(definition, installation, _Clock(fixtures.now), origin=origin)
    events: CarrierEvents = _NoEvents()
    await carrier.start(events)
    try:
        yield carrier
    finally:
        await carrier.stop()


@contextlib.asynccontextmanager
async def _serving(seen: _Seen) -> AsyncIterator[str]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.request, seen.body = request, await request.read()
        if seen.answer is None:
            return await _break_off(request, cuts_answer=seen.cuts_answer)
        return web.Response(status=seen.answer.status, headers=seen.answer.headers, body=seen.answer.body)

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _break_off(request: web.BaseRequest, *, cuts_answer: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    if cuts_answer:
        await response.prepare(request)
        await response.write(b"{")
    if request.transport:
        request.transport.abort()
    return response


async def _try_send(carrier: HttpCarrier, case: CallCase, seen: _Seen) -> Tried:
    seen.answer, seen.request = case.answer, None
    result = await carrier.send(case.message)
    problems = [*_form_problems(case), *_request_problems(case.request, seen), *_result_problems(case.result, result)]
    return Tried(section="send", name=case.name, problem="; ".join(problems))


def _form_problems(case: CallCase) -> Iterator[str]:
    measured = measure(case.message.text)
    if case.name == "unicode" and measured.encoding is not Encoding.UCS2:
        yield "message.text fits into GSM-7: take one that does not"
    if case.name == "long_text" and measured.segments == 1:
        yield "message.text fits into one SMS: take a longer one"


def _request_problems(expected: ExpectedRequest, seen: _Seen) -> Iterator[str]:
    request = seen.request
    if request is None:
        if expected.method or expected.url:
            yield "no request was made"
        return
    if expected.method and request.method != expected.method:
        yield f"request.method is {request.method}, not {expected.method}"
    wanted = urlsplit(expected.url)
    if expected.url and f"{request.host}{request.raw_path.partition('?')[0]}" != f"{wanted.netloc}{wanted.path}":
        yield f"request.url is {request.host}{request.raw_path}, not {expected.url}"
    query = expected.query if expected.query is not None else (dict(parse_qsl(wanted.query)) if wanted.query else None)
    yield from _difference("request.query", query, dict(request.query.items()))
    for name, value in expected.headers.items():
        yield from _difference(f"request.headers.{name}", value, request.headers.get(name))
    if expected.form is not None:
        members = parse_qsl(seen.body.decode("utf-8", "replace"), keep_blank_values=True)
        yield from _difference("request.form", expected.form, dict(members))
    if expected.json is not None:
        yield from _difference("request.json", expected.json, _json(seen.body))


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def _difference(what: str, wanted: object, found: object) -> Iterator[str]:
    if wanted is not None and wanted != found:
        yield f"{what} is {found!r}, not {wanted!r}"


def _result_problems(wanted: Mapping[str, object], result: SendResult) -> Iterator[str]:
    match result:
        case Taken():
            found: dict[str, object] = {"taken": result.carrier_message_id, "parts": result.part_ids}
        case Refused():
            found = {"refused": result.failure.reason.code, "code": result.failure.carrier_code}
        case TryLater():
            found = {"try_later": result.failure.reason.code, "code": result.failure.carrier_code}
            found["after_seconds"] = result.after_seconds
        case Unknown():
            found = {"unknown": True}
    kinds = {"taken", "refused", "try_later", "unknown"}
    if kinds & wanted.keys() != kinds & found.keys():
        yield f"result is {_shown(result)}"
        return
    for key in found.keys() | {key for key, value in wanted.items() if value}:
        # The code need not be said; parts and waiting times that there are must be.
        if key in wanted or key != "code":
            default: object = () if key == "parts" else None
            yield from _difference(f"result.{key}", wanted.get(key, default) or default or None, found.get(key) or None)


def _shown(result: SendResult) -> str:
    failure = (
        f" {result.failure.reason.code} {result.failure.carrier_code}" if isinstance(result, Refused | TryLater) else ""
    )
    return f"{type(result).__name__}{failure} ({result.detail})"


async def _try_look_up(carrier: HttpCarrier, case: CallCase, seen: _Seen) -> Tried:
    seen.answer, seen.request = case.answer, None
    receipt = await carrier.look_up(case.message)
    problems = list(_request_problems(case.request, seen))
    wanted = (
        {}
        if "nothing" in case.result
        else {key: case.result[key] for key in ("status", "reason", "code") if key in case.result}
    )
    found = _receipt_words(receipt) if receipt else {}
    compared = {key: found.get(key, "") for key in ("status", "reason", "code") if key in wanted or found.get(key)}
    problems += _difference("result", wanted, compared)
    return Tried(section="look_up", name=case.name, problem="; ".join(problems))


async def _try_lost(carrier: HttpCarrier, fixtures: Fixtures, seen: _Seen, *, cuts_answer: bool) -> Tried:
    seen.answer, seen.cuts_answer = None, cuts_answer
    result = await carrier.send(fixtures.message)
    problem = "" if isinstance(result, Unknown) else f"is {_shown(result)}, not unknown"
    return Tried(section="send", name="the answer is cut off" if cuts_answer else "the answer is lost", problem=problem)


# --- callbacks ---

_Wrong = Callable[[Callback], Callback]


def _callbacks(
    carrier: HttpCarrier, section: str, callback: object, cases: tuple[CallbackCase, ...]
) -> Iterator[Tried]:
    form: CallbackForm | None = getattr(callback, "form", None)
    if form is None:
        return
    first = {case.name: _read(carrier, case.callback) for case in cases}
    for case in cases:
        yield Tried(section=section, name=case.name, problem="; ".join(_callback_problems(case, first[case.name])))
    again = {case.name: _read(carrier, case.callback) for case in reversed(cases)}
    changed = [name for name, told in first.items() if again[name] != told]
    yield Tried(
        section=section,
        name="told again, in the other order",
        problem=f"says something else: {', '.join(changed)}" if changed else "",
    )
    for case in cases:
        for name, forge in _forgeries(form, case.callback) if not case.refused else ():
            told = _read(carrier, forge(case.callback))
            problem = "" if told == "unauthenticated" else "is believed"
            yield Tried(section=section, name=f"{case.name}, {name}", problem=problem)


def _read(carrier: HttpCarrier, callback: Callback) -> ReadCallback | str:
    try:
        return carrier.read(callback)
    except CallbackUnauthenticatedError:
        return "unauthenticated"
    except CallbackUnreadableError as error:
        return f"unreadable: {error}"


def _forgeries(form: CallbackForm, callback: Callback) -> Iterator[tuple[str, _Wrong]]:
    yield "without its headers and its query", lambda each: _with_query(dataclasses.replace(each, headers={}), "")
    scheme, signed = form.verify.scheme, form.verify.words.get("signed", "{body}")
    by_template = scheme in {"hmac", "ed25519"}
    if (
        scheme in {"twilio", "jwt_hs256"} or (by_template and ("{body" in signed or "{sorted_form" in signed))
    ) and callback.body:
        yield "with another body", lambda each: dataclasses.replace(each, body=each.body + b"0")
    if scheme == "twilio" or "url_hash" in form.verify.texts or (by_template and "{url}" in signed):
        yield "with another query", lambda each: _with_query(each, f"{each.query}&message=msg_0")
    if scheme == "message_key":
        yield "for another message", lambda each: _with_query(each, each.query.replace("message=", "message=0"))
    if scheme in {"jwt_hs256", "ed25519"} or "timestamp_header" in form.verify.texts:
        yield "two days late", lambda each: dataclasses.replace(each, received_at=each.received_at + LATE)


def _with_query(callback: Callback, query: str) -> Callback:
    base = callback.url.partition("?")[0]
    return dataclasses.replace(callback, query=query, url=f"{base}?{query}" if query else base)


def _callback_problems(case: CallbackCase, told: ReadCallback | str) -> Iterator[str]:
    if isinstance(told, str) or case.refused:
        found = told if isinstance(told, str) else "read"
        if not case.refused or not found.startswith(case.refused):
            yield f"is {found}, not {case.refused or 'read'}"
        return
    found_words = [_receipt_words(each) for each in told.receipts] + [_reply_words(each) for each in told.replies]
    yield from _difference("told", [dict(each) for each in case.told], found_words)
    if case.answer is not None:
        answer = {
            "status": str(told.answer.status),
            "content_type": told.answer.content_type,
            "body": told.answer.body.decode(),
        }
        yield from _difference("answer", dict(case.answer), {key: answer.get(key) for key in case.answer})


def _receipt_words(receipt: CarrierReceipt) -> dict[str, str]:
    failure = receipt.failure
    words = {
        "status": receipt.status.value,
        "reason": failure.reason.code if failure else "",
        "code": failure.carrier_code if failure else "",
        "message_id": receipt.message_id,
        "carrier_message_id": receipt.carrier_message_id,
    }
    return {key: word for key, word in words.items() if word}


def _reply_words(reply: CarrierReply) -> dict[str, str]:
    words = {"id": reply.carrier_reply_id, "from": reply.sender, "to": reply.recipient, "text": reply.text}
    return {key: word for key, word in words.items() if word}
