"""Fixtures of a definition: what its carrier is sent and answers, and how it calls back, read from YAML.

Documentation: docs/guides/new-carrier.md, "Fixtures".
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from servicekit.errors import Issue
from services.delivery.carriers.base import Callback, CallbackKind, OutboundMessage
from services.delivery.carriers.http.model import SettingValues
from services.delivery.carriers.http.read_places import OUTCOMES, REASONS
from services.delivery.carriers.yaml_document import Document, YamlError, read_yaml_file
from services.delivery.carriers.yaml_section import Section

FOLDER_NAME: Final = "fixtures"


@dataclass(frozen=True, kw_only=True)
class ExpectedRequest:
    """What the carrier must see; None for what is not looked at."""

    method: str
    url: str
    headers: Mapping[str, str]
    query: Mapping[str, str] | None
    form: Mapping[str, str] | None
    json: object


@dataclass(frozen=True, kw_only=True)
class PlayedAnswer:
    """What the carrier answers."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class CallCase:
    """A send or a look-up, and what becomes of it: the words of the fixture's `result`."""

    name: str
    message: OutboundMessage
    request: ExpectedRequest
    answer: PlayedAnswer
    result: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class CallbackCase:
    """A callback, and what is read from it: receipts or replies, or why it is refused."""

    name: str
    callback: Callback
    told: tuple[Mapping[str, str], ...]
    refused: str  # `unauthenticated` or `unreadable`; empty when it is read
    answer: Mapping[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Fixtures:
    """Everything that is known of how a carrier behaves."""

    settings: SettingValues = field(repr=False)
    public_url: str
    now: datetime
    message: OutboundMessage
    send: tuple[CallCase, ...]
    look_up: tuple[CallCase, ...]
    status: tuple[CallbackCase, ...]
    inbound: tuple[CallbackCase, ...]


def fixtures_path(definition: Path) -> Path:
    """Return where the fixtures of a definition lie."""
    return definition.parent / FOLDER_NAME / definition.name


def load_fixtures(path: Path, carrier: str) -> Fixtures:
    """Return the fixtures in a file; `carrier` is the name in its addresses. Raises YamlError."""
    document = read_yaml_file(path)
    issues: list[Issue] = []
    top = Section(document, document.value, (), issues)
    public_url = top.text("public_url", required=True)
    now = _moment(top)
    message = _message(top, None)
    fixtures = Fixtures(
        settings=_settings(top, document),
        public_url=public_url,
        now=now,
        message=message,
        send=tuple(_call_case(name, section, message) for name, section in top.sections("send")),
        look_up=tuple(_call_case(name, section, message) for name, section in top.sections("look_up")),
        status=_callback_cases(top, CallbackKind.STATUS, f"{public_url}/v1/carriers/{carrier}/status", now),
        inbound=_callback_cases(top, CallbackKind.INBOUND, f"{public_url}/v1/carriers/{carrier}/inbound", now),
    )
    top.close()
    if issues:
        raise YamlError(issues)
    return fixtures


def _settings(top: Section, document: Document) -> SettingValues:
    section = top.section("settings")
    values: dict[str, str | tuple[str, ...]] = {}
    for name in section.names() if section else ():
        given = section.get(name) if section else None
        texts = section.texts(name) if section else ()
        values[name] = texts if isinstance(given, list) else document.written(("settings", name))
    return values


def _moment(top: Section) -> datetime:
    text = top.text("now", required=True)
    moment: datetime | None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        top.refuse("must be a time with its zone, such as 2026-06-12T14:32:00Z", "now")
        return datetime(1970, 1, 1, tzinfo=UTC)
    return moment


def _message(section: Section, base: OutboundMessage | None) -> OutboundMessage:
    inner = section.section("message", required=base is None)
    given = {key: inner.text(key) for key in ("id", "to", "from", "text") if key in inner} if inner else {}
    if inner:
        for key in ("id", "to", "from", "text"):
            inner.get(key, required=base is None)
        inner.close()
    return OutboundMessage(
        message_id=given.get("id", base.message_id if base else ""),
        attempt_number=1,
        to=given.get("to", base.to if base else ""),
        sender=given.get("from", base.sender if base else ""),
        text=given.get("text", base.text if base else ""),
    )


def _call_case(name: str, section: Section, message: OutboundMessage) -> CallCase:
    case = CallCase(
        name=name,
        message=_message(section, message),
        request=_request(section),
        answer=_played(section),
        result=_result(section),
    )
    section.close()
    return case


def _request(section: Section) -> ExpectedRequest:
    inner = section.section("request")
    if inner is None:
        return ExpectedRequest(method="", url="", headers={}, query=None, form=None, json=None)
    request = ExpectedRequest(
        method=inner.text("method"),
        url=inner.text("url"),
        headers=_texts(inner, "headers") or {},
        query=_texts(inner, "query"),
        form=_texts(inner, "form"),
        json=inner.get("json"),
    )
    inner.close()
    return request


def _texts(section: Section, key: str) -> dict[str, str] | None:
    inner = section.section(key)
    return {name: inner.text(name) for name in inner.names()} if inner else None


def _played(section: Section) -> PlayedAnswer:
    inner = section.section("answer", required=True)
    if inner is None:
        return PlayedAnswer()
    status = inner.whole("status", least=100, most=599) or 200
    headers, document, text = _texts(inner, "headers") or {}, inner.get("json"), inner.text("body")
    inner.close()
    return PlayedAnswer(
        status=status, headers=headers, body=text.encode() if document is None else json.dumps(document).encode()
    )


def _result(section: Section) -> Mapping[str, object]:
    value = section.get("result", required=True)
    if isinstance(value, str):
        if value not in {"unknown", "nothing"}:
            section.refuse("must be `unknown`, `nothing` or a mapping", "result")
        return {value: True}
    inner = section.section("result")
    if inner is None:
        return {}
    result: dict[str, object] = {key: inner.text(key) for key in ("taken", "code", "status", "reason") if key in inner}
    result.update({key: inner.text(key) for key in OUTCOMES if key in inner})
    for key in OUTCOMES:
        inner.choice(key, REASONS, None)
    result["parts"] = inner.texts("parts")
    result["after_seconds"] = inner.number("after_seconds", least=0, most=86_400)
    for key in ("taken", "code", "status", "reason"):
        inner.get(key)
    inner.close()
    return result


def _callback_cases(top: Section, kind: CallbackKind, url: str, now: datetime) -> tuple[CallbackCase, ...]:
    empty = Callback(kind=kind, method="POST", url=url, query="", headers={}, body=b"", received_at=now)
    return tuple(_callback_case(name, section, empty) for name, section in top.sections(kind.value))


def _callback_case(name: str, section: Section, empty: Callback) -> CallbackCase:
    key = "receipts" if empty.kind is CallbackKind.STATUS else "replies"
    refusals = {each: each for each in ("unauthenticated", "unreadable")}
    inner = section.section("callback", required=True)
    case = CallbackCase(
        name=name,
        callback=_callback(inner, empty) if inner else empty,
        told=_told(section, key),
        refused=section.choice("refused", refusals, ""),
        answer=_texts(section, "answer"),
    )
    if not case.refused and section.get(key) is None:
        section.refuse(f"is required, or `refused`; `{key}: []` when nothing is read from it", key)
    section.close()
    return case


def _told(section: Section, key: str) -> tuple[Mapping[str, str], ...]:
    value = section.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        section.refuse("must be a list", key)
        return ()
    items = (
        Section(section.document, each, (*section.path, key, index), section.issues) for index, each in enumerate(value)
    )
    return tuple({name: item.text(name) for name in item.names()} for item in items)


def _callback(section: Section, empty: Callback) -> Callback:
    query = section.text("query")
    headers = {name.lower(): value for name, value in (_texts(section, "headers") or {}).items()}
    form, document, text = _texts(section, "form"), section.get("json"), section.text("body")
    body = text.encode()
    if form is not None:
        headers.setdefault("content-type", "application/x-www-form-urlencoded")
        body = urlencode(form).encode()
    elif document is not None:
        headers.setdefault("content-type", "application/json")
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    callback = dataclasses.replace(
        empty,
        method=section.text("method") or "POST",
        url=f"{empty.url}?{query}" if query else empty.url,
        query=query,
        headers=headers,
        body=body,
    )
    section.close()
    return callback
