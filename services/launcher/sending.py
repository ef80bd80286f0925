"""`textway send`: one message through the gateway, as any system would send it."""

from __future__ import annotations

import time
from typing import Final

import click

from services.launcher import public_api

FOLLOW_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.2
NOT_FINAL: Final = frozenset({"queued", "sending", "sent"})
DELIVERED: Final = "delivered"


def send(to: str, text: str) -> bool:
    """Send one message, print its id, and follow it for a few seconds; return False if it has come to nothing then."""
    message = public_api.call("/v1/messages", {"to": to, "text": text})
    click.echo(f"{message['id']}  {message['status']}")
    deadline = time.monotonic() + FOLLOW_SECONDS
    while message["status"] in NOT_FINAL and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        message = public_api.call(f"/v1/messages/{message['id']}")
    reason = f"  {message['error']['message']}" if message.get("error") else ""
    click.echo(f"{message['id']}  {message['status']}{reason}")
    return message["status"] in {*NOT_FINAL, DELIVERED}
