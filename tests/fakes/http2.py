"""Bare HTTP/2: a server that hangs up on a gRPC call, and clients that only ping or send a header of any bytes."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
ACKNOWLEDGED, END_STREAM, END_HEADERS = 1, 1, 4


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
    fields = b"".join(b"\x00" + _text(each) + _text(headers[each]) for each in headers)
    with contextlib.closing(writer):
        writer.write(PREFACE + _frame(SETTINGS) + _frame(HEADERS, fields, flags=END_HEADERS, stream=1))
        writer.write(_frame(DATA, bytes(5), flags=END_STREAM, stream=1))
        while True:
            header = await reader.readexactly(HEADER_BYTES)
            await reader.readexactly(int.from_bytes(header[:3], "big"))
            if header[3] == HEADERS and header[4] & END_STREAM:
                return


def _text(octets: bytes) -> bytes:
    return bytes((len(octets),)) + octets


def _frame(kind: int, body: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body
