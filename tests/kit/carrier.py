"""A scripted HTTP carrier in a process of its own, which logs every message that it takes to a file for the oracle.

`ScriptedCarrier` starts it and talks to it; `python -m tests.kit.carrier` is the process; `serving` is the same without
one. The seed and a message's id alone decide what it does with the message, so that a run can be had again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.kit.carriers import carriers_file

STARTED_WITHIN_SECONDS = 15

# What it can do with a message. Those that take it write it to the log before anything is answered.
TAKE = "take"
TAKE_SLOWLY = "take_slowly"  # answers after a second
TAKE_THEN_500 = "take_then_500"
TAKE_THEN_RESET = "take_then_reset"  # the connection breaks off instead of an answer
TAKE_THEN_HANG = "take_then_hang"
TAKE_THEN_GARBAGE = "take_then_garbage"  # an answer that is not HTTP
BUSY = "busy"  # 503, with Retry-After: 1
THROTTLE = "throttle"  # 429, with Retry-After as a date
REFUSE = "refuse"  # 400 invalid_number
RESET = "reset"  # the connection breaks off and the message is not taken
UNAVAILABLE_TWICE = "unavailable_twice"  # 503 for the first two tries of a message
UNDELIVERED = "undelivered"  # taken; look-ups say that it could not be delivered

# Recipients that always get the same treatment; the numbers are the simulator's where both have the role.
ROLES = {
    "+6581230001": REFUSE,
    "+6581230002": UNAVAILABLE_TWICE,
    "+6581230003": TAKE_THEN_HANG,
    "+6581230004": UNDELIVERED,
    "+6581230011": TAKE_THEN_500,
    "+6581230012": TAKE_THEN_RESET,
    "+6581230013": RESET,
    "+6581230014": TAKE_THEN_GARBAGE,
    "+6581230015": THROTTLE,
    "+6581230016": BUSY,
    "+6581230017": TAKE_SLOWLY,
}


class ScriptedCarrier:
    """The process, and what it took."""

    def __init__(
        self,
        folder: Path,
        *,
        capability: str = "blind",
        seed: int = 0,
        latency_ms: tuple[int, int] = (1, 20),
        script: Mapping[str, float] | None = None,
    ) -> None:
        """`script` gives each treatment's share of the first tries, such as `{"take_then_500": 0.01}`."""
        self.capability = capability
        self._folder = folder
        self.log = folder / "carrier.log"
        self._arguments = {
            "log": str(self.log),
            "capability": capability,
            "seed": seed,
            "latency_ms": latency_ms,
            "script": dict(script or {}),
        }
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def settings(self, url: str | None = None) -> dict[str, str]:
        """The product's settings that lead to this carrier, or to it by way of another address."""
        return {"TEXTWAY_CARRIERS": str(carriers_file(self._folder, url or self.url, self.capability))}

    def __enter__(self) -> Self:
        self.log.touch()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kit.carrier", json.dumps(self._arguments)],
            stdin=subprocess.PIPE,  # the process ends when this end is closed, however the tests end
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        self._process.kill()
        with self._process:
            self._process.wait(STARTED_WITHIN_SECONDS)

    def taken(self) -> Counter[str]:
        """How often each message was taken, by our id."""
        with self.log.open() as log:
            return Counter(json.loads(line)["id"] for line in log if line.endswith("\n"))


class _Script:
    """Decides what happens to each try of each message."""

    def __init__(self, seed: int, shares: Mapping[str, float]) -> None:
        self._seed = seed
        self._shares = shares

    def treatment(self, message_id: str, to: str, tries: int) -> str:
        role = ROLES.get(to)
        if role == UNAVAILABLE_TWICE:
            return BUSY if tries <= 2 else TAKE
        if role:
            return role
        if tries > 1:
            return TAKE
        left = random.Random(f"{self._seed} {message_id}").random()
        for treatment, share in self._shares.items():
            left -= share
            if left < 0:
                return treatment
        return TAKE


class _Server:
    def __init__(
        self, *, log: str, capability: str, seed: int, latency_ms: tuple[int, int], script: Mapping[str, float]
    ) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._capability = capability
        self._latency_ms = latency_ms
        self._random = random.Random(seed)
        self._script = _Script(seed, script)
        self._tries: Counter[str] = Counter()
        self._taken: dict[str, str] = {}
        self._closing = asyncio.Event()

    def close(self) -> None:
        self._closing.set()
        os.close(self._log)

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/messages", self.take)
        application.router.add_get("/messages/{id}", self.tell)
        return application

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        message_id = body["id"]
        if request.headers.get("Idempotency-Key") != message_id:
            return web.json_response({"error": "carrier_rejected"}, status=400)
        self._tries[message_id] += 1
        if self._capability == "idempotent" and message_id in self._taken:
            return _taken(message_id)
        treatment = self._script.treatment(message_id, body["to"], self._tries[message_id])
        # Half of the latency lies before the message is taken and half after it, so that a kill meets both.
        pause = self._random.uniform(*self._latency_ms) / 2000
        await asyncio.sleep(pause)
        if treatment in (BUSY, THROTTLE, REFUSE, RESET):
            return self._decline(request, treatment)
        self._accept(body, treatment)
        await asyncio.sleep(pause)
        return await self._answer(request, message_id, treatment)

    async def tell(self, request: web.Request) -> web.Response:
        message_id = request.match_info["id"]
        if message_id not in self._taken:
            return web.json_response({"error": "not_found"}, status=404)
        if self._taken[message_id] == UNDELIVERED:
            return web.json_response({"status": "undelivered", "error": "unreachable"})
        return web.json_response({"status": "delivered"})

    def _accept(self, body: Mapping[str, str], treatment: str) -> None:
        self._taken[body["id"]] = treatment
        entry = {"id": body["id"], "to": body["to"], "from": body["from"], "text": body["text"], "at": time.time()}
        os.write(self._log, f"{json.dumps(entry)}\n".encode())

    def _decline(self, request: web.Request, treatment: str) -> web.StreamResponse:
        if treatment == RESET:
            return _reset(request)
        if treatment == REFUSE:
            return web.json_response({"error": "invalid_number"}, status=400)
        if treatment == THROTTLE:
            soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
            return web.json_response({}, status=429, headers={"Retry-After": soon})
        return web.json_response({"error": "carrier_unavailable"}, status=503, headers={"Retry-After": "1"})

    async def _answer(self, request: web.Request, message_id: str, treatment: str) -> web.StreamResponse:
        match treatment:
            case "take_then_500":
                return web.json_response({"error": "internal"}, status=500)
            case "take_then_reset":
                return _reset(request)
            case "take_then_garbage":
                assert request.transport
                request.transport.write(b"MUMBLE MUMBLE\r\n\r\n")
                request.transport.close()
                return web.Response()
            case "take_then_hang":
                await self._closing.wait()
            case "take_slowly":
                await asyncio.sleep(1)
        return _taken(message_id)


def _taken(message_id: str) -> web.Response:
    return web.json_response({"id": f"c-{message_id}"}, status=202)


def _reset(request: web.Request) -> web.Response:
    assert request.transport
    request.transport.abort()
    return web.Response()


@contextlib.asynccontextmanager
async def serving(
    log: Path,
    *,
    capability: str = "blind",
    seed: int = 0,
    latency_ms: tuple[int, int] = (1, 20),
    script: Mapping[str, float] | None = None,
) -> AsyncIterator[str]:
    """Serve in this process; yield the address that takes messages."""
    server = _Server(log=str(log), capability=capability, seed=seed, latency_ms=latency_ms, script=script or {})
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/messages"
    finally:
        server.close()
        await runner.cleanup()


async def _serve_until_stdin_ends(arguments: dict[str, Any]) -> None:
    async with serving(Path(arguments.pop("log")), **arguments) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve_until_stdin_ends(json.loads(sys.argv[1])))
