"""HTTP/1.1 byte by byte, for requests that a client library would put right."""

from __future__ import annotations

import http.client
import io
import socket
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer; header names are in lower case."""

    status_code: int
    headers: dict[str, str]
    content: bytes


def request(method: str, path: str | bytes, *, headers: bytes = b"", body: bytes = b"") -> bytes:
    target = path if isinstance(path, bytes) else path.encode()
    length = b"content-length: %d\r\n" % len(body) if body else b""
    return b"%s %s HTTP/1.1\r\nhost: gateway\r\n%s%s\r\n%s" % (method.encode(), target, headers, length, body)


def chunked(path: str, body: bytes, size: int = 8192) -> bytes:
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    encoded = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = b"POST %s HTTP/1.1\r\nhost: gateway\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode()
    return head + encoded + b"0\r\n\r\n"


def send(port: int, data: bytes, *, timeout: float = 10) -> Answer:
    method = data.split(b" ", 1)[0].decode("latin1")
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(data)
        return read(connection, method)


def read(connection: socket.socket, method: str = "GET") -> Answer:
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        content = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status_code=response.status, headers=headers, content=content)
    finally:
        response.close()


def everything(port: int, data: bytes) -> bytes:
    """Return all that is answered until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        return closed_after(connection)


def closed_after(connection: socket.socket) -> bytes:
    """Return what still comes until the other side closes."""
    rest = io.BytesIO()
    while data := connection.recv(65_536):
        rest.write(data)
    return rest.getvalue()
