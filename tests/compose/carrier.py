"""A carrier in a container of its own: it takes every message after a while, and counts how often it saw each.

It runs from the product's image, with this file mounted; it knows only what is installed there.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter

from aiohttp import web

LATENCY_SECONDS = float(os.environ.get("CARRIER_LATENCY_MS") or 0) / 1000
PORT = 9000

seen: Counter[str] = Counter()


async def take(request: web.Request) -> web.Response:
    message_id = (await request.json())["id"]
    seen[message_id] += 1
    if LATENCY_SECONDS:
        await asyncio.sleep(LATENCY_SECONDS)
    return web.json_response({"id": f"c-{message_id}"}, status=202)


async def tell(request: web.Request) -> web.Response:
    if request.match_info["id"] not in seen:
        return web.json_response({"error": "not_found"}, status=404)
    return web.json_response({"status": "delivered"})


async def show(_request: web.Request) -> web.Response:
    return web.json_response(seen)


async def count(_request: web.Request) -> web.Response:
    return web.json_response(len(seen))


def main() -> None:
    application = web.Application()
    application.router.add_post("/messages", take)
    application.router.add_get("/messages/{id}", tell)
    application.router.add_get("/seen", show)
    application.router.add_get("/count", count)
    web.run_app(application, port=PORT, access_log=None, print=None)


if __name__ == "__main__":
    main()
