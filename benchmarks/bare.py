"""The least that takes, stores and hands on a message: two processes on one table of PostgreSQL, and nothing else.

The first takes a payload behind Envoy: signature, JSON, three fields, the number, and one commit for all that are there
meanwhile. The second claims what is due, calls the carrier and writes down that it did. No retry, no lease, no ledger,
no repeat, no receipt, no log: what stands between this and the product is what the product's promises cost.

`python -m benchmarks.bare ingress URL DESCRIPTORS PORT` and `python -m benchmarks.bare delivery URL CARRIER_PORT`
serve until SIGTERM.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import grpc
import uvloop

from benchmarks.echo import Handler, serving, until_terminated
from benchmarks.payloads import SIGNING_HEADER
from servicekit.ids import random_bits
from servicekit.phone_numbers import normalise

SCHEMA: Final = (
    "CREATE TABLE message (id text PRIMARY KEY, recipient text, body text, ref text, state int, at timestamptz)",
    "CREATE INDEX due ON message (at) WHERE state = 0",
)
_ADD: Final = """
INSERT INTO message SELECT *, 0, now() FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
"""
_CLAIM: Final = """
UPDATE message SET state = 1
WHERE id IN (SELECT id FROM message WHERE state = 0 ORDER BY at LIMIT 100 FOR UPDATE SKIP LOCKED)
RETURNING id, recipient, body
"""
_FINISH: Final = "UPDATE message SET state = 2 FROM unnest($1::text[]) AS done (id) WHERE message.id = done.id"

SECRET: Final = "s" * 48
_MESSAGES_IN_COMMIT: Final = 500
_MESSAGES_IN_CLAIM: Final = 100
_CALLS_AT_ONCE: Final = 64
_CALL_SECONDS: Final = aiohttp.ClientTimeout(total=10)
_POLL_SECONDS: Final = 0.01

Row = tuple[str, str, str, str]


class Table:
    """Where messages are stored, many by one statement."""

    def __init__(self, add: asyncpg.prepared_stmt.PreparedStatement[Any]) -> None:
        self._add = add
        self._waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self._is_wanted = asyncio.Event()

    async def store(self, row: Row) -> None:
        """Return when the message is on disk."""
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((row, stored))
        self._is_wanted.set()
        await stored

    async def commit(self) -> None:
        """Store what waits, for ever."""
        while True:
            await self._is_wanted.wait()
            now, self._waiting = self._waiting[:_MESSAGES_IN_COMMIT], self._waiting[_MESSAGES_IN_COMMIT:]
            if not self._waiting:
                self._is_wanted.clear()
            await self._add.fetch(*map(list, zip(*[row for row, _ in now], strict=True)))
            for _, stored in now:
                stored.set_result(None)


async def serve_ingress(url: str, descriptors: bytes, port: int) -> None:
    """Take payloads until SIGTERM."""
    database = await asyncpg.connect(url)
    table = Table(await database.prepare(_ADD))
    key, header = SECRET.encode(), SIGNING_HEADER.lower()

    def taking(response: Any) -> Handler:
        async def take(posted: Any, context: Any) -> Any:
            body = posted.payload.data
            given = next(value for name, value in context.invocation_metadata() if name == header)
            if not hmac.compare_digest("sha256=" + hmac.digest(key, body, hashlib.sha256).hex(), given):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the signature is wrong")
            order = json.loads(body)
            to, text, ref = normalise(order["customer"]["phone"]), order["notification"]["body"], order["invoiceId"]
            message_id = f"msg_{random_bits(80):x}"
            await table.store((message_id, to, text, ref))
            return response(id=message_id, status="queued", to=to, text=text, ref=ref)

        return take

    async with serving(descriptors, port, taking):
        await until_terminated(table.commit())
    await database.close()


async def serve_delivery(url: str, carrier_port: int) -> None:
    """Hand messages to the carrier until SIGTERM."""
    claiming, finishing = await asyncpg.connect(url), await asyncpg.connect(url)
    claim, finish = await claiming.prepare(_CLAIM), await finishing.prepare(_FINISH)
    done: list[str] = []
    room = asyncio.Semaphore(_CALLS_AT_ONCE)
    calls: set[asyncio.Task[None]] = set()
    address = f"http://127.0.0.1:{carrier_port}/messages"
    http = aiohttp.ClientSession(timeout=_CALL_SECONDS)

    async def call(message_id: str, to: str, text: str) -> None:
        body = {"id": message_id, "to": to, "text": text, "from": "+14155550100"}
        async with http.post(address, json=body) as answer:
            await answer.read()
        done.append(message_id)
        room.release()

    async def work() -> None:
        while True:
            rows = await claim.fetch()
            for row in rows:
                await room.acquire()
                task = asyncio.create_task(call(*row))
                calls.add(task)
                task.add_done_callback(calls.discard)
            if len(rows) < _MESSAGES_IN_CLAIM:
                await asyncio.sleep(_POLL_SECONDS)

    async def write_down() -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if done:
                finished = done.copy()
                done.clear()
                await finish.fetch(finished)

    await until_terminated(work(), write_down())
    await http.close()
    await claiming.close()
    await finishing.close()


if __name__ == "__main__":
    role, database_url, *others = sys.argv[1:]
    if role == "ingress":
        uvloop.run(serve_ingress(database_url, Path(others[0]).read_bytes(), int(others[1])))
    else:
        uvloop.run(serve_delivery(database_url, int(others[0])))
