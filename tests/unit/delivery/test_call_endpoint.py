"""What an endpoint is sent, and what its answer is taken for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from servicekit.clock import to_milliseconds
from servicekit.egress import Exchange, Problem
from services.delivery.call_endpoint import SENTENCES, EndpointCaller
from services.delivery.webhook_signatures import signed_headers
from services.delivery.webhooks import Destination, DestinationKind, Event, WebhookDelivery


@dataclass(frozen=True)
class Target:
    url: str = "https://public.example/replies"
    secrets: tuple[str, ...] = ("the newest", "the older one")


class Outside:
    """Answers every call alike, and keeps what was sent."""

    def __init__(self, **exchange):
        self._exchange = Exchange(milliseconds=12, **exchange)
        self.sent = []

    async def post(self, url, *, headers, body):
        self.sent.append((url, headers, body))
        return self._exchange


def delivery(clock) -> WebhookDelivery:
    return WebhookDelivery(
        id="whd_1",
        tenant_id="ten_1",
        destination=Destination(kind=DestinationKind.INTEGRATION, id="wkh_1"),
        event=Event.MESSAGE_RECEIVED,
        event_id="evt_1",
        message_id="",
        reply_id="mo_1",
        body=b'{"text":"YES"}',
        created_at=clock.now(),
    )


async def result_of(clock, **exchange):
    return await EndpointCaller(Outside(**exchange)).call(Target(), delivery(clock), clock.now())


async def test_posts_the_body_signed_with_every_secret_as_of_now(clock):
    outside = Outside(status=200)

    await EndpointCaller(outside).call(Target(), delivery(clock), clock.now())

    ((url, headers, body),) = outside.sent
    assert (url, body) == ("https://public.example/replies", b'{"text":"YES"}')
    signature = signed_headers(
        body, webhook_id="evt_1", timestamp=to_milliseconds(clock.now()) // 1000, secrets=Target().secrets
    )
    assert headers == {"Content-Type": "application/json", **signature}


@pytest.mark.parametrize(("status", "is_success"), [(200, True), (204, True), (299, True), (199, False), (500, False)])
async def test_2xx_is_success(clock, status, is_success):
    result = await result_of(clock, status=status, body=b"ok")

    assert (result.is_success, result.status_code, result.milliseconds) == (is_success, status, 12)
    assert (result.body, result.problem) == (b"ok", "")


async def test_an_endpoint_that_breaks_off_after_saying_2xx_has_the_event(clock):
    assert (await result_of(clock, status=200, problem=Problem.CONNECTION_LOST)).is_success


@pytest.mark.parametrize("problem", Problem)
async def test_a_problem_is_told_by_its_word_and_in_a_sentence(clock, problem):
    result = await result_of(clock, problem=problem)

    assert (result.is_success, result.status_code) == (False, None)
    assert result.problem == f"{problem}: {SENTENCES[problem]}"


async def test_a_redirect_is_no_success_and_keeps_its_status(clock):
    result = await result_of(clock, status=307, problem=Problem.REDIRECT_REFUSED)

    assert (result.is_success, result.status_code) == (False, 307)


async def test_tells_when_the_endpoint_wants_to_be_called_again(clock):
    assert (await result_of(clock, status=429, retry_after="30")).retry_after_seconds == 30
    assert (await result_of(clock, status=429, retry_after="Fri, 12 Jun 2026 14:33:00 GMT")).retry_after_seconds == 60
    assert (await result_of(clock, status=429, retry_after="later")).retry_after_seconds is None
