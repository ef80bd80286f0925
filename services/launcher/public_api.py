"""Calls the product's public API through its gateway, as any program would, with the key in TEXTWAY_API_KEY."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from servicekit.errors import ServiceError
from servicekit.settings import load
from services.launcher import gateway_client
from services.launcher.settings import LauncherSettings

TIMEOUT_SECONDS: Final = 10.0


class PublicApiError(ServiceError):
    """The gateway did not do what it was asked; its own words say why."""


def call(path: str, body: Mapping[str, str] | None = None) -> dict[str, Any]:
    """GET a path, or POST a body to it; return the answer's JSON object. Raises PublicApiError."""
    key = os.environ.get("TEXTWAY_API_KEY") or os.environ.get("TEXTWAY_BOOTSTRAP_KEY")
    if not key:
        raise PublicApiError("set TEXTWAY_API_KEY to an API key first; `textway keys create` makes one")
    settings = load(LauncherSettings)
    base = settings.public_url or settings.address
    opener = urllib.request.build_opener(
        # No proxy from the environment: the gateway is on this machine or on one that is named in the settings.
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=gateway_client.context_for(settings)),
    )
    request = urllib.request.Request(
        base.rstrip("/") + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            raise PublicApiError(f"{error.code}: {_message_of(error.read())}") from None
    except (OSError, http.client.HTTPException) as error:  # an answer that breaks off, or is none, has no URLError
        raise PublicApiError(f"{base} can not be reached: {getattr(error, 'reason', error)}") from None


def _message_of(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return "the gateway answered with no reason"
