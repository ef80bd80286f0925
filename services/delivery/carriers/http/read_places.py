"""The places, verdicts and receipts of a definition from their sections.

Nothing here raises: what is wrong is told to the section, and something harmless stands in for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from servicekit.json_paths import PathError
from services.delivery.carriers.base import FailureReason, Status
from services.delivery.carriers.http.model import OutcomeWord, ReceiptPlaces, ReceiptStatus, Verdict
from services.delivery.carriers.http.places import (
    Expectation,
    Format,
    Place,
    Places,
    Source,
    in_headers,
    in_json,
    in_members,
    in_text,
)
from services.delivery.carriers.yaml_section import Section

# What no carrier's word can mean: it is for a carrier that said nothing.
_NOT_FOR_CARRIERS: Final = frozenset({FailureReason.NO_ANSWER})
REASONS: Final = {reason.code: reason for reason in FailureReason if reason not in _NOT_FOR_CARRIERS}
OUTCOMES: Final = {word.value: word for word in OutcomeWord}
RECEIPT_STATUSES: Final[Mapping[str, Status | None]] = {
    "sent": Status.SENT,
    "delivered": Status.DELIVERED,
    "undelivered": Status.UNDELIVERED,
    "ignore": None,
}
HTTP_STATUS: Final = re.compile(r"[1-5][0-9]{2}|[1-5]xx")
LONGEST_WAIT_SECONDS: Final = 86_400


def read_places(section: Section, key: str, form: Format, *, required: bool = False) -> Places:
    """Return the places in a member, of which the first that has anything counts."""
    value = section.get(key, required=required)
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    paths = [(key, index) for index in range(len(values))] if isinstance(value, list) else [(key,)]
    found = [_place(section, each, form, *path) for each, path in zip(values, paths, strict=True)]
    return tuple(place for place in found if place)


def _place(section: Section, value: object, form: Format, *path: str | int) -> Place | None:
    if isinstance(value, str):
        return _body_place(section, value, form, None, *path)
    members = value if isinstance(value, dict) else {}
    sources = [source for source in Source if isinstance(members.get(source.value), str)]
    if len(sources) != 1 or not members.keys() <= {sources[0].value, "match"}:
        section.refuse("must be a text, or {body|query|header: …} with an optional `match`", *path)
        return None
    match = _pattern(section, members["match"], *path, "match") if "match" in members else None
    source, name = sources[0], str(members[sources[0].value])
    if source is Source.BODY:
        return _body_place(section, name, form, match, *path, "body")
    return Place(source=source, find=in_members(name) if source is Source.QUERY else in_headers(name), match=match)


def _body_place(
    section: Section, text: str, form: Format, match: re.Pattern[str] | None, *path: str | int
) -> Place | None:
    if form is Format.TEXT:
        pattern = _pattern(section, text, *path)
        return Place(source=Source.BODY, find=in_text(pattern), match=match) if pattern else None
    if form is Format.JSON:
        try:
            return Place(source=Source.BODY, find=in_json(text), match=match)
        except PathError as error:
            section.refuse(f"is no path into JSON: it {error}", *path)
            return None
    return Place(source=Source.QUERY if form is Format.QUERY else Source.BODY, find=in_members(text), match=match)


def _pattern(section: Section, text: object, *path: str | int) -> re.Pattern[str] | None:
    try:
        pattern = re.compile(str(text))
    except re.error as error:
        section.refuse(f"is no regular expression: {error}", *path)
        return None
    if not pattern.groups:
        section.refuse("needs a group in parentheses: it is the value", *path)
        return None
    return pattern


def read_expectations(section: Section, key: str, form: Format) -> tuple[Expectation, ...]:
    """Return what places must hold."""
    inner = section.section(key)
    expectations = []
    for place in inner.names() if inner else ():
        found = _place(section, place, form, key, place)
        accepted = frozenset(inner.texts(place)) if inner else frozenset()
        if found:
            expectations.append(Expectation(places=(found,), accepted=accepted))
    return tuple(expectations)


def read_verdicts(section: Section, key: str, *, of_statuses: bool) -> dict[str, Verdict]:
    """Return what codes mean, by a reason or more; or what HTTP statuses mean, by an outcome or more."""
    inner = section.section(key)
    verdicts = {}
    for word in inner.names() if inner else ():
        if of_statuses and not HTTP_STATUS.fullmatch(word):
            section.refuse("must be an HTTP status such as 429 or a class such as 5xx", key, word)
        if inner:
            verdicts[word] = _verdict(inner, word, of_statuses=of_statuses)
    return verdicts


def _verdict(section: Section, key: str, *, of_statuses: bool) -> Verdict:
    if not isinstance(section.get(key), dict):
        if of_statuses:
            return Verdict(outcome=section.choice(key, OUTCOMES, None))
        return Verdict(reason=section.choice(key, REASONS, None))
    inner = section.section(key)
    if inner is None:
        return Verdict()
    verdict = Verdict(
        outcome=inner.choice("outcome", OUTCOMES, None),
        reason=inner.choice("reason", REASONS, None),
        after_seconds=inner.number("after_seconds", least=0, most=LONGEST_WAIT_SECONDS),
    )
    inner.close()
    return verdict


def read_receipt(section: Section, form: Format) -> ReceiptPlaces:
    """Return how a receipt reads. The section is left open for its other members."""
    return ReceiptPlaces(
        status=read_places(section, "status", form, required=True),
        statuses=_receipt_statuses(section),
        message_id=read_places(section, "message_id", form),
        carrier_message_id=read_places(section, "carrier_message_id", form),
        code=read_places(section, "code", form),
        detail=read_places(section, "detail", form),
        codes=_receipt_codes(section),
    )


def _receipt_statuses(section: Section) -> dict[str, ReceiptStatus]:
    section.get("statuses", required=True)
    inner = section.section("statuses")
    statuses = {}
    for word in inner.names() if inner else ():
        if inner and isinstance(inner.get(word), dict):
            item = inner.section(word)
            if item:
                status = item.choice("status", RECEIPT_STATUSES, None)
                statuses[word] = ReceiptStatus(status=status, reason=item.choice("reason", REASONS, None))
                item.close()
        elif inner:
            statuses[word] = ReceiptStatus(status=inner.choice(word, RECEIPT_STATUSES, None))
    return statuses


def _receipt_codes(section: Section) -> dict[str, FailureReason]:
    inner = section.section("codes")
    found = {code: inner.choice(code, REASONS, None) for code in inner.names()} if inner else {}
    return {code: reason for code, reason in found.items() if reason}
