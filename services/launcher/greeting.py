"""Says when all of a starting product is serving: a process of its own, whose libraries are gone when it has."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable
from typing import Final

from services.launcher import gateway_client, health
from services.launcher.keep import report
from services.launcher.runtime import running_addresses
from services.launcher.settings import LauncherSettings

# What says that all is serving: the product by its own word, then one address of each service that the gateway must
# have found by now, which refuse us for having no key.
_PROBES: Final = ("/health/ready", "/v1/ingress", "/v1/messages")
_POLL_SECONDS: Final = 0.1
_COMPLAIN_AFTER_SECONDS: Final = 15.0


def greet(settings: LauncherSettings, *, announce: Callable[[str], None]) -> None:
    """Wait until all is serving, call `announce` with the public address, and print `ready <address>`.

    Ends without a word when whoever started this has ended.
    """
    parent = os.getppid()
    complain_at = time.monotonic() + _COMPLAIN_AFTER_SECONDS
    while (problem := _not_ready(settings)) is not None:
        if time.monotonic() > complain_at:
            report(f"still not ready: {problem}")
            complain_at += _COMPLAIN_AFTER_SECONDS
        time.sleep(_POLL_SECONDS)
        if os.getppid() != parent:
            return
    announce(settings.shown_address)
    print(f"ready {settings.shown_address}", flush=True)


def _not_ready(settings: LauncherSettings) -> str | None:
    for path in _PROBES:
        status, body = _get(settings, path)
        if status not in (http.client.OK, http.client.UNAUTHORIZED):
            return body
    # The gateway's answers came from any one of these.
    for address in running_addresses(settings.data_dir, "ingress"):
        if (state := health.ask(address)) != health.SERVING:
            return f"ingress at {address} is {state}"
    return None


def _get(settings: LauncherSettings, path: str) -> tuple[int, str]:
    connection = gateway_client.connect(settings, timeout_seconds=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(4096).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return 0, f"the gateway does not answer ({error})"
    finally:
        connection.close()
