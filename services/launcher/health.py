"""Asks the services on this machine for their gRPC health, cheaply enough for every few seconds in each container.

`textway healthy` is the same for people. To load a gRPC client takes ten times the work of the whole question when it
is written out, as it is here: five frames of HTTP/2.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Final

TIMEOUT_SECONDS: Final = 3.0
UNIX: Final = "unix:"  # as the settings have it, whose library takes longer to load than all of this
# What each service's settings say; a test holds the two equal.
LISTENS: Final[Mapping[str, str]] = {
    "integrations": "127.0.0.1:7101",
    "ingress": "127.0.0.1:7102",
    "delivery": "127.0.0.1:7103",
}
SERVING: Final = "serving"
NOT_SERVING: Final = "not serving"
NOT_ANSWERING: Final = "not answering"
NOT_THERE: Final = "not there"

# What listens on every interface is asked on this one.
_LOOPBACK_OF: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # compared, and not listened on

# HTTP/2, RFC 9113 and RFC 7541: frames have a length of three bytes, a type, flags and the number of their stream.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _GOAWAY = 0, 1, 4, 7
_END_STREAM, _END_HEADERS = 1, 4
_HEADER_BYTES: Final = 9
_REQUEST_HEADERS: Final = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/grpc.health.v1.Health/Check",
    ":authority": "localhost",
    "content-type": "application/grpc",
    "te": "trailers",
}
# A gRPC message is one byte for compression and four for its length before it; the request is empty, and asks for all.
_REQUEST: Final = b"\0\0\0\0\0"
# HealthCheckResponse with the status SERVING.
_SERVING_ANSWER: Final = b"\0\0\0\0\2\x08\x01"


def check(names: Sequence[str]) -> int:
    """Return 0 when each of the named services says that it is serving; with no name, each that listens here."""
    states = {name: ask(os.environ.get(f"TEXTWAY_{name.upper()}_LISTEN") or LISTENS[name]) for name in names or LISTENS}
    if not names:
        states = {name: state for name, state in states.items() if state != NOT_THERE}
    for name, state in states.items():
        sys.stdout.write(f"{name} is {state}\n")
    if not states:
        sys.stdout.write("no service listens here; `textway status` tells of those that `textway up` runs\n")
    return 0 if set(states.values()) == {SERVING} else 1


def ask(listen: str) -> str:
    """Return how the process is that listens at `host:port`, or at `unix:` and the path of a socket."""
    try:
        plain = connect(listen, TIMEOUT_SECONDS)
    except OSError:
        return NOT_THERE
    try:
        with closing(plain if listen.startswith(UNIX) else _secured(plain)) as connection:
            connection.sendall(_question())
            answer = b"".join(_answer(connection))
    except OSError:
        return NOT_ANSWERING
    if not answer:
        return NOT_ANSWERING
    return SERVING if answer == _SERVING_ANSWER else NOT_SERVING


def connect(listen: str, timeout_seconds: float) -> socket.socket:
    """Connect to whoever listens there on this machine. Raises OSError when nobody does."""
    if listen.startswith(UNIX):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_seconds)
        try:
            connection.connect(listen.removeprefix(UNIX))
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    return socket.create_connection((_LOOPBACK_OF.get(host, host), int(port)), timeout=timeout_seconds)


def _secured(connection: socket.socket) -> socket.socket:
    certificate, key, authority = (os.environ.get(f"TEXTWAY_TLS_{name}") for name in ("CERT", "KEY", "CA"))
    if not (certificate and key and authority):
        return connection
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    context.check_hostname = False  # it is called by the machine's own address, which need not be in its certificate
    return context.wrap_socket(connection)


def _question() -> bytes:
    # Each header is a literal that is not to be remembered, so that no table has to be kept.
    headers = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in _REQUEST_HEADERS.items()
    )
    return b"".join(
        [
            _PREFACE,
            _frame(_SETTINGS, 0, 0, b""),
            _frame(_HEADERS, _END_HEADERS, 1, headers),
            _frame(_DATA, _END_STREAM, 1, _REQUEST),
        ]
    )


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def _answer(connection: socket.socket) -> Iterator[bytes]:
    """Yield what the frames of data carry, up to the end of the answer."""
    while header := _exactly(connection, _HEADER_BYTES):
        kind, flags, _stream = struct.unpack(">BBI", header[3:])
        content = _exactly(connection, int.from_bytes(header[:3], "big"))
        if kind == _DATA:
            yield content
        if kind == _GOAWAY or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            return


def _exactly(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        more = connection.recv(size - len(content))
        if not more:
            return b""
        content += more
    return content


if __name__ == "__main__":
    sys.exit(check(sys.argv[1:]))
