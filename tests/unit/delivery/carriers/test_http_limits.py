"""A text that a carrier would cut is not given to it."""

from __future__ import annotations

import pytest

from services.delivery.carriers.base import OutboundMessage, Refused
from services.delivery.carriers.http.carrier import HttpCarrier
from services.delivery.carriers.http.definition import Installation, load_definition
from services.delivery.domain import FailureReason
from tests.conftest import FixedClock

DEFINITION = """\
name: short
title: Short
documentation: https://sms.example.com
capability: blind
limits: {%s}
request: {method: POST, url: "http://127.0.0.1:9", form: {text: "{text}"}}
"""


@pytest.mark.parametrize(
    ("limits", "text", "is_refused"),
    [
        ("segments: 2", "x" * 306, False),
        ("segments: 2", "x" * 307, True),
        ("segments: 2", "✓" * 134, False),
        ("segments: 2", "✓" * 135, True),
        ("text_characters: 300", "x" * 300, False),
        ("text_characters: 300", "x" * 301, True),
    ],
)
async def test_refuses_what_is_too_long_without_a_call(limits, text, is_refused):
    definition = load_definition(DEFINITION % limits)
    carrier = HttpCarrier(definition, Installation(name="main", settings={}), FixedClock())
    message = OutboundMessage(message_id="msg_1", attempt_number=1, to="+6581230000", sender="", text=text)
    await carrier.start(None)

    result = await carrier.send(message)

    await carrier.stop()
    # Nothing listens there: whatever was given to it did not get through.
    assert isinstance(result, Refused) is is_refused
    if isinstance(result, Refused):
        assert result.failure.reason is FailureReason.CARRIER_REJECTED
        assert "at most" in result.detail
