"""A name server of a test's own: what a name means may be changed at any time."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

NAME_ERROR = 3
ANSWER = 0x8180
IPV4 = 1
HEADER_BYTES = 12


class NameServer(asyncio.DatagramProtocol):
    """Answers for IPv4 addresses from `addresses`; knows no other kind and no other name."""

    def __init__(self) -> None:
        self.addresses: dict[str, Sequence[str]] = {}
        self.port = 0

    def target(self, host: str, port: str) -> str:
        """Return what a gRPC channel is opened to so that it asks this server, and none of the machine's."""
        return f"dns://127.0.0.1:{self.port}/{host}:{port}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        labels, position = [], HEADER_BYTES
        while length := data[position]:
            labels.append(data[position + 1 : position + 1 + length].decode())
            position += length + 1
        question = data[HEADER_BYTES : position + 5]
        (kind,) = struct.unpack(">H", data[position + 1 : position + 3])
        known = self.addresses.get(".".join(labels))
        found = known if known and kind == IPV4 else ()
        flags = ANSWER if known is not None else ANSWER | NAME_ERROR
        answer = data[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0) + question
        for address in found:
            # Its name is the question's; an Internet address, good for a second.
            answer += b"\xc0\x0c" + struct.pack(">HHIH", IPV4, 1, 1, 4) + socket.inet_aton(address)
        self._transport.sendto(answer, addr)


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
