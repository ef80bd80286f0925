"""Reads the `carriers` of carriers.yaml: what each is, how it is reached, and how much it may be sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from servicekit.errors import ValidationError
from services.delivery.carriers.base import Capability, Carrier
from services.delivery.carriers.http.carrier import HttpCarrier
from services.delivery.carriers.http.definition import Installation, load_definition, shipped
from services.delivery.carriers.http.model import Definition
from services.delivery.carriers.simulator import Simulator
from services.delivery.installation.carrier_settings import Surroundings, definition_settings, smpp_link
from services.delivery.installation.file_items import Item, nearest
from services.delivery.installation.route_entries import read_country, read_sender
from services.delivery.routing import CarrierRules

MAX_SEGMENTS_PER_SECOND: Final = 100_000.0
LEAST_SEGMENTS_PER_SECOND: Final = 0.01
MAX_BURST: Final = 100_000
MAX_IN_FLIGHT: Final = 10_000

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_KINDS: Final = ("definition", "smpp", "simulator")
_KEYS: Final = (*_KINDS, "from", "from_by_country", "settings", "capability", "limits")


@dataclass(frozen=True, kw_only=True)
class CarrierEntry:
    """One carrier; None when something is wrong with it."""

    carrier: Carrier | None
    rules: CarrierRules
    definition: Definition | None = None  # None for what is not HTTP


def read_carrier(name: str, item: Item, surroundings: Surroundings) -> CarrierEntry:
    """Return one carrier, not started. What is wrong is remembered with `item`."""
    if not _NAME.fullmatch(name):
        item.refuse("a carrier's name is 1 to 32 lower-case letters, digits and hyphens, not a hyphen first")
    keys = item.members(_KEYS)
    rules = _rules(keys)
    sender = read_sender(keys.get("from"))
    kinds = [kind for kind in _KINDS if kind in keys]
    if len(kinds) != 1:
        if isinstance(item.value, dict):
            item.refuse(f"has {' and '.join(kinds) or 'no kind'}: write one of {', '.join(_KINDS)}")
        return CarrierEntry(carrier=None, rules=rules)
    if kinds == ["definition"]:
        return _http(name, sender, item, rules, surroundings)
    for key in ("settings", "capability"):
        if key in keys:
            keys[key].refuse(f"belongs to a carrier with a `definition`, and this one has `{kinds[0]}`: leave it out")
    make = _simulator if kinds == ["simulator"] else _smpp
    return make(name, sender, keys[kinds[0]], rules, surroundings)


def _http(name: str, sender: str, item: Item, rules: CarrierRules, surroundings: Surroundings) -> CarrierEntry:
    keys = item.members()
    capability = keys["capability"].word([each.value for each in Capability]) if "capability" in keys else None
    definition = _definition(keys["definition"], surroundings.folder)
    if definition is None:
        return CarrierEntry(carrier=None, rules=rules)
    rules = _with_limits(rules, definition.limits.segments_per_second, definition.limits.in_flight)
    problems = item.count_issues()
    settings = definition_settings(item, definition, surroundings)
    if item.count_issues() > problems:
        return CarrierEntry(carrier=None, rules=rules)
    installation = Installation(
        name=name,
        sender=sender,
        settings=settings,
        capability=Capability(capability) if capability else None,
        public_url=surroundings.public_url,
    )
    if (definition.status_callback or definition.inbound_callback) and _is_here(surroundings.public_url):
        item.doubt(f"calls back to {surroundings.public_url}, which only this machine reaches: set TEXTWAY_PUBLIC_URL")
    carrier = HttpCarrier(definition, installation, surroundings.clock)
    return CarrierEntry(carrier=carrier, rules=rules, definition=definition)


def _definition(item: Item, folder: Path) -> Definition | None:
    wanted = item.text()
    if wanted is None:
        return None
    own, is_own = folder / wanted, "/" in wanted or wanted.endswith((".yaml", ".yml"))
    if not is_own and wanted not in shipped():
        item.refuse(f"there is no definition `{wanted}`: {nearest(wanted, shipped())}, or the path of your own `.yaml`")
        return None
    try:
        return load_definition(own if is_own else shipped()[wanted])
    except ValidationError as error:
        item.refuse_all(error.issues)
        return None


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def _simulator(name: str, sender: str, item: Item, rules: CarrierRules, surroundings: Surroundings) -> CarrierEntry:
    item.members(())
    return CarrierEntry(carrier=Simulator(sender or surroundings.simulator_number, name=name), rules=rules)


def _smpp(name: str, sender: str, item: Item, rules: CarrierRules, surroundings: Surroundings) -> CarrierEntry:
    from services.delivery.carriers.smpp.carrier import SmppCarrier  # noqa: PLC0415  # its codec is for who has one

    link = smpp_link(name, sender, item, surroundings)
    if link is None:
        return CarrierEntry(carrier=None, rules=rules)
    # More calls than the window has places would wait for each other, and their deadlines run.
    rules = _with_limits(rules, None, link.window)
    try:
        return CarrierEntry(carrier=SmppCarrier(link, surroundings.clock), rules=rules)
    except ValidationError as error:
        item.refuse_members(error.issues)
        return CarrierEntry(carrier=None, rules=rules)


def _rules(keys: Mapping[str, Item]) -> CarrierRules:
    limits = keys["limits"].members(_LIMITS) if "limits" in keys else {}
    found = {name: _LIMITS[name](item) for name, item in limits.items()}
    rate, burst, in_flight = found.get("segments_per_second"), found.get("burst"), found.get("in_flight")
    if "burst" in limits and "segments_per_second" not in limits:
        limits["burst"].refuse("means nothing without `segments_per_second`: write that too, or leave this out")
    return CarrierRules(
        segments_per_second=rate,
        burst=int(burst or 0),
        sender_segments_per_second=found.get("sender_segments_per_second"),
        in_flight=int(in_flight) if in_flight else None,
        senders=_senders(keys.get("from_by_country")),
    )


def _with_limits(rules: CarrierRules, segments_per_second: float | None, in_flight: int | None) -> CarrierRules:
    """Return rules with the limits of the carrier's kind where the installation says nothing."""
    return replace(
        rules,
        segments_per_second=rules.segments_per_second or segments_per_second,
        in_flight=rules.in_flight or in_flight,
    )


def _rate(item: Item) -> float | None:
    return item.number(LEAST_SEGMENTS_PER_SECOND, MAX_SEGMENTS_PER_SECOND)


_LIMITS: Final[Mapping[str, Callable[[Item], float | None]]] = {
    "segments_per_second": _rate,
    "burst": lambda item: item.number(0, MAX_BURST, whole=True),
    "sender_segments_per_second": _rate,
    "in_flight": lambda item: item.number(1, MAX_IN_FLIGHT, whole=True),
}


def _senders(item: Item | None) -> dict[str, str]:
    found = item.members() if item else {}
    if item is not None and item.value == {}:
        item.refuse('is empty: leave it out, or write `{US: "+15005550006"}`')
    return {code: read_sender(each) for name, each in found.items() if (code := read_country(each, name))}
