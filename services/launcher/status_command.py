"""`textway status`: every replica, the gateway, the queue, the webhooks and the carriers, for people and machines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from servicekit.settings import load
from services.launcher.replicas import Replica, all_replicas
from services.launcher.settings import StatusSettings
from services.launcher.tables import table
from textway.operations.v1 import operations_service_pb2 as operations_v1

# The worst first: replicas may have noticed at different moments.
_STATES: Final = ("open", "probing", "throttled", "healthy")
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, kw_only=True)
class Report:
    """What all replicas say, put together."""

    data_dir: Path
    replicas: Sequence[Replica]  # none when nothing runs with this data folder
    messages: operations_v1.MessageQueue | None  # None when no Delivery can tell
    webhooks: operations_v1.WebhookQueue | None
    disabled_webhooks: int | None
    carriers: Sequence[operations_v1.Carrier]

    @property
    def is_ready(self) -> bool:
        """Whether something runs, and every replica can take work."""
        return bool(self.replicas) and all(replica.is_ready for replica in self.replicas)


async def ask() -> Report:
    """Ask every replica."""
    settings = load(StatusSettings)
    return put_together(settings.data_dir.absolute(), await all_replicas(settings))


def put_together(data_dir: Path, replicas: Sequence[Replica]) -> Report:
    """Return one report: what is shared comes from any replica that tells it, and what each counts is summed."""
    told = [replica.status for replica in replicas if replica.status]
    return Report(
        data_dir=data_dir,
        replicas=replicas,
        messages=next((each.messages for each in told if each.HasField("messages")), None),
        webhooks=next((each.webhooks for each in told if each.HasField("webhooks")), None),
        disabled_webhooks=next((each.disabled_webhooks for each in told if each.HasField("disabled_webhooks")), None),
        carriers=_summed(carrier for each in told for carrier in each.carriers),
    )


def _summed(carriers: Iterable[operations_v1.Carrier]) -> list[operations_v1.Carrier]:
    by_name: dict[str, operations_v1.Carrier] = {}
    for carrier in carriers:
        known = by_name.get(carrier.name)
        if known is None:
            by_name[carrier.name] = carrier
            continue
        known.state = min(known.state, carrier.state, key=_STATES.index)
        known.sent_last_minute += carrier.sent_last_minute
        known.failed_last_minute += carrier.failed_last_minute
        known.in_flight += carrier.in_flight
        known.last_error = known.last_error or carrier.last_error
    return list(by_name.values())


def as_text(report: Report) -> str:
    """Return what a person reads."""
    if not report.replicas:
        return f"No `textway up` runs with the data folder {report.data_dir} (TEXTWAY_DATA_DIR)."
    heads = ("service", "address", "state", "version", "up for")
    parts = [_verdict(report), table(heads, [_replica_row(replica) for replica in report.replicas])]
    if report.messages is not None:
        parts.append(f"queue     {_queue_line(report.messages)}\nwebhooks  {_webhooks_line(report)}")
    if report.carriers:
        carrier_heads = ("carrier", "kind", "state", "sent/min", "failed/min", "in flight", "last error")
        parts.append(table(carrier_heads, [_carrier_row(carrier) for carrier in report.carriers]))
    return "\n\n".join(parts)


def as_json(report: Report) -> str:
    """Return what a machine reads; counts are numbers, and what nobody could tell is null."""
    answer: dict[str, Any] = {
        "ready": report.is_ready,
        "replicas": [
            {
                "service": replica.service,
                "address": replica.address,
                "ready": replica.is_ready,
                "problem": replica.problem,
                "version": replica.version,
                "upSeconds": round(replica.up_seconds, 1),
            }
            for replica in report.replicas
        ],
        "queue": _fields(report.messages),
        "webhooks": _fields(report.webhooks),
        "disabledWebhooks": report.disabled_webhooks,
        "carriers": [_fields(carrier) for carrier in report.carriers],
    }
    return json.dumps(answer, indent=2)


def _fields(
    message: operations_v1.MessageQueue | operations_v1.WebhookQueue | operations_v1.Carrier | None,
) -> dict[str, Any] | None:
    if message is None:
        return None
    return MessageToDict(message, always_print_fields_with_no_presence=True)


def _verdict(report: Report) -> str:
    lacking = [replica for replica in report.replicas if not replica.is_ready]
    if not lacking:
        return "Textway is ready."
    return "\n".join(f"{each.service} at {each.address}: {each.problem}" for each in lacking)


def _replica_row(replica: Replica) -> tuple[str, ...]:
    if not replica.is_answering:
        return (replica.service, replica.address, "not answering", "-", "-")
    state = "ready" if replica.is_ready else "not ready"
    return (replica.service, replica.address, state, replica.version, _duration(replica.up_seconds))


def _queue_line(queue: operations_v1.MessageQueue) -> str:
    counts = f"{queue.ready:,} ready, {queue.waiting:,} put off, {queue.in_hand:,} being sent"
    return f"{counts}; the oldest is late by {_duration(queue.late_seconds)}" if queue.late_seconds >= 1 else counts


def _webhooks_line(report: Report) -> str:
    webhooks = report.webhooks or operations_v1.WebhookQueue()
    said = [f"{webhooks.pending:,} pending", f"{_counted(webhooks.failing_endpoints, 'endpoint')} failing"]
    if report.disabled_webhooks is not None:
        said.append(f"{_counted(report.disabled_webhooks, 'URL')} disabled")
    return ", ".join(said)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _carrier_row(carrier: operations_v1.Carrier) -> tuple[str, ...]:
    return (
        carrier.name,
        carrier.kind,
        carrier.state,
        str(carrier.sent_last_minute),
        str(carrier.failed_last_minute),
        str(carrier.in_flight),
        carrier.last_error or "-",
    )


def _duration(seconds: float) -> str:
    """Return the two greatest units: `3 h 2 min`."""
    left = round(seconds)
    said = []
    for length, unit in _UNITS:
        if left >= length:
            said.append(f"{left // length} {unit}")
            left %= length
    return " ".join(said[:2]) or "0 s"
