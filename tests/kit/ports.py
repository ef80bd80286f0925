"""Ports that a test may listen on in a moment, and that nobody takes before it does.

The kernel gives its free ports to whoever calls out, too, so that one which was free a moment ago may be somebody's end
of a connection by now. These lie below the range that it gives away.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

_LEAST: Final = 15_000
_RANGE_GIVEN_AWAY: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUALLY_GIVEN_AWAY_FROM: Final = 32_768
_TRIES: Final = 200

_given: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, and that this process was not given before."""
    among = range(_LEAST, max(_given_away_from(), _LEAST + 1_000))
    for _ in range(_TRIES):
        port = random.SystemRandom().choice(among)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise AssertionError(f"no port from {among.start} to {among.stop} is free")


def free_address() -> str:
    """Return `host:port` of such a port."""
    return f"127.0.0.1:{free_port()}"


def _given_away_from() -> int:
    try:
        return int(_RANGE_GIVEN_AWAY.read_text().split()[0])
    except OSError:
        return _USUALLY_GIVEN_AWAY_FROM


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
