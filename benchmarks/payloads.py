"""What the load generator posts: one order after another, each to another number, signed."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Final

# An order as a shop would post it, of about the size that was used for the yardsticks.
_ORDER: Final[dict[str, object]] = {
    "event": "order.confirmed",
    "invoiceId": "@REF@",
    "customer": {"id": 918273, "name": "Jamie Example", "phone": "@TO@", "email": "jamie@shop.example", "locale": "en"},
    "notification": {"channel": "sms", "body": "Your order @REF@ is on its way."},
    "shipping": {"carrier": "parcel", "tracking": "TRK00912837465", "address": {"city": "Springfield", "zip": "01101"}},
    "items": [
        {"sku": f"SKU-{number:05d}", "title": "A thing that somebody ordered", "quantity": 1, "price": "19.90"}
        for number in range(6)
    ],
    "totals": {"net": "119.40", "tax": "22.69", "gross": "142.09", "currency": "USD"},
    "createdAt": "2026-06-12T14:32:00.120Z",
}
# A short one, for many in one request.
_ITEM: Final[dict[str, object]] = {
    "invoiceId": "@REF@",
    "customer": {"phone": "@TO@"},
    "notification": {"body": "Your order @REF@ is on its way."},
}
PATHS: Final = {"toPath": "customer.phone", "textPath": "notification.body", "refPath": "invoiceId"}
SIGNING_HEADER: Final = "X-Webhook-Signature"
# Numbers of San Francisco from 200-0000 on: eight million that a check of numbers takes for real.
_NUMBERS: Final = 8_000_000
_FIRST: Final = 14_152_000_000


class Payloads:
    """Whole HTTP requests, without end."""

    def __init__(self, *, path: str, secret: str, items: int, first_number: int, port: int) -> None:
        self._secret = secret.encode()
        self._items = items
        self._next = first_number
        self._parts = _template(_ORDER if items == 1 else _ITEM)
        length = len(self._body())
        self._next = first_number
        self._head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
            f"content-length: {length}\r\n"
        ).encode()

    def __iter__(self) -> Payloads:
        return self

    def __next__(self) -> bytes:
        body = self._body()
        if not self._secret:
            return b"%s\r\n%s" % (self._head, body)
        signature = hmac.digest(self._secret, body, hashlib.sha256).hex()
        return b"%s%s: sha256=%s\r\n\r\n%s" % (self._head, SIGNING_HEADER.encode(), signature.encode(), body)

    def _body(self) -> bytes:
        if self._items == 1:
            return self._one()
        return b"[%s]" % b",".join([self._one() for _ in range(self._items)])

    def _one(self) -> bytes:
        number, self._next = self._next, self._next + 1
        values = {"@TO@": b"+%d" % (_FIRST + number % _NUMBERS), "@REF@": b"INV-%09d" % number}
        return b"".join([values[part] if isinstance(part, str) else part for part in self._parts])


def _template(order: dict[str, object]) -> list[bytes | str]:
    """Cut an order at its placeholders, which stay as text; what is between them is bytes."""
    text = json.dumps(order, separators=(",", ":"))
    parts: list[bytes | str] = []
    while text:
        found = [(text.index(name), name) for name in ("@TO@", "@REF@") if name in text]
        if not found:
            return [*parts, text.encode()]
        at, name = min(found)
        parts.extend((text[:at].encode(), name))
        text = text[at + len(name) :]
    return parts
