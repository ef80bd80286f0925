"""`textway send`: one message through the gateway, as any system would send it."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any, Final

import click

from servicekit.errors import ServiceError
from servicekit.settings import load
from services.launcher.settings import LauncherSettings

TIMEOUT_SECONDS: Final = 10.0
FOLLOW_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.2
NOT_FINAL: Final = frozenset({"queued", "sending", "sent"})

# No proxy from the environment: the gateway is on this machine or on one that is named in the settings.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class SendingError(ServiceError):
    """The gateway did not take the message; its own words say why."""


def send(to: str, text: str) -> None:
    """Send one message, print its id, and follow it for a few seconds."""
    settings = load(LauncherSettings)
    base = settings.public_url or settings.address
    message = _request(base, "/v1/messages", {"to": to, "text": text})
    click.echo(f"{message['id']}  {message['status']}")
    deadline = time.monotonic() + FOLLOW_SECONDS
    while message["status"] in NOT_FINAL and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        message = _request(base, f"/v1/messages/{message['id']}")
    reason = f"  {message['error']['message']}" if message.get("error") else ""
    click.echo(f"{message['id']}  {message['status']}{reason}")


def _request(base: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
    key = os.environ.get("TEXTWAY_API_KEY") or os.environ.get("TEXTWAY_BOOTSTRAP_KEY")
    if not key:
        raise SendingError("set TEXTWAY_API_KEY to an API key first; `textway keys create` makes one")
    request = urllib.request.Request(
        base.rstrip("/") + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            raise SendingError(f"{error.code}: {_message_of(error.read())}") from None
    except (urllib.error.URLError, TimeoutError) as error:
        raise SendingError(f"{base} can not be reached: {getattr(error, 'reason', error)}") from None


def _message_of(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return "the gateway answered with no reason"
