"""What Delivery counts and measures, beside what is measured of any service (`servicekit.metrics`).

A label is a configured name (a carrier, a route) or a word of ours, so that there are few series.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from servicekit.metrics import SHORT_SECONDS

_CALL_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
_LAG_SECONDS: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0)

ACCEPT_SECONDS: Final = Histogram(
    "textway_delivery_accept_duration_seconds",
    "From a call with messages to these being on disk.",
    buckets=SHORT_SECONDS,
)
ACCEPTED: Final = Counter("textway_delivery_messages_accepted_total", "Messages that were taken in.", ["result"])

ATTEMPTS: Final = Counter(
    "textway_delivery_attempts_total", "Attempts to hand a message to a carrier, by outcome.", ["carrier", "outcome"]
)
ATTEMPT_SECONDS: Final = Histogram(
    "textway_delivery_attempt_duration_seconds",
    "How long a carrier took to answer.",
    ["carrier"],
    buckets=_CALL_SECONDS,
)
IN_FLIGHT: Final = Gauge(
    "textway_delivery_carrier_calls_in_flight", "Calls to a carrier that are under way.", ["carrier"]
)
BREAKER_OPEN: Final = Gauge(
    "textway_delivery_carrier_breaker_open", "1 while a carrier fails and gets no messages, else 0.", ["carrier"]
)
THROTTLED: Final = Gauge(
    "textway_delivery_carrier_throttled", "1 while a carrier gets less because it asked for less, else 0.", ["carrier"]
)

QUEUE: Final = Gauge(
    "textway_delivery_queue_messages",
    "Messages in the due-queue: ready for a carrier, waiting for their time, or in hand; each counted up to 250,000.",
    ["state"],
)
QUEUE_AGE: Final = Gauge(
    "textway_delivery_queue_oldest_age_seconds", "How long the message has been due that is due for longest."
)
WEBHOOK_QUEUE: Final = Gauge(
    "textway_delivery_webhook_queue_deliveries", "Webhook deliveries that are still to be made, counted up to 250,000."
)
WEBHOOKS_FAILING: Final = Gauge(
    "textway_delivery_webhook_endpoints_failing", "Webhook endpoints whose last calls have all failed."
)
SAMPLED: Final = Gauge(
    "textway_delivery_queue_sample_timestamp_seconds", "When the queues were last counted, in seconds since 1970."
)

RECEIPTS: Final = Counter("textway_delivery_receipts_total", "Receipts, by what came of them.", ["carrier", "result"])
RECEIPT_LAG: Final = Histogram(
    "textway_delivery_receipt_lag_seconds",
    "From a carrier taking a message to its receipt that ends the message.",
    ["carrier"],
    buckets=_LAG_SECONDS,
)
REPLIES: Final = Counter(
    "textway_delivery_replies_total", "Inbound messages that were new, by whether they answer a message.", ["answers"]
)

WEBHOOKS: Final = Counter(
    "textway_delivery_webhook_attempts_total", "Attempts to bring an event to a webhook, by outcome.", ["outcome"]
)
WEBHOOK_SECONDS: Final = Histogram(
    "textway_delivery_webhook_duration_seconds", "How long a webhook's endpoint took to answer.", buckets=_CALL_SECONDS
)

# Finding a child by its labels takes longer than counting: each is looked up once.
accepted = cache(ACCEPTED.labels)
attempts = cache(ATTEMPTS.labels)
attempt_seconds = cache(ATTEMPT_SECONDS.labels)
receipts = cache(RECEIPTS.labels)
receipt_lag = cache(RECEIPT_LAG.labels)
replies = cache(REPLIES.labels)
webhooks = cache(WEBHOOKS.labels)
