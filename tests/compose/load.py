"""Senders that post at a steady rate, whatever happens, and remember each answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import aiohttp

TIMEOUT_SECONDS = 15
# A sender's own time out is a failed request, too.
NO_ANSWER = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one request."""

    began: float  # by time.monotonic(), when it was due
    seconds: float
    status: int
    message_id: str
    retry_after: str
    body: str

    @property
    def is_accepted(self) -> bool:
        return self.status == 202

    @property
    def sentence(self) -> str:
        """The body without what differs from request to request."""
        return f"{self.status} {self.body.partition('requestId')[0]}"


class Load:
    """Posts in the background between `with` and its end, an open loop: a slow answer holds nothing up."""

    def __init__(self, url: str, *, per_second: float) -> None:
        self._url = url
        self._per_second = per_second
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._post_all()))
        self.answers: list[Answer] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def accepted(self) -> list[str]:
        return [answer.message_id for answer in self.answers if answer.is_accepted]

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.is_accepted]

    def since(self, moment: float) -> list[Answer]:
        return sorted((each for each in self.answers if each.began >= moment), key=lambda each: each.began)

    def statuses(self) -> dict[int, int]:
        return dict(Counter(answer.status for answer in self.answers))

    def failures(self) -> str:
        """What failed, in words: how often each sentence was the answer, and between which seconds of the load."""
        if not self.failed:
            return "none failed"
        start = min(answer.began for answer in self.answers)
        sentences = Counter(answer.sentence for answer in self.failed)
        seconds = sorted({int(answer.began - start) for answer in self.failed})
        return f"{len(self.failed)} failed, in seconds {seconds} of it: {dict(sentences)}"

    async def _post_all(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, trust_env=False) as session, asyncio.TaskGroup() as tasks:
            due = time.monotonic()
            while not self._stopping.is_set():
                tasks.create_task(self._post(session, due))
                due += 1 / self._per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _post(self, session: aiohttp.ClientSession, due: float) -> None:
        self.answers.append(await post_one(session, self._url, due))


async def post_one(session: aiohttp.ClientSession, url: str, due: float) -> Answer:
    """Post one payload, once."""
    payload = {"to": "+6581230000", "text": f"Order {due:.6f} confirmed", "ref": "4821"}
    status, message_id, retry_after, body = NO_ANSWER, "", "", ""
    try:
        async with session.post(url, json=payload, timeout=aiohttp.ClientTimeout(TIMEOUT_SECONDS)) as answer:
            body = await answer.text()
            status, retry_after = answer.status, answer.headers.get("Retry-After", "")
            if status == 202:
                message_id = str((await answer.json())["id"])
    except (aiohttp.ClientError, TimeoutError) as error:
        body = repr(error)
    return Answer(
        began=due,
        seconds=time.monotonic() - due,
        status=status,
        message_id=message_id,
        retry_after=retry_after,
        body=body,
    )


def post_many(url: str, number: int, *, at_once: int) -> Sequence[Answer]:
    """Post a number of payloads as fast as they are answered, so many at once; return all answers."""
    return asyncio.run(_post_many(url, number, at_once))


async def _post_many(url: str, number: int, at_once: int) -> list[Answer]:
    answers: list[Answer] = []
    left = iter(range(number))

    async def sender(session: aiohttp.ClientSession) -> None:
        for _ in left:
            answers.append(await post_one(session, url, time.monotonic()))  # noqa: PERF401  # shared by all senders

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session, asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(sender(session))
    return answers
