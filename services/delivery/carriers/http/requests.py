"""What is sent to a carrier for one message: the values of a definition's templates, and the request made of them.

Documentation: docs/guides/new-carrier.md, "Templates" and "request".
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

from yarl import URL

from servicekit import quick_json
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
from services.delivery.carriers.http.templates import LEFT_OUT, MESSAGE_NAMES, Values, fill, fill_texts


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request, ready to be sent."""

    method: str
    url: URL = field(repr=False)  # some carriers want their secret in it
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


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


def prepare(definition: Definition, request: Request, values: Values) -> Prepared:
    """Return the request for one message."""
    headers, query = fill_texts(request.headers, values), fill_texts(request.query, values)
    _authenticate(request.auth, values, headers, query)
    body = _body(request, values, headers)
    url = request.url.url(values, definition.addresses)
    if query:
        url += ("&" if "?" in url else "?") + urlencode(query, quote_via=quote)
    return Prepared(method=request.method, url=URL(url, encoded=True), headers=headers, body=body)


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


def _body(request: Request, values: Values, headers: dict[str, str]) -> bytes | None:
    if request.form is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        return urlencode(fill_texts(request.form, values)).encode()
    if request.json is None:
        return None
    headers.setdefault("Content-Type", "application/json")
    document = fill(request.json, values)
    return quick_json.encode({} if document is LEFT_OUT else document).encode()
