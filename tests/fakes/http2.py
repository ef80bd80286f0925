"""Bare HTTP/2: a server that hangs up on a call, and clients that ping, send any bytes in a header, or never end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACKNOWLEDGED, END_STREAM, END_HEADERS = 1, 1, 4
FRAME_BYTES, WINDOW_BYTES = 16_384, 65_535  # what everybody may send at first


class BareServer:
    """Answers settings and pings; a call ends the connection."""

    def __init__(self, *, disowns: bool) -> None:
        # Whether it says, before it hangs up, that it has begun no call.
        self._disowns = disowns
        self.calls = 0
        self.address = ""
        self._open: set[asyncio.StreamWriter] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self._open.discard(writer)

    async def hang_up(self) -> None:
        """End what is open: a client connects again after each end."""
        while self._open:
            for writer in self._open:
                writer.transport.abort()
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(len(PREFACE))
            writer.write(_frame(SETTINGS))
            while True:
                header = await reader.readexactly(HEADER_BYTES)
                kind, flags = header[3], header[4]
                body = await reader.readexactly(int.from_bytes(header[:3], "big"))
                if kind == SETTINGS and not flags & ACKNOWLEDGED:
                    writer.write(_frame(SETTINGS, flags=ACKNOWLEDGED))
                if kind == PING and not flags & ACKNOWLEDGED:
                    writer.write(_frame(PING, body, flags=ACKNOWLEDGED))
                if kind == DATA and flags & END_STREAM:
                    self.calls += 1
                    if self._disowns:
                        writer.write(_frame(GOAWAY, struct.pack(">II", 0, 0)))
                        await writer.drain()
                    return


@contextlib.asynccontextmanager
async def bare_server(*, disowns: bool) -> AsyncIterator[BareServer]:
    bare = BareServer(disowns=disowns)
    server = await asyncio.start_server(bare.handle, "127.0.0.1", 0)
    bare.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield bare
    await bare.hang_up()


async def answers_to_pings(address: str, count: int) -> list[int]:
    """Ping a server without making a call, again after each answer; return the kinds of the answers' frames."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    kinds: list[int] = []
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
        writer.write(PREFACE + _frame(SETTINGS) + _frame(SETTINGS, flags=ACKNOWLEDGED))
        writer.write(_frame(PING, bytes(8)))
        while len(kinds) < count:
            header = await reader.readexactly(HEADER_BYTES)
            await reader.readexactly(int.from_bytes(header[:3], "big"))
            if header[3] == GOAWAY or (header[3] == PING and header[4] & ACKNOWLEDGED):
                kinds.append(header[3])
                writer.write(_frame(PING, bytes(8)))
    return kinds


async def call_with_header(address: str, rpc: str, name: bytes, value: bytes) -> None:
    """Call an RPC with an empty request and one header more, and return when it has been answered."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": rpc.encode(),
        b":authority": b"test",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
        name: value,
    }
    with contextlib.closing(writer):
        writer.write(PREFACE + _frame(SETTINGS) + _frame(HEADERS, _header_block(headers), flags=END_HEADERS, stream=1))
        writer.write(_frame(DATA, bytes(5), flags=END_STREAM, stream=1))
        while True:
            header = await reader.readexactly(HEADER_BYTES)
            await reader.readexactly(int.from_bytes(header[:3], "big"))
            if header[3] == HEADERS and header[4] & END_STREAM:
                return


class Http2Posts:
    """One HTTP/2 connection with POSTs whose bodies go on as the other side lets them, and then never end."""

    def __init__(self, port: int, path: str, *, streams: int, body_bytes: int) -> None:
        """Begin so many of them, of each of which so many bytes are sent at most."""
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._connection_window = WINDOW_BYTES
        self._windows = dict.fromkeys(range(1, 2 * streams, 2), WINDOW_BYTES)
        self._unsent = dict.fromkeys(self._windows, body_bytes)
        self._unread = b""
        self.reset = 0  # how many have been ended by the other side
        self._connection.sendall(PREFACE + _frame(SETTINGS))
        fields = {b":method": b"POST", b":scheme": b"http", b":authority": b"test", b":path": path.encode()}
        for stream in self._windows:
            self._connection.sendall(_frame(HEADERS, _header_block(fields), flags=END_HEADERS, stream=stream))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send_what_there_is_room_for(self) -> None:
        """Send data on each, and read what has come."""
        for stream, window in list(self._windows.items()):
            size = min(window, self._connection_window, self._unsent[stream], FRAME_BYTES)
            if size:
                self._connection.sendall(_frame(DATA, b"x" * size, stream=stream))
                self._windows[stream] -= size
                self._unsent[stream] -= size
                self._connection_window -= size
        with contextlib.suppress(BlockingIOError):
            self._unread += self._connection.recv(1 << 20, socket.MSG_DONTWAIT)
        while len(self._unread) >= HEADER_BYTES:
            end = HEADER_BYTES + int.from_bytes(self._unread[:3])
            if len(self._unread) < end:
                break
            self._hear(self._unread[3], int.from_bytes(self._unread[5:HEADER_BYTES]), self._unread[HEADER_BYTES:end])
            self._unread = self._unread[end:]

    def _hear(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE and stream == 0:
            self._connection_window += int.from_bytes(payload)
        elif kind == WINDOW_UPDATE and stream in self._windows:
            self._windows[stream] += int.from_bytes(payload)
        elif kind == RST_STREAM and self._windows.pop(stream, None) is not None:
            self.reset += 1


def _header_block(fields: Mapping[bytes, bytes]) -> bytes:
    # Each name and value as it is, with its length before it: HPACK without its tables.
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields.items())


def _text(octets: bytes) -> bytes:
    return bytes((len(octets),)) + octets


def _frame(kind: int, body: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body
