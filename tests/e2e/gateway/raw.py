"""HTTP byte by byte, for requests that a client library would put right."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
from dataclasses import dataclass
from typing import Self


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


class Http2Posts:
    """One HTTP/2 connection with POSTs whose bodies go on as the other side lets them, and then never end."""

    _DATA, _HEADERS, _RST_STREAM, _SETTINGS, _WINDOW_UPDATE = 0, 1, 3, 4, 8
    _ACK, _END_HEADERS = 1, 4
    _FRAME_BYTES, _WINDOW_BYTES = 16_384, 65_535

    def __init__(self, port: int, path: str, *, streams: int, body_bytes: int) -> None:
        """Begin so many of them, of each of which so many bytes are sent at most."""
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=0.1)
        self._connection_window = self._WINDOW_BYTES
        self._windows = dict.fromkeys(range(1, 2 * streams, 2), self._WINDOW_BYTES)
        self._unsent = dict.fromkeys(self._windows, body_bytes)
        self._unread = b""
        self.reset = 0  # how many have been ended by the other side
        self._connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self._frame(self._SETTINGS, 0, 0, b""))
        # Each name and value as it is, with its length before it: HPACK without its tables.
        fields = {":method": "POST", ":scheme": "http", ":authority": "gateway", ":path": path}
        block = b"".join(
            b"\0%c%s%c%s" % (len(name), name.encode(), len(value), value.encode()) for name, value in fields.items()
        )
        for stream in self._windows:
            self._connection.sendall(self._frame(self._HEADERS, self._END_HEADERS, stream, block))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send_what_there_is_room_for(self) -> None:
        """Send data on each, and read what has come."""
        for stream, window in list(self._windows.items()):
            size = min(window, self._connection_window, self._unsent[stream], self._FRAME_BYTES)
            if size:
                self._connection.sendall(self._frame(self._DATA, 0, stream, b"x" * size))
                self._windows[stream] -= size
                self._unsent[stream] -= size
                self._connection_window -= size
        with contextlib.suppress(TimeoutError):
            self._unread += self._connection.recv(1 << 20)
        while len(self._unread) >= 9 and len(self._unread) >= 9 + int.from_bytes(self._unread[:3]):
            end = 9 + int.from_bytes(self._unread[:3])
            self._hear(self._unread[3], int.from_bytes(self._unread[5:9]), self._unread[9:end])
            self._unread = self._unread[end:]

    def _hear(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == self._WINDOW_UPDATE and stream == 0:
            self._connection_window += int.from_bytes(payload)
        elif kind == self._WINDOW_UPDATE and stream in self._windows:
            self._windows[stream] += int.from_bytes(payload)
        elif kind == self._RST_STREAM and self._windows.pop(stream, None) is not None:
            self.reset += 1

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return b"%b%c%c%b%b" % (len(payload).to_bytes(3), kind, flags, stream.to_bytes(4), payload)
