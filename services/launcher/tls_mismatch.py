"""Finds out whether a service and this shell can not talk since one of them speaks TLS and the other plaintext."""

from __future__ import annotations

import ssl
from contextlib import closing
from typing import Final

from servicekit.settings import ENV_PREFIX, UNIX
from services.launcher import health

TIMEOUT_SECONDS: Final = 1.0
_SETTINGS: Final = f"{ENV_PREFIX}TLS_CERT, {ENV_PREFIX}TLS_KEY and {ENV_PREFIX}TLS_CA"
SPEAKS_TLS: Final = f"speaks TLS, and this shell does not: set {_SETTINGS}"
SPEAKS_PLAINTEXT: Final = f"speaks plaintext, and this shell TLS: unset {_SETTINGS}"


def between(address: str, *, is_secured: bool) -> str:
    """Return what is to be said of whoever listens there; empty when there is no mismatch, or none can be seen.

    `is_secured` says whether this shell has the settings of TLS. At a socket nobody speaks TLS.
    """
    if address.startswith(UNIX):
        return ""
    speaks_tls = _speaks_tls(address)
    if speaks_tls is None or speaks_tls == is_secured:
        return ""
    return SPEAKS_TLS if speaks_tls else SPEAKS_PLAINTEXT


def _speaks_tls(address: str) -> bool | None:
    """Say hello in TLS; None when nobody answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it is to say what it speaks, not who it is
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with closing(health.connect(address, TIMEOUT_SECONDS)) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return error.reason != "WRONG_VERSION_NUMBER"  # which is what the first frame of HTTP/2 looks like
    except OSError:
        return None
