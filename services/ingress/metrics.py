"""What Ingress counts and measures, beside what is measured of any service (`servicekit.metrics`)."""

from __future__ import annotations

from functools import cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from servicekit.metrics import SHORT_SECONDS

ACCEPT_SECONDS: Final = Histogram(
    "textway_ingress_accept_duration_seconds",
    "From a payload to its message being on disk, for payloads that were accepted.",
    buckets=SHORT_SECONDS,
)
PAYLOADS: Final = Counter("textway_ingress_payloads_accepted_total", "Payloads that were accepted.", ["result"])
INTEGRATIONS: Final = Gauge("textway_ingress_integrations", "Integrations that this process knows.")
WATCH_LIVE: Final = Gauge("textway_ingress_watch_live", "1 while Integrations keeps this process's copy fresh, else 0.")

# Finding a child by its labels takes longer than counting: each is looked up once.
payloads = cache(PAYLOADS.labels)
