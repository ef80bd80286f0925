"""Connections of this machine to its own gateway, whose certificate may be signed by nobody that the machine knows."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from services.launcher.settings import LauncherSettings

_END_OF_FIRST: Final = "-----END CERTIFICATE-----"


def connect(settings: LauncherSettings, *, timeout_seconds: float) -> http.client.HTTPConnection:
    """Return a connection to the gateway on this machine; it opens with the first request."""
    address = urlsplit(settings.address).netloc
    if settings.http_tls_cert is None:
        return http.client.HTTPConnection(address, timeout=timeout_seconds)
    return http.client.HTTPSConnection(
        address, timeout=timeout_seconds, context=_believing_only(settings.http_tls_cert)
    )


def context_for(settings: LauncherSettings) -> ssl.SSLContext:
    """Return how the gateway is to be believed under the address that `textway` commands call."""
    if settings.http_tls_cert is None:
        return ssl.create_default_context()
    if not settings.public_url:
        return _believing_only(settings.http_tls_cert)
    context = ssl.create_default_context()
    _believe(context, settings.http_tls_cert)
    return context


def _believing_only(certificate: Path) -> ssl.SSLContext:
    # It is for the public name, and the gateway is called by the machine's address: whoever shows this very
    # certificate has its key, and nobody else is believed, whatever the name.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _believe(context, certificate)
    return context


def _believe(context: ssl.SSLContext, certificate: Path) -> None:
    # Only the first of the file: those that follow are authorities, which sign for others too.
    leaf, end, _ = certificate.read_text().partition(_END_OF_FIRST)
    context.load_verify_locations(cadata=leaf + end)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
