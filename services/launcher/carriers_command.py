"""`textway carriers`: check the file, try a definition or a carrier, and show how the running ones are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from servicekit import phone_numbers
from servicekit.clock import SystemClock
from servicekit.errors import ServiceError
from servicekit.ids import new_id
from servicekit.settings import load
from services.delivery.carriers.base import (
    Carrier,
    CarrierReceipt,
    CarrierReply,
    OutboundMessage,
    Refused,
    SendResult,
    Taken,
    TryLater,
    Unknown,
)
from services.delivery.carriers.http.definition import YamlError, load_definition, shipped
from services.delivery.carriers.http.model import Definition
from services.delivery.carriers.http.try_definition import Tried, fixtures_path, load_fixtures, try_definition
from services.delivery.installation import carriers_file
from services.delivery.installation.carriers_file import ConfiguredCarriers
from services.delivery.installation.file_items import nearest
from services.delivery.routing import CarrierRules, Route
from services.delivery.settings import DeliverySettings
from services.launcher import public_api
from services.launcher.tables import table

SEND_SECONDS: Final = 20.0


class CarrierCommandError(ServiceError):
    """What was asked for can not be done; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What to print, and whether all is well."""

    text: str
    is_good: bool = True


def read(file: Path | None = None) -> ConfiguredCarriers:
    """Return what a file says, or the one that the settings name; raise CarriersFileError."""
    settings = load(DeliverySettings)
    return carriers_file.load(
        file or settings.carriers,
        simulator_number=settings.simulator_number,
        public_url=settings.public_url,
        environment=os.environ,
        clock=SystemClock(),
    )


def check(file: Path | None) -> str:
    """Return the carriers, the routes and what is doubtful; raise CarriersFileError with everything that is wrong."""
    found = read(file)
    carriers = [_carrier_row(carrier, found) for carrier in found.carriers]
    routes = [_route_row(route) for route in found.routes]
    parts = [
        table(("carrier", "kind", "from", "capability", "limits"), carriers),
        table(("route", "for", "carriers", "failover", "from"), routes),
    ]
    if found.warnings:
        parts.append("\n".join(f"warning: {warning}" for warning in found.warnings))
    return "\n\n".join(parts)


def running() -> str:
    """Return how the carriers of the running product are."""
    carriers = public_api.call("/v1/carriers").get("carriers", [])
    heads = ("carrier", "kind", "state", "sent/min", "failed/min", "in flight", "limit", "last error")
    return table(heads, [_running_row(carrier) for carrier in carriers])


async def try_fixtures(name: str) -> Report:
    """Play the fixtures of a definition: of a carrier in the file, of a shipped one, or of a path. Nothing is sent."""
    try:
        definition = _definition(name)
        fixtures = load_fixtures(fixtures_path(definition.path or Path(definition.name)), definition.name)
    except YamlError as error:
        return Report(text="\n".join(f"{issue.path}: {issue.message}" for issue in error.issues), is_good=False)
    cases = await try_definition(definition, fixtures)
    lines = [_case_line(case) for case in cases]
    failed = sum(bool(case.problem) for case in cases)
    summary = f"{definition.name}: {len(cases)} cases, {failed} failed"
    return Report(text="\n".join([*lines, "", summary]), is_good=not failed)


def _case_line(case: Tried) -> str:
    if case.problem:
        return f"FAILED  {case.section}: {case.name}\n        {case.problem}"
    return f"ok      {case.section}: {case.name}"


def _definition(name: str) -> Definition:
    if "/" in name or name.endswith((".yaml", ".yml")):
        return load_definition(Path(name))
    found = read()
    if name in found.definitions:
        return found.definitions[name]
    if any(carrier.name == name for carrier in found.carriers):
        raise CarrierCommandError(f"{name} follows no definition, so that there are no fixtures to try: use --live")
    if name in shipped():
        return load_definition(shipped()[name])
    known = nearest(name, [*found.definitions, *shipped()])
    raise CarrierCommandError(f"there is no carrier and no definition `{name}`: {known}, or a path")


async def send_one(name: str, to: str, text: str) -> Report:
    """Send one real message through a carrier of the file; say what came back, within 20 s."""
    found = read()
    carrier = next((each for each in found.carriers if each.name == name), None)
    if carrier is None:
        known = ", ".join(each.name for each in found.carriers)
        raise CarrierCommandError(f"there is no carrier `{name}` to send with: there are {known}")
    try:
        number = phone_numbers.normalise(to)
    except phone_numbers.NotAPhoneNumberError as error:
        raise CarrierCommandError(f"nothing was sent: {to} can not be used, because {error}") from None
    message = OutboundMessage(
        message_id=new_id("msg", SystemClock().now()),
        attempt_number=1,
        to=number,
        sender=_sender(carrier, found.rules[name], number),
        text=text,
    )
    return _told(name, await _sent(carrier, message))


async def _sent(carrier: Carrier, message: OutboundMessage) -> SendResult:
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await carrier.start(_NobodyListens())
            return await carrier.send(message)
    except TimeoutError:
        return Unknown(detail=f"no answer within {SEND_SECONDS:g} s")
    finally:
        await carrier.stop()


class _NobodyListens:
    """Takes what comes later: receipts and replies belong to the running product."""

    async def receipt(self, carrier: str, receipt: CarrierReceipt) -> None:
        """Drop it."""

    async def reply(self, carrier: str, reply: CarrierReply) -> None:
        """Drop it."""


def _sender(carrier: Carrier, rules: CarrierRules, number: str) -> str:
    return rules.senders.get(phone_numbers.region_of(number), "") or carrier.sender


def _told(name: str, result: SendResult) -> Report:
    match result:
        case Taken():
            return Report(text=f"taken by {name} as {result.carrier_message_id}: {result.detail}")
        case Refused():
            said = f"refused by {name}: {result.failure.reason.code} ({result.failure.reason.sentence})"
        case TryLater():
            said = f"not taken by {name} just now: {result.failure.reason.code} ({result.failure.reason.sentence})"
        case Unknown():
            return Report(text=f"{name} may have it, or not: {result.detail}", is_good=False)
    code = f" The carrier's code is {result.failure.carrier_code}." if result.failure.carrier_code else ""
    return Report(text=f"{said}{code} {result.detail}".rstrip(), is_good=False)


def _carrier_row(carrier: Carrier, found: ConfiguredCarriers) -> tuple[str, ...]:
    definition = found.definitions.get(carrier.name)
    return (
        carrier.name,
        f"{carrier.kind} ({definition.name})" if definition else carrier.kind,
        carrier.sender or "-",
        carrier.capability.value,
        _limits(found.rules[carrier.name]),
    )


def _limits(rules: CarrierRules) -> str:
    said = [f"{rules.segments_per_second:g} segments/s" if rules.segments_per_second else ""]
    said.append(f"burst {rules.burst}" if rules.burst else "")
    said.append(f"{rules.sender_segments_per_second:g}/s a sender" if rules.sender_segments_per_second else "")
    said.append(f"{rules.in_flight} in flight" if rules.in_flight else "")
    return ", ".join(filter(None, said)) or "-"


def _route_row(route: Route) -> tuple[str, ...]:
    conditions = {
        "to": (*route.prefixes, *sorted(route.countries)),
        "integrations": sorted(route.integrations),
        "from": sorted(route.senders),
        "tags": sorted(route.tags),
    }
    said = [f"{name} {' '.join(values)}" for name, values in conditions.items() if values]
    weights = [f"{name} {weight}" if len(route.carriers) > 1 else name for name, weight in route.carriers.items()]
    return (
        route.name,
        ", ".join(said) or "every message",
        ", ".join(weights),
        ", ".join(route.failover) or "-",
        route.sender or "-",
    )


def _running_row(carrier: Mapping[str, Any]) -> tuple[str, ...]:
    definition, until = carrier.get("definition"), carrier.get("stateUntil")
    limit, now = carrier.get("limitSegmentsPerSecond") or 0, carrier.get("currentSegmentsPerSecond") or 0
    error = carrier.get("lastError") or {}
    return (
        str(carrier["name"]),
        f"{carrier['kind']} ({definition})" if definition else str(carrier["kind"]),
        f"{carrier['state']} until {until}" if until else str(carrier["state"]),
        str(carrier.get("sentLastMinute", 0)),
        str(carrier.get("failedLastMinute", 0)),
        str(carrier.get("inFlight", 0)),
        "-" if not limit else f"{limit:g}/s" if now == limit else f"{now:g} of {limit:g}/s",
        f"{error.get('at', '')} {error.get('code', '')}: {error.get('message', '')}" if error else "-",
    )
