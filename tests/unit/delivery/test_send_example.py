"""One example, within the time that its sender waits."""

from __future__ import annotations

import asyncio

import pytest

from servicekit.egress import Exchange, Problem
from services.delivery.announcements import Owner
from services.delivery.call_endpoint import EndpointCaller
from services.delivery.deliver_webhooks import Target
from services.delivery.errors import NoWebhookConfigError, TooManyExamplesError
from services.delivery.send_example import (
    ANSWER_SECONDS,
    EXAMPLE_LIMITS,
    EXAMPLE_SENTENCES,
    MAX_AT_ONCE,
    SendExample,
)

GATEWAY_SECONDS = 4.0
TARGET = Target(url="https://receiver.example/", secrets=("s",), is_enabled=True)


class Directory:
    """Knows one webhook of everybody; may take its time to say so."""

    def __init__(self, clock, target: Target | None = TARGET, *, seconds: float = 0.0) -> None:
        self._clock = clock
        self._target = target
        self._seconds = seconds
        self.asked: list[Owner] = []

    async def webhook(self, owner: Owner) -> Target | None:
        self.asked.append(owner)
        self._clock.advance(self._seconds)
        return self._target


class Outside:
    """Answers every call alike, when it may."""

    def __init__(self, **exchange) -> None:
        self._exchange = Exchange(milliseconds=12, **exchange)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.sent: list[tuple[str, dict[str, str], bytes]] = []

    async def post(self, url, *, headers, body):
        self.sent.append((url, headers, body))
        await self.may_answer.wait()
        return self._exchange


def sending(clock, outside: Outside, directory: Directory | None = None) -> SendExample:
    endpoints = EndpointCaller(outside, EXAMPLE_SENTENCES)
    return SendExample(webhooks=directory or Directory(clock), endpoints=endpoints, clock=clock)


async def test_answers_with_what_was_sent(clock):
    outside = Outside(status=200, body=b"ok")

    sent = await sending(clock, outside).to_integration("ten_1", "wkh_1")

    assert outside.sent == [(TARGET.url, sent.headers, sent.body)]
    assert (sent.target, sent.sent_at, sent.result.status_code) == (TARGET, clock.now(), 200)


async def test_asks_for_the_integrations_webhook_or_for_the_tenants(clock):
    directory = Directory(clock)
    example = sending(clock, Outside(status=200), directory)

    await example.to_integration("ten_1", "wkh_1")
    await example.to_webhook("ten_1")

    assert directory.asked == [Owner("ten_1", "wkh_1"), Owner("ten_1", "")]


def test_ends_before_the_gateway_gives_up():
    assert EXAMPLE_LIMITS.total_seconds < ANSWER_SECONDS < GATEWAY_SECONDS


async def test_says_that_no_answer_came_when_the_time_is_over_before_the_call_ends(clock):
    outside = Outside(status=200)
    outside.may_answer.clear()

    sent = await sending(clock, outside, Directory(clock, seconds=ANSWER_SECONDS)).to_webhook("ten_1")

    assert (sent.result.status_code, sent.result.is_success) == (None, False)
    assert sent.result.problem == f"timeout: {EXAMPLE_SENTENCES[Problem.TIMEOUT]}"


async def test_names_the_time_that_an_example_has(clock):
    sent = await sending(clock, Outside(problem=Problem.TIMEOUT)).to_webhook("ten_1")

    assert sent.result.problem == "timeout: no whole answer came within the 3 s that an example has; an event has 15 s"


async def test_lets_a_tenant_wait_for_a_few_endpoints_only(clock):
    outside = Outside(status=200)
    outside.may_answer.clear()
    example = sending(clock, outside)
    waiting = [asyncio.create_task(example.to_webhook("ten_1")) for _ in range(MAX_AT_ONCE)]
    while len(outside.sent) < MAX_AT_ONCE:
        await asyncio.sleep(0)

    with pytest.raises(TooManyExamplesError):
        await example.to_integration("ten_1", "wkh_1")
    of_another = asyncio.create_task(example.to_webhook("ten_2"))
    outside.may_answer.set()
    await asyncio.gather(*waiting, of_another)

    assert (await example.to_webhook("ten_1")).result.is_success


async def test_counts_no_example_that_was_refused(clock):
    example = sending(clock, Outside(status=200), Directory(clock, None))

    for _ in range(MAX_AT_ONCE + 1):
        with pytest.raises(NoWebhookConfigError):
            await example.to_webhook("ten_1")
