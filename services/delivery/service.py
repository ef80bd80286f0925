"""Puts Delivery together; the only file here that names concrete classes."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import grpc
import structlog

from servicekit import clients, schema, tls
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.egress import EgressClient
from servicekit.server import CALL_GRACE_SECONDS
from services.delivery import maintenance
from services.delivery.accept_messages import AcceptMessages
from services.delivery.announcements import Announcements, Owner
from services.delivery.answer_keywords import AnswerKeywords
from services.delivery.answer_replies import AnswerReplies
from services.delivery.api_keys import ApiKeys
from services.delivery.call_endpoint import EndpointCaller
from services.delivery.callbacks_servicer import CallbacksServicer
from services.delivery.carrier_monitor import CarrierMonitor
from services.delivery.carriers.base import CarrierReply
from services.delivery.carriers.registry import Carriers
from services.delivery.carriers_servicer import CarriersServicer
from services.delivery.deliver_webhooks import DeliverWebhooks
from services.delivery.dispatch import Dispatcher
from services.delivery.domain import Message
from services.delivery.follow_up import FollowUp
from services.delivery.housekeeping import Housekeeping
from services.delivery.inbound_servicer import InboundServicer
from services.delivery.installation import carriers_file
from services.delivery.measure_queues import MeasureQueues
from services.delivery.measure_receipts import measure_receipts
from services.delivery.opt_outs_servicer import OptOutsServicer
from services.delivery.optouts import OptOutWords
from services.delivery.receive_callback import ReceiveCallback
from services.delivery.receive_reply import ReceiveReply
from services.delivery.replay_webhooks import ReplayWebhooks
from services.delivery.report_status import ReportStatus
from services.delivery.send_example import EXAMPLE_LIMITS, EXAMPLE_SENTENCES, SendExample
from services.delivery.servicer import MessagesServicer, SubmissionServicer
from services.delivery.settings import DeliverySettings
from services.delivery.sql_backlog import SqlBacklog
from services.delivery.sql_carriers import SqlCarrierStore
from services.delivery.sql_replies import SqlReplyStore
from services.delivery.sql_store import SqlMessageStore
from services.delivery.sql_webhooks import SqlWebhookStore
from services.delivery.webhook_deliveries_servicer import WebhookDeliveriesServicer
from services.delivery.webhook_directory import WebhookDirectory
from services.delivery.webhook_examples_servicer import WebhookExamplesServicer
from services.delivery.webhook_worker import WebhookWorker
from services.delivery.worker import Worker
from textway.delivery.v1 import (
    callbacks_service_pb2,
    callbacks_service_pb2_grpc,
    carriers_service_pb2,
    carriers_service_pb2_grpc,
    inbound_service_pb2,
    inbound_service_pb2_grpc,
    messages_service_pb2,
    messages_service_pb2_grpc,
    opt_outs_service_pb2,
    opt_outs_service_pb2_grpc,
    submission_service_pb2,
    submission_service_pb2_grpc,
    webhook_deliveries_service_pb2,
    webhook_deliveries_service_pb2_grpc,
    webhook_examples_service_pb2,
    webhook_examples_service_pb2_grpc,
)
from textway.integrations.v1 import registry_service_pb2, registry_service_pb2_grpc
from textway.operations.v1 import operations_service_pb2

REGISTRY: Final = registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name

log = structlog.get_logger(__name__)


class DeliveryService:
    """Delivery, ready to be served."""

    name = "delivery"
    grpc_services: Sequence[str] = (
        messages_service_pb2.DESCRIPTOR.services_by_name["MessagesService"].full_name,
        submission_service_pb2.DESCRIPTOR.services_by_name["SubmissionService"].full_name,
        callbacks_service_pb2.DESCRIPTOR.services_by_name["CallbacksService"].full_name,
        carriers_service_pb2.DESCRIPTOR.services_by_name["CarriersService"].full_name,
        webhook_deliveries_service_pb2.DESCRIPTOR.services_by_name["WebhookDeliveriesService"].full_name,
        webhook_examples_service_pb2.DESCRIPTOR.services_by_name["WebhookExamplesService"].full_name,
        inbound_service_pb2.DESCRIPTOR.services_by_name["InboundService"].full_name,
        opt_outs_service_pb2.DESCRIPTOR.services_by_name["OptOutsService"].full_name,
    )

    def __init__(self, settings: DeliverySettings, database: Database, carriers: Carriers, clock: Clock) -> None:
        self.listen = settings.delivery_listen
        self.metrics_listen = settings.delivery_metrics_listen
        self._drain_seconds = max(0.0, settings.drain_seconds - CALL_GRACE_SECONDS)
        self._callbacks_to = settings.egress_policy(settings.public_url)
        self._database = database
        self._carriers = carriers
        self._clock = clock
        self._public_url = settings.public_url
        self._default_reply_window = timedelta(seconds=settings.reply_window_seconds)
        self._integrations = clients.open_channel(
            settings.integrations_address, tls.identity(settings), health_of=REGISTRY
        )
        registry = registry_service_pb2_grpc.RegistryServiceStub(self._integrations)
        self._keys = ApiKeys(registry, clock)
        self._directory = WebhookDirectory(registry, clock)
        self._announcements = Announcements(self._directory)
        self._store = SqlMessageStore(
            database,
            self._announcements.of_status,
            on_announced=lambda: self._webhook_worker.wake(),  # noqa: PLW0108  # the worker does not exist yet
            on_moved=measure_receipts,
            is_awaited=self._announcements.is_awaited,
        )
        self._webhooks = SqlWebhookStore(database)
        self._egress = EgressClient(settings.egress_policy(settings.public_url), clock)
        # Of its own, so that whoever tries names without a server does not hold up the look-ups of events.
        self._example_egress = EgressClient(settings.egress_policy(settings.public_url), clock, limits=EXAMPLE_LIMITS)
        self._replies = SqlReplyStore(
            database,
            on_announced=lambda: self._webhook_worker.wake(),  # noqa: PLW0108  # the worker does not exist yet
        )
        self._follow_up = FollowUp(
            store=self._store,
            carriers=carriers,
            clock=clock,
            replies=self._take_reply,
        )
        self._monitor = CarrierMonitor(
            store=SqlCarrierStore(database),
            carriers=carriers,
            clock=clock,
            in_flight=settings.delivery_in_flight,
            on_back=lambda: self._worker.wake(),  # noqa: PLW0108  # the worker does not exist yet
        )
        self._dispatcher = Dispatcher(
            store=self._store,
            carriers=carriers,
            monitor=self._monitor,
            clock=clock,
            random=random.random,
            max_in_flight=settings.delivery_in_flight,
            on_room=lambda: self._worker.wake(),  # noqa: PLW0108  # the worker does not exist yet
            lease_seconds=settings.lease_seconds,
            evidence_seconds=settings.evidence_seconds,
        )
        self._worker = Worker(
            store=self._store,
            dispatcher=self._dispatcher,
            monitor=self._monitor,
            follow_up=self._follow_up,
            housekeeping=Housekeeping(
                store=self._store,
                replies=self._replies,
                clock=clock,
                shards=range(settings.delivery_shards),
                retention=timedelta(days=settings.retention_days),
                routes=[route.name for route in carriers.routes],
            ),
            clock=clock,
            random=random.random,
            shards=range(settings.delivery_shards),
            renew_seconds=settings.lease_seconds / 3,
            is_alone=database.is_exclusive,
        )
        backlog = SqlBacklog(
            database, shards=range(settings.delivery_shards), routes=[route.name for route in carriers.routes]
        )
        self._measuring = MeasureQueues(
            queues=backlog,
            carriers=self._monitor,
            clock=clock,
        )
        self._accepting = AcceptMessages(
            store=self._dispatcher,
            clock=clock,
            shards=settings.delivery_shards,
            validity=timedelta(seconds=settings.message_validity_seconds),
            queue_of=lambda submission: carriers.route(submission).name,
            expect=self._announcements.expect,
        )
        self._receive_reply = ReceiveReply(
            store=self._replies,
            clock=clock,
            words=OptOutWords(settings.stop_words.split(",")),
            window_of=self._reply_window,
            announce=self._announcements.of_reply,
            answer=AnswerKeywords(
                accepting=self._accepting,
                confirmation=settings.opt_out_confirmation,
                help_text=settings.help_text,
            ),
        )
        self._delivering = DeliverWebhooks(
            store=self._webhooks,
            targets=self._directory,
            endpoints=EndpointCaller(self._egress),
            disabling=self._directory,
            answers=AnswerReplies(conversations=self._replies, accepting=self._accepting, clock=clock),
            clock=clock,
            random=random.random,
            max_in_flight=settings.webhooks_in_flight,
            on_room=lambda: self._webhook_worker.wake(),  # noqa: PLW0108  # the worker does not exist yet
        )
        self._examples = SendExample(
            webhooks=self._directory,
            endpoints=EndpointCaller(self._example_egress, EXAMPLE_SENTENCES),
            clock=clock,
        )
        self._webhook_worker = WebhookWorker(
            store=self._webhooks,
            delivering=self._delivering,
            clock=clock,
            random=random.random,
            retention=timedelta(days=settings.retention_days),
            is_alone=database.is_exclusive,
        )

        self._schema = schema.SchemaCheck(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
        self._report = ReportStatus(
            backlog=backlog,
            carriers=self._monitor,
            loops=(self._worker, self._webhook_worker),
            clock=clock,
        )

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register every servicer."""
        messages_service_pb2_grpc.add_MessagesServiceServicer_to_server(
            MessagesServicer(
                keys=self._keys,
                accepting=self._accepting,
                store=self._store,
                webhooks=self._webhooks,
                clock=self._clock,
                carriers=self._carriers,
                callbacks=self._callbacks_to,
                on_requeued=self._worker.wake,
            ),
            server,
        )
        submission_service_pb2_grpc.add_SubmissionServiceServicer_to_server(
            SubmissionServicer(
                accepting=self._accepting, store=self._store, clock=self._clock, carriers=self._carriers
            ),
            server,
        )
        callbacks_service_pb2_grpc.add_CallbacksServiceServicer_to_server(
            CallbacksServicer(
                receive=ReceiveCallback(carriers=self._carriers, events=self._follow_up),
                clock=self._clock,
                public_url=self._public_url,
            ),
            server,
        )
        carriers_service_pb2_grpc.add_CarriersServiceServicer_to_server(
            CarriersServicer(keys=self._keys, carriers=self._monitor), server
        )
        webhook_deliveries_service_pb2_grpc.add_WebhookDeliveriesServiceServicer_to_server(
            WebhookDeliveriesServicer(
                keys=self._keys,
                store=self._webhooks,
                replaying=ReplayWebhooks(store=self._webhooks, clock=self._clock, on_due=self._webhook_worker.wake),
                clock=self._clock,
                on_due=self._webhook_worker.wake,
            ),
            server,
        )
        webhook_examples_service_pb2_grpc.add_WebhookExamplesServiceServicer_to_server(
            WebhookExamplesServicer(keys=self._keys, sending=self._examples), server
        )
        inbound_service_pb2_grpc.add_InboundServiceServicer_to_server(
            InboundServicer(keys=self._keys, replies=self._replies), server
        )
        opt_outs_service_pb2_grpc.add_OptOutsServiceServicer_to_server(
            OptOutsServicer(keys=self._keys, replies=self._replies), server
        )

    async def _take_reply(self, carrier: str, reply: CarrierReply) -> None:
        await self._receive_reply(carrier, reply)

    def _reply_window(self, message: Message) -> timedelta:
        owner = Owner(message.tenant_id, message.integration_id)
        return self._announcements.reply_window(owner) or self._default_reply_window

    async def problems(self) -> Sequence[str]:
        """Return what keeps messages from being taken or sent. Raises UnavailableError."""
        problems = [await self._schema.problem(), self._database.problem(), *self._report.problems()]
        return [problem for problem in problems if problem]

    async def status(self) -> operations_service_pb2.ServiceStatus:
        """Return how the queues and the carriers are. Raises UnavailableError."""
        return await self._report.status()

    async def start(self) -> None:
        """Begin to send."""
        # The first message asks where its events go, and is not to wait for a connection.
        self._integrations.get_state(try_to_connect=True)
        if self._database.is_exclusive:
            await self._store.release_leases(self._clock.now())
            await self._webhooks.release_leases(self._clock.now())
        await self._monitor.refresh()
        for carrier in self._carriers:
            await carrier.start(self._follow_up)
        await self._worker.start()
        self._dispatcher.open()
        await self._webhook_worker.start()
        await self._measuring.start()

    async def stop(self) -> None:
        """Finish what is in flight, then close carriers, channel and database."""
        await self._measuring.stop()
        self._dispatcher.close()
        await self._accepting.drain()  # what it stores may begin with that, and is then waited for like all else
        await asyncio.gather(self._worker.stop(self._drain_seconds), self._webhook_worker.stop(self._drain_seconds))
        for carrier in self._carriers:
            await carrier.stop()
        await self._accepting.drain()
        await self._follow_up.drain()
        await self._directory.close()
        self._egress.close()
        self._example_egress.close()
        await self._integrations.close()
        await self._database.close()


async def build(settings: DeliverySettings, clock: Clock) -> DeliveryService:
    """Build the service; raise SettingsError when its carriers can not be used or its schema is not current."""
    carriers = configured_carriers(settings, clock)
    database = maintenance.open_database(settings)
    try:
        await schema.require_usable(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
    except BaseException:
        await database.close()
        raise
    return DeliveryService(settings, database, carriers, clock)


def configured_carriers(settings: DeliverySettings, clock: Clock) -> Carriers:
    """Build the carriers of this installation; raise SettingsError when their file can not be used."""
    configured = carriers_file.load(
        settings.carriers,
        simulator_number=settings.simulator_number,
        public_url=settings.public_url,
        environment=os.environ,
        clock=clock,
    )
    for warning in configured.warnings:
        log.warning("carriers file", problem=warning)
    return Carriers(*configured.carriers, rules=configured.rules, routes=configured.routes)
