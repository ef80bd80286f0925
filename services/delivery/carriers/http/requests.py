"""What is sent to a carrier for one message: the values of a definition's templates, and the request made of them.

Documentation: docs/guides/new-carrier.md, "Templates" and "request".
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from yarl import URL

from servicekit.sms_text import Encoding, measure
from services.delivery.carriers.base import OutboundMessage
from services.delivery.carriers.http.model import (
    Auth,
    BasicAuth,
    Definition,
    HeaderAuth,
    QueryAuth,
    Request,
    SettingValues,
)
from services.delivery.carriers.http.templates import LEFT_OUT, MESSAGE_NAMES, Member, Values, fill, fill_texts

_TARGET: Final = re.compile(r"/[!-~]*")
_DEFAULTS: Final = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "Textway"}


@dataclass(frozen=True, kw_only=True)
class Head:
    """What comes before a request's body, as far as it is the same for every message."""

    method: str
    url: URL = field(repr=False)  # some carriers want their secret in it
    headers: Mapping[str, str] = field(repr=False)
    moving: Mapping[str, Member] = field(default_factory=dict)  # the headers that each message has of its own

    @cached_property
    def written(self) -> str:
        """Its lines, as HTTP/1.1 has them (RFC 9112). Raises ValueError when they can not be written."""
        target = self.url.raw_path_qs
        if not _TARGET.fullmatch(target):
            raise ValueError("the address has characters that can not be in a request")
        names = {name.lower() for name in (*self.headers, *self.moving)}
        defaults = {"Host": self.url.host_port_subcomponent or "", **_DEFAULTS}
        ours = {name: value for name, value in defaults.items() if name.lower() not in names}
        return f"{self.method} {target} HTTP/1.1\r\n{_lines({**ours, **self.headers})}"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request, ready to be sent."""

    head: Head
    headers: Mapping[str, str] = field(repr=False)  # this message's own
    body: bytes | None = field(repr=False)

    @property
    def written(self) -> bytes:
        """What goes over the wire. Raises ValueError for a head that can not be written."""
        head = self.head.written + _lines(self.headers)
        if self.body is None and self.head.method == "GET":
            return f"{head}\r\n".encode()
        body = self.body or b""
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _lines(headers: Mapping[str, str]) -> str:
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if text.count("\r") != len(headers) or text.count("\n") != len(headers) or "\0" in text:
        raise ValueError("a header has a line break")
    return text


def resolved_settings(definition: Definition, given: SettingValues, *, nth: int = 0) -> dict[str, str]:
    """Return every setting as `settings.<name>`, empty when it is not given and has no default.

    `nth` counts the values of settings that may have several; the last one stands in for those that have fewer.
    """
    values: dict[str, str] = {}
    for name, setting in definition.settings.items():
        several = given.get(name, "")
        texts = (several,) if isinstance(several, str) else tuple(several) or ("",)
        text = texts[min(nth, len(texts) - 1)]
        if not text and setting.default:
            text = setting.default.text(values) or ""
        values[f"settings.{name}"] = text.rstrip("/") if setting.is_url else text
    return values


def message_values(
    message: OutboundMessage, settings: Mapping[str, str], *, status_url: str, inbound_url: str
) -> Values:
    """Return the values of all names that a template or a condition may use."""
    measured = measure(message.text)
    is_number = message.sender.startswith("+") and message.sender[1:].isdecimal()
    return {
        **settings,
        "to": message.to,
        "to_digits": message.to.removeprefix("+"),
        "from": message.sender,
        "from_digits": message.sender[1:] if is_number else message.sender,
        "text": message.text,
        "text_ucs2_hex": message.text.encode("utf-16-be").hex().upper(),
        "message_id": message.message_id,
        "segments": measured.segments,
        "status_url": status_url,
        "inbound_url": inbound_url,
        "ucs2": measured.encoding is Encoding.UCS2,
        "gsm7": measured.encoding is Encoding.GSM7,
        "long": measured.segments > 1,
        "numeric_from": is_number,
    }


def request_host(definition: Definition, settings: Mapping[str, str]) -> str:
    """Return the host that messages are sent to, in small letters."""
    values = {**settings, **dict.fromkeys(MESSAGE_NAMES, "x")}
    return urlsplit(definition.request.url.url(values, definition.addresses)).hostname or ""


def constant_head(definition: Definition, request: Request, settings: Values) -> Head | None:
    """Return what all messages' requests have in common; None when even the address is each message's own."""
    fixed = {name: member for name, member in request.headers.items() if _is_constant(member, settings)}
    moving = {name: member for name, member in request.headers.items() if name not in fixed}
    try:
        return replace(_head(definition, replace(request, headers=fixed), settings), moving=moving)
    except KeyError:  # it names something that only a message has
        return None


def _is_constant(member: Member, settings: Values) -> bool:
    try:
        fill(member, settings)
    except KeyError:
        return False
    return True


def prepare(definition: Definition, request: Request, values: Values, head: Head | None = None) -> Prepared:
    """Return the request for one message, with the head that all have in common, if there is one."""
    head = head or _head(definition, request, values)
    return Prepared(head=head, headers=fill_texts(head.moving, values), body=_body(request, values))


def _head(definition: Definition, request: Request, values: Values) -> Head:
    headers, query = fill_texts(request.headers, values), fill_texts(request.query, values)
    _authenticate(request.auth, values, headers, query)
    if request.form is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    elif request.json is not None:
        headers.setdefault("Content-Type", "application/json")
    url = request.url.url(values, definition.addresses)
    if query:
        url += ("&" if "?" in url else "?") + urlencode(query, quote_via=quote)
    return Head(method=request.method, url=URL(url, encoded=True), headers=headers)


def _authenticate(auth: Auth | None, values: Values, headers: dict[str, str], query: dict[str, str]) -> None:
    match auth:
        case BasicAuth():
            user, password = auth.user.text(values), auth.password.text(values)
            if user is not None and password is not None:
                headers["Authorization"] = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
        case HeaderAuth() | QueryAuth():
            value = auth.value.text(values)
            if value is not None:
                (headers if isinstance(auth, HeaderAuth) else query)[auth.name] = value


def _body(request: Request, values: Values) -> bytes | None:
    if request.form is not None:
        return urlencode(fill_texts(request.form, values)).encode()
    if request.json is None:
        return None
    document = fill(request.json, values)
    return json.dumps({} if document is LEFT_OUT else document).encode()
