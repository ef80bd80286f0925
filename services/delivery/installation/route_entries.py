"""Reads the `routes` of carriers.yaml: which message goes to which carriers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from servicekit.ids import is_id
from servicekit.phone_numbers import is_region
from servicekit.senders import RULE as SENDER_RULE
from servicekit.senders import is_sender
from services.delivery.installation.file_items import CheckedFile, Item, nearest
from services.delivery.routing import MAX_WEIGHT, Route

DEFAULT_ROUTE: Final = "default"
MAX_TAG_LENGTH: Final = 64

_NAME: Final = re.compile(r"[a-z0-9-]{1,32}")
_PREFIX: Final = re.compile(r"\+[1-9][0-9]{0,14}")
_CONDITIONS: Final = ("to", "integrations", "from", "tags")
_KEYS: Final = ("name", *_CONDITIONS, "carriers", "failover", "sender")


def read_routes(file: CheckedFile, carriers: Sequence[str]) -> tuple[Route, ...]:
    """Return the routes in their order, the last of which fits every message. What is wrong goes into `file`."""
    item = file.root.member("routes")
    routes: list[Route] = []
    sound: list[Route] = []  # of a route with a wrong condition nobody knows what it would fit
    for entry in item.entries() if item else []:
        problems = len(file.issues)
        route = _route(entry, carriers)
        _check_name_among(entry, route, routes)
        routes.append(route)
        if len(file.issues) == problems:
            _check_reached(entry, route, sound)
            sound.append(route)
    if not any(_fits_all(route) for route in routes):
        first, *others = carriers or ("",)
        routes.append(Route(name=DEFAULT_ROUTE, carriers={first: 1}, failover=tuple(others)))
    return tuple(routes)


def read_sender(item: Item | None) -> str:
    """Return a number or name to send from; empty when it is left out or wrong."""
    text = item.text() if item else None
    if item is None or text is None:
        return ""
    if not is_sender(text):
        item.refuse(SENDER_RULE)
        return ""
    return text


def read_country(item: Item, text: str) -> str | None:
    """Return a country's code; None when there is no such country."""
    if is_region(text):
        return text
    if is_region(text.upper()):
        item.refuse(f"`{text}` must be in capitals: {text.upper()}")
    else:
        item.refuse(f"`{text}` is no country: write its code of two letters (ISO 3166), such as SG")
    return None


def _route(entry: Item, known: Sequence[str]) -> Route:
    keys = entry.members(_KEYS)
    if not isinstance(entry.value, dict):
        keys = {}
    elif "carriers" not in keys:
        entry.refuse(f"is missing: name at least one of {', '.join(known)}", "carriers")
    to = keys["to"].members(("prefixes", "countries")) if "to" in keys else {}
    if "to" in keys and isinstance(keys["to"].value, dict) and not keys["to"].value:
        keys["to"].refuse("is empty: leave it out, or say `prefixes` or `countries`")
    carriers, rest = _carriers(keys.get("carriers"), known)
    failover = _members(keys.get("failover"), known)
    for name, item in failover.items():
        if name in carriers or name in rest:
            item.refuse(f"`{name}` is among the carriers of this route already")
    return Route(
        name=_name(entry, keys.get("name")),
        carriers=carriers,
        failover=(*rest, *(name for name in failover if name not in carriers and name not in rest)),
        sender=read_sender(keys.get("sender")),
        prefixes=tuple(_prefixes(to.get("prefixes"))),
        countries=frozenset(_countries(to.get("countries"))),
        integrations=frozenset(_integrations(keys.get("integrations"))),
        senders=frozenset(_senders(keys.get("from"))),
        tags=frozenset(_tags(keys.get("tags"))),
    )


def _name(entry: Item, item: Item | None) -> str:
    if item is None:
        if isinstance(entry.value, dict):
            entry.refuse("is missing: give the route a name, for timelines and figures", "name")
        return ""
    name = item.text() or ""
    if name and not _NAME.fullmatch(name):
        item.refuse("must be 1 to 32 lower-case letters, digits and hyphens")
    return name


def _carriers(item: Item | None, known: Sequence[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return weights, and who comes after them."""
    if item is None:
        return {}, ()
    if isinstance(item.value, list):
        first, *rest = _members(item, known) or ("",)
        return {first: 1}, tuple(rest)
    weights: dict[str, int] = {}
    for name, member in item.members().items():
        _check_known(member, name, known)
        weight = member.number(1, MAX_WEIGHT, whole=True)
        weights[name] = int(weight or 1)
    if isinstance(item.value, dict) and not weights:
        item.refuse(f"is empty: name at least one of {', '.join(known)}")
    return weights, ()


def _members(item: Item | None, known: Sequence[str]) -> Mapping[str, Item]:
    found = item.distinct_texts() if item else {}
    for name, entry in found.items():
        _check_known(entry, name, known)
    return found


def _check_known(item: Item, name: str, known: Sequence[str]) -> None:
    if name not in known:
        item.refuse(f"there is no carrier `{name}`: {nearest(name, known)}")


def _prefixes(item: Item | None) -> list[str]:
    found = item.distinct_texts() if item else {}
    for text, entry in found.items():
        if not _PREFIX.fullmatch(text):
            entry.refuse('must be the beginning of a number with its plus sign, such as "+65"')
    return list(found)


def _countries(item: Item | None) -> list[str]:
    found = item.distinct_texts() if item else {}
    return [code for text, entry in found.items() if (code := read_country(entry, text))]


def _integrations(item: Item | None) -> list[str]:
    found = item.distinct_texts() if item else {}
    for text, entry in found.items():
        if not is_id(text, "wkh"):
            entry.refuse("must be an integration's id, `wkh_` and 26 characters, as `GET /v1/ingress` shows it")
    return list(found)


def _senders(item: Item | None) -> list[str]:
    found = item.distinct_texts() if item else {}
    return [text for text, entry in found.items() if read_sender(entry)]


def _tags(item: Item | None) -> list[str]:
    found = item.distinct_texts() if item else {}
    for text, entry in found.items():
        if len(text) > MAX_TAG_LENGTH:
            entry.refuse(f"has {len(text)} characters: a tag has at most {MAX_TAG_LENGTH}")
    return list(found)


def _check_name_among(entry: Item, route: Route, before: Sequence[Route]) -> None:
    name = entry.member("name") or entry
    if route.name and any(route.name == other.name for other in before):
        name.refuse(f"there is a route `{route.name}` already: give this one a name of its own")
    if route.name == DEFAULT_ROUTE and not _fits_all(route):
        name.refuse("is the name of the route that takes what no other does: give this one another name")


def _check_reached(entry: Item, route: Route, before: Sequence[Route]) -> None:
    for other in before:
        if _covers(other, route):
            entry.refuse(f"no message can reach it: all that fit it are taken by route `{other.name}` before")
            return


def _fits_all(route: Route) -> bool:
    return not (route.prefixes or route.countries or route.integrations or route.senders or route.tags)


def _covers(wide: Route, narrow: Route) -> bool:
    """Tell whether every message that fits `narrow` fits `wide`, as far as the conditions alone show it."""
    prefixes = not wide.prefixes or (
        bool(narrow.prefixes) and all(prefix.startswith(wide.prefixes) for prefix in narrow.prefixes)
    )
    sets = (
        (wide.countries, narrow.countries),
        (wide.integrations, narrow.integrations),
        (wide.senders, narrow.senders),
        (wide.tags, narrow.tags),
    )
    return prefixes and all(not one or (bool(other) and other <= one) for one, other in sets)
