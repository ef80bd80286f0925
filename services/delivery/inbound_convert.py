"""Received messages, as protobuf."""

from __future__ import annotations

from collections.abc import Sequence

from servicekit.paging import PageRequest, page_of, page_request
from services.delivery.convert import filter_text, moment, timestamp
from services.delivery.replies import AnsweredMessage, InboundFilter, ReceivedReply, comparable_number
from textway.delivery.v1 import inbound_service_pb2


def list_request(request: inbound_service_pb2.ListInboundRequest) -> tuple[InboundFilter, PageRequest]:
    """Return what to list; raise ValidationError naming what can not be used."""
    page = page_request(request.page_size if request.HasField("page_size") else None, request.page_token)
    sender = filter_text("from", getattr(request, "from"))  # a keyword in Python, and the contract's word
    recipient = filter_text("to", request.to)
    wanted = InboundFilter(
        sender=comparable_number(sender) if sender else None,
        recipient=comparable_number(recipient) if recipient else None,
        message_id=filter_text("messageId", request.message_id),
        received_after=moment("receivedAfter", request.received_after) if request.HasField("received_after") else None,
        received_before=moment("receivedBefore", request.received_before)
        if request.HasField("received_before")
        else None,
    )
    return wanted, page


def list_response(found: Sequence[ReceivedReply], page: PageRequest) -> inbound_service_pb2.ListInboundResponse:
    """Return one page, with the token of the next if more was found than the page holds."""
    shown, token = page_of(found, page, show=_inbound, place=lambda each: (each.received_at, each.id))
    return inbound_service_pb2.ListInboundResponse(inbound=shown, next_page_token=token)


def _inbound(found: ReceivedReply) -> inbound_service_pb2.InboundMessage:
    return inbound_service_pb2.InboundMessage(
        id=found.id,
        to=found.recipient,
        text=found.text,
        carrier=found.carrier,
        keyword=found.keyword,
        in_reply_to=_answered(found.in_reply_to) if found.in_reply_to else None,
        other_candidates=found.other_candidates,
        received_at=timestamp(found.received_at),
        **{"from": found.sender},  # a keyword in Python, and the contract's word
    )


def _answered(message: AnsweredMessage) -> inbound_service_pb2.InReplyTo:
    return inbound_service_pb2.InReplyTo(
        id=message.id, ref=message.ref, integration_id=message.integration_id, sent_at=timestamp(message.sent_at)
    )
