"""New messages as a test makes them: all that it does not care about is the same everywhere."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from servicekit import ids
from servicekit.sms_text import Encoding
from services.delivery.domain import NewMessage
from tests.kit.claims import ROUTE


def new_message(at: datetime, **changes: Any) -> NewMessage:
    """Return a message of shard 0 that is taken in at a time, with what the test wants otherwise."""
    given: dict[str, Any] = {
        "id": ids.new_id("msg", changes.get("created_at", at), lambda bits: ids.secrets.randbits(bits) >> 5 << 5),
        "tenant_id": "ten_a",
        "integration_id": "wkh_1",
        "to": "+6581230000",
        "text": "Order confirmed",
        "ref": "",
        "callback": "",
        "segments": 1,
        "encoding": Encoding.GSM7,
        "created_at": at,
        "updated_at": at,
        "valid_until": at + timedelta(hours=4),
        "route": ROUTE,
    }
    return NewMessage(**(given | changes))
