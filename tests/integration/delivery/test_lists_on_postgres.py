"""Lists on PostgreSQL, which can not be asked for a text with U+0000: that is the caller's mistake, and no failure."""

from __future__ import annotations

import base64
import json

import grpc
import pytest
from google.protobuf.message import Message

from tests.integration.delivery.conftest import Metadata, World, refusal_of
from textway.delivery.v1.inbound_service_pb2 import ListInboundRequest
from textway.delivery.v1.inbound_service_pb2_grpc import InboundServiceStub
from textway.delivery.v1.messages_service_pb2 import GetMessageRequest, ListMessagesRequest
from textway.delivery.v1.messages_service_pb2_grpc import MessagesServiceStub
from textway.delivery.v1.opt_outs_service_pb2 import DeleteOptOutRequest, ListOptOutsRequest
from textway.delivery.v1.opt_outs_service_pb2_grpc import OptOutsServiceStub
from textway.delivery.v1.webhook_deliveries_service_pb2 import GetWebhookDeliveryRequest, ListWebhookDeliveriesRequest
from textway.delivery.v1.webhook_deliveries_service_pb2_grpc import WebhookDeliveriesServiceStub

NUL = "+6581230000\0"
TOKEN = base64.urlsafe_b64encode(json.dumps([1, NUL]).encode()).decode().rstrip("=")
MESSAGES, INBOUND = (MessagesServiceStub, "ListMessages"), (InboundServiceStub, "ListInbound")
OPT_OUTS = (OptOutsServiceStub, "ListOptOuts")
DELIVERIES = (WebhookDeliveriesServiceStub, "ListWebhookDeliveries")


pytestmark = pytest.mark.usefixtures("on_postgres")


async def test_refuses_what_can_not_be_looked_for_and_names_it(world: World, owner: Metadata) -> None:
    cases: list[tuple[tuple[type, str], Message, str]] = [
        (MESSAGES, ListMessagesRequest(ref=NUL), "ref"),
        (MESSAGES, ListMessagesRequest(to=NUL), "to"),
        (MESSAGES, ListMessagesRequest(integration_id=NUL), "integrationId"),
        (MESSAGES, ListMessagesRequest(status=NUL), "status"),
        (MESSAGES, ListMessagesRequest(page_token=TOKEN), "pageToken"),
        (INBOUND, ListInboundRequest(**{"from": NUL}), "from"),
        (INBOUND, ListInboundRequest(to=NUL), "to"),
        (INBOUND, ListInboundRequest(message_id=NUL), "messageId"),
        (INBOUND, ListInboundRequest(page_token=TOKEN), "pageToken"),
        (OPT_OUTS, ListOptOutsRequest(number=NUL), "number"),
        (OPT_OUTS, ListOptOutsRequest(page_token=TOKEN), "pageToken"),
        (DELIVERIES, ListWebhookDeliveriesRequest(message_id=NUL), "messageId"),
        (DELIVERIES, ListWebhookDeliveriesRequest(status=NUL), "status"),
        (DELIVERIES, ListWebhookDeliveriesRequest(page_token=TOKEN), "pageToken"),
    ]
    for (stub, rpc), request, field in cases:
        refusal = await refusal_of(getattr(stub(world.channel), rpc)(request, metadata=owner))

        assert (rpc, refusal.reason, refusal.fields) == (rpc, "VALIDATION_ERROR", (field,))


async def test_finds_nothing_under_an_id_that_can_not_be_looked_for(world: World, owner: Metadata) -> None:
    nul = "msg_" + "0" * 25 + "\0"
    cases: list[tuple[type, str, Message]] = [
        (MessagesServiceStub, "GetMessage", GetMessageRequest(id=nul)),
        (WebhookDeliveriesServiceStub, "GetWebhookDelivery", GetWebhookDeliveryRequest(id=nul.replace("msg", "whd"))),
        (OptOutsServiceStub, "DeleteOptOut", DeleteOptOutRequest(id=nul.replace("msg", "opt"))),
    ]
    for stub, rpc, request in cases:
        refusal = await refusal_of(getattr(stub(world.channel), rpc)(request, metadata=owner))

        assert (rpc, refusal.code) == (rpc, grpc.StatusCode.NOT_FOUND)
