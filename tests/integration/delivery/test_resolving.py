"""What is held because nobody can know, and what an operator makes of it."""

from __future__ import annotations

import grpc
import pytest

from servicekit.ids import new_id
from services.delivery import service
from services.delivery.carriers.base import Capability, OutboundMessage, SendResult, Taken, Unknown
from services.delivery.carriers.registry import Carriers
from tests.integration.delivery.conftest import message_with, refusal_of
from textway.delivery.v1.messages_service_pb2 import (
    GetMessageTimelineRequest,
    ListMessagesRequest,
    ResolveMessageRequest,
    SendMessageRequest,
)


class LosesItsFirstAnswer:
    """A blind carrier whose answer to each message's first attempt is lost."""

    name = "blind"
    kind = "scripted"
    sender = "+6598765432"
    capability = Capability.BLIND
    can_look_up = False

    def __init__(self) -> None:
        self.sent: list[OutboundMessage] = []

    async def start(self, events) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def send(self, message: OutboundMessage) -> SendResult:
        self.sent.append(message)
        if message.attempt_number == 1:
            return Unknown(detail="the connection broke off")
        return Taken(carrier_message_id="c-2", detail="taken")

    async def look_up(self, message: OutboundMessage) -> None:
        return None


@pytest.fixture
async def carrier(unstarted_world, monkeypatch) -> LosesItsFirstAnswer:
    lossy = LosesItsFirstAnswer()
    monkeypatch.setattr(service, "configured_carriers", lambda _settings, _clock: Carriers(lossy))
    await unstarted_world.serve_registry()
    await unstarted_world.serve_delivery()
    return lossy


@pytest.fixture
async def held(unstarted_world, carrier, owner):
    sent = await unstarted_world.messages.SendMessage(
        SendMessageRequest(to="+6581230000", text="Your code is 1234", on_unknown="hold"), metadata=owner
    )
    return await message_with(unstarted_world.messages, owner, sent.id, "unknown")


async def test_holds_what_nothing_tells_about_and_says_so(unstarted_world, carrier, owner, held):
    listed = await unstarted_world.messages.ListMessages(ListMessagesRequest(status="unknown"), metadata=owner)
    told = await unstarted_world.messages.GetMessageTimeline(GetMessageTimelineRequest(id=held.id), metadata=owner)

    assert [message.id for message in listed.messages] == [held.id]
    assert held.error.code == "no_answer"
    assert [entry.event for entry in told.entries] == ["accepted", "attempt_started", "attempt_finished", "held"]
    assert len(carrier.sent) == 1


async def test_sends_a_held_message_again_when_it_is_told_to_and_marks_both_attempts(
    unstarted_world, carrier, owner, held
):
    messages = unstarted_world.messages

    await messages.ResolveMessage(ResolveMessageRequest(id=held.id, resolution="resend"), metadata=owner)
    await message_with(messages, owner, held.id, "sent")

    told = await messages.GetMessageTimeline(GetMessageTimelineRequest(id=held.id), metadata=owner)
    ended = [entry for entry in told.entries if entry.event == "attempt_finished"]
    assert [(entry.outcome, entry.possible_duplicate) for entry in ended] == [("unknown", True), ("taken", True)]
    assert len(carrier.sent) == 2


@pytest.mark.parametrize("resolution", ["sent", "failed"])
async def test_settles_a_held_message_without_sending_it(unstarted_world, carrier, owner, held, resolution):
    request = ResolveMessageRequest(id=held.id, resolution=resolution)

    settled = await unstarted_world.messages.ResolveMessage(request, metadata=owner)
    again = await refusal_of(unstarted_world.messages.ResolveMessage(request, metadata=owner))
    told = await unstarted_world.messages.GetMessageTimeline(GetMessageTimelineRequest(id=held.id), metadata=owner)

    assert [(entry.event, entry.status) for entry in told.entries[-2:]] == [
        ("held", "unknown"),
        ("resolved", resolution),
    ]
    assert settled.status == resolution
    assert again.code is grpc.StatusCode.ABORTED
    assert len(carrier.sent) == 1


async def test_refuses_to_resolve_for_strangers_and_with_other_words(unstarted_world, owner, stranger, held):
    messages = unstarted_world.messages

    foreign = await refusal_of(
        messages.ResolveMessage(ResolveMessageRequest(id=held.id, resolution="sent"), metadata=stranger)
    )
    absent = await refusal_of(
        messages.ResolveMessage(
            ResolveMessageRequest(id=new_id("msg", unstarted_world.clock.now()), resolution="sent"), metadata=owner
        )
    )
    wrong = await refusal_of(
        messages.ResolveMessage(ResolveMessageRequest(id=held.id, resolution="maybe"), metadata=owner)
    )

    assert foreign.code is absent.code is grpc.StatusCode.NOT_FOUND
    assert wrong.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (await message_with(messages, owner, held.id, "unknown")).attempts == 1


async def test_sends_again_by_itself_unless_it_is_to_hold(unstarted_world, carrier, owner):
    sent = await unstarted_world.messages.SendMessage(
        SendMessageRequest(to="+6581230000", text="Sale!"), metadata=owner
    )

    await message_with(unstarted_world.messages, owner, sent.id, "sent")

    assert [message.attempt_number for message in carrier.sent] == [1, 2]
    assert {message.message_id for message in carrier.sent} == {sent.id}


async def test_answers_a_repeated_request_with_a_key_as_it_answered_the_first(unstarted_world, carrier, owner, held):
    keyed = (*owner, ("idempotency-key", "decided-by-anna"))

    async def resolve(resolution: str):
        call = unstarted_world.messages.ResolveMessage(
            ResolveMessageRequest(id=held.id, resolution=resolution), metadata=keyed
        )
        return (await call).status, dict(await call.initial_metadata()).get("idempotent-replay")

    assert await resolve("sent") == ("sent", None)
    assert await resolve("sent") == ("sent", "true")
    other = await refusal_of(
        unstarted_world.messages.ResolveMessage(ResolveMessageRequest(id=held.id, resolution="failed"), metadata=keyed)
    )
    assert other.reason == "IDEMPOTENCY_MISMATCH"
