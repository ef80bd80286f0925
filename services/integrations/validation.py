"""The rules for what a user may save, as pure functions. Every wrong field is listed, not only the first."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from servicekit import senders
from servicekit.egress_urls import PUBLIC_ONLY, EgressPolicy
from servicekit.errors import Issue, ValidationError
from servicekit.ids import is_id
from servicekit.json_paths import PathError, compile_path
from servicekit.phone_numbers import is_region
from services.integrations import outbound_rules
from services.integrations.domain import (
    DEDUPE_MODES,
    DEFAULT_DEDUPE_SECONDS,
    NO_DEDUPE,
    ON_OVERFLOW,
    ON_UNKNOWN,
    PRIORITIES,
    TENANT_PREFIX,
    Dedupe,
    IntegrationChanges,
    Preset,
)
from services.integrations.load_presets import DEFAULT_PRESET
from services.integrations.webhooks import DEFAULT_EVENTS

MAX_NAME_LENGTH: Final = 100
MIN_SECRET_LENGTH: Final = 8
MAX_SECRET_LENGTH: Final = 256
MAX_HEADER_LENGTH: Final = 64
MAX_DEDUPE_SECONDS: Final = 2_592_000
MAX_TAG_LENGTH: Final = 64
MAX_SEGMENTS: Final = 20

# What gRPC carries of what HTTP allows (RFC 9110, section 5.6.2): the gateway drops headers of other names.
_HEADER_NAME: Final = re.compile(r"[\-._0-9A-Za-z]+")
# A signature in one of these would be read, changed or dropped by whatever stands between sender and service.
_TAKEN_HEADERS: Final = frozenset(
    (
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "idempotency-key",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
        "webhook-id",
        "x-request-id",
    )
)
_TAKEN_HEADER_PREFIXES: Final = ("x-envoy-", "x-forwarded-", "x-textway-", "grpc-")
# Joiners hold emoji and several scripts together; other format characters can make one name look like another.
_JOINERS: Final = "\u200c\u200d"


@dataclass(frozen=True, kw_only=True)
class _Field:
    json_name: str
    check: Callable[[str], str]


class _WrongError(ValueError):
    """A value can not be used; the message follows the field's name."""


def new_integration(
    asked: IntegrationChanges, presets: Mapping[str, Preset], replies_to: EgressPolicy = PUBLIC_ONLY
) -> IntegrationChanges:
    """Return a whole integration: what was asked for, and the preset's default for the rest.

    A signing secret that was left out stays None, which makes a new integration unsigned and lets a replaced one keep
    what it has. `replies_to` says what an outbound URL may lead to; its name is not looked up. Raises ValidationError.
    """
    asked = replace(asked, name=asked.name or "")
    issues: list[Issue] = []
    preset = presets.get(DEFAULT_PRESET if asked.preset is None else asked.preset)
    if preset is None:
        issues.append(Issue(path="preset", message=_one_of(sorted(presets))))
    checked = _check_fields(asked, replies_to, issues)
    if preset is None or issues:
        raise ValidationError(issues)
    return IntegrationChanges(
        name=checked.name,
        preset=preset.name,
        to_path=preset.to_path if checked.to_path is None else checked.to_path,
        text_path=preset.text_path if checked.text_path is None else checked.text_path,
        ref_path=preset.ref_path if checked.ref_path is None else checked.ref_path,
        for_each=checked.for_each or "",
        signing_secret=checked.signing_secret,
        signing_header=preset.signing_header if checked.signing_header is None else checked.signing_header,
        outbound_url=checked.outbound_url or "",
        default_region=checked.default_region or "",
        priority=preset.priority if checked.priority is None else checked.priority,
        on_unknown=preset.on_unknown if checked.on_unknown is None else checked.on_unknown,
        dedupe=checked.dedupe or NO_DEDUPE,
        sender=checked.sender or "",
        tag=checked.tag or "",
        max_segments=checked.max_segments or 0,
        on_overflow=checked.on_overflow or ON_OVERFLOW[0],
        outbound_events=checked.outbound_events or DEFAULT_EVENTS,
        outbound_enabled=checked.outbound_enabled is not False,
        reply_window_seconds=checked.reply_window_seconds or 0,
        signing_secret_overlap_seconds=checked.signing_secret_overlap_seconds,
    )


def changed_fields(asked: IntegrationChanges, replies_to: EgressPolicy = PUBLIC_ONLY) -> IntegrationChanges:
    """Return only what was asked for, in the form in which it is kept; raise ValidationError."""
    issues: list[Issue] = []
    checked = _check_fields(asked, replies_to, issues)
    if issues:
        raise ValidationError(issues)
    return checked


def _check_fields(asked: IntegrationChanges, replies_to: EgressPolicy, issues: list[Issue]) -> IntegrationChanges:
    """Return the fields as they are kept, and add an issue for each that is wrong."""
    checked: dict[str, Any] = {}  # Any: mypy would hold every field to one type
    for attribute, field in _FIELDS.items():
        value: str | None = getattr(asked, attribute)
        if value is None:
            continue
        try:
            checked[attribute] = field.check(value)
        except _WrongError as error:
            issues.append(Issue(path=field.json_name, message=str(error)))
    dedupe = None if asked.dedupe is None else _check_dedupe(asked.dedupe, issues)
    _check_max_segments(asked.max_segments, issues)
    events = _check_outbound(asked, replies_to, issues)
    return replace(asked, **checked, dedupe=dedupe, outbound_events=events)


def _check_dedupe(asked: Dedupe, issues: list[Issue]) -> Dedupe:
    """Return the rule with its defaults filled in, and add an issue for each part that is wrong."""
    if asked == NO_DEDUPE:
        return NO_DEDUPE
    seconds = asked.window_seconds or DEFAULT_DEDUPE_SECONDS
    mode = asked.mode or DEDUPE_MODES[0]
    try:
        _dedupe_key(asked.key)
    except _WrongError as error:
        issues.append(Issue(path="dedupe.key", message=str(error)))
    if not 1 <= seconds <= MAX_DEDUPE_SECONDS:
        issues.append(Issue(path="dedupe.windowSeconds", message=f"must be 1 to {MAX_DEDUPE_SECONDS}, not {seconds}"))
    if mode not in DEDUPE_MODES:
        issues.append(Issue(path="dedupe.mode", message=_one_of(DEDUPE_MODES)))
    return Dedupe(key=asked.key, window_seconds=seconds, mode=mode)


def _check_outbound(asked: IntegrationChanges, policy: EgressPolicy, issues: list[Issue]) -> tuple[str, ...] | None:
    """Return the outbound events as they are kept, and add an issue for each field that is wrong."""
    if asked.outbound_url:
        outbound_rules.check_url_form("outboundUrl", asked.outbound_url, policy, issues)
    outbound_rules.check_reply_window("replyWindowSeconds", asked.reply_window_seconds, issues)
    outbound_rules.check_overlap("signingSecretOverlapSeconds", asked.signing_secret_overlap_seconds, issues)
    if not asked.outbound_events:
        return None
    return outbound_rules.check_events("outboundEvents", asked.outbound_events, issues)


def _check_max_segments(asked: int | None, issues: list[Issue]) -> None:
    if asked is not None and not 0 <= asked <= MAX_SEGMENTS:
        issues.append(Issue(path="maxSegments", message=f"must be 1 to {MAX_SEGMENTS}, or 0 for no limit, not {asked}"))


def _dedupe_key(value: str) -> str:
    if not value.strip():
        # Whoever names only the window means to change it, and would lose the whole rule.
        raise _WrongError("may not be empty beside the others: send the whole rule, or `{}` to remove it")
    return _path(value)


def _name(value: str) -> str:
    name = value.strip()
    if not name or len(name) > MAX_NAME_LENGTH or all(character in _JOINERS for character in name):
        raise _WrongError(f"must be 1 to {MAX_NAME_LENGTH} characters")
    for character in name:
        if not (character.isprintable() or unicodedata.category(character) == "Zs" or character in _JOINERS):
            raise _WrongError(f"must be printable: U+{ord(character):04X} is not")
    return name


def _required_path(value: str) -> str:
    if not value.strip():
        raise _WrongError("may not be empty: it says where in the payload to look")
    return _path(value)


def _optional_path(value: str) -> str:
    return _path(value) if value.strip() else ""


def _path(value: str) -> str:
    try:
        return compile_path(value).text
    except PathError as error:
        raise _WrongError(str(error)) from None


def _signing_secret(value: str) -> str:
    # Never the value or a part of it: this sentence is logged and answered.
    if value and not MIN_SECRET_LENGTH <= len(value) <= MAX_SECRET_LENGTH:
        raise _WrongError(f"must be {MIN_SECRET_LENGTH} to {MAX_SECRET_LENGTH} characters, or empty for none")
    return value


def _signing_header(value: str) -> str:
    if len(value) > MAX_HEADER_LENGTH or not _HEADER_NAME.fullmatch(value):
        raise _WrongError(f"must be the name of an HTTP header: at most {MAX_HEADER_LENGTH} letters, digits and -._")
    lower = value.lower()
    if lower in _TAKEN_HEADERS or lower.startswith(_TAKEN_HEADER_PREFIXES):
        raise _WrongError("is a header that has another meaning")
    if lower.endswith("-bin"):
        raise _WrongError("may not end in -bin: gRPC would read its value as base64")
    return value


def _default_region(value: str) -> str:
    region = value.upper()
    # In upper case, one character outside ASCII can become two letters: a sharp s would be South Sudan.
    if region and not (value.isascii() and is_region(region)):
        raise _WrongError("must be a two-letter ISO 3166 code such as SG, or empty")
    return region


def _priority(value: str) -> str:
    return _known(value, PRIORITIES)


def _on_unknown(value: str) -> str:
    return _known(value, ON_UNKNOWN)


def _sender(value: str) -> str:
    if value and not senders.is_sender(value):
        raise _WrongError(senders.RULE)
    return value


def _tag(value: str) -> str:
    if len(value) > MAX_TAG_LENGTH or not value.isprintable():
        raise _WrongError(f"must be at most {MAX_TAG_LENGTH} printable characters")
    return value


def _on_overflow(value: str) -> str:
    return _known(value, ON_OVERFLOW)


def _known(value: str, words: Sequence[str]) -> str:
    if value not in words:
        raise _WrongError(_one_of(words))
    return value


def _one_of(words: Sequence[str]) -> str:
    return f"must be one of: {', '.join(words)}"


_FIELDS: Final[Mapping[str, _Field]] = {
    "name": _Field(json_name="name", check=_name),
    "to_path": _Field(json_name="toPath", check=_required_path),
    "text_path": _Field(json_name="textPath", check=_required_path),
    "ref_path": _Field(json_name="refPath", check=_optional_path),
    "for_each": _Field(json_name="forEach", check=_optional_path),
    "signing_secret": _Field(json_name="signingSecret", check=_signing_secret),
    "signing_header": _Field(json_name="signingHeader", check=_signing_header),
    "default_region": _Field(json_name="defaultRegion", check=_default_region),
    "priority": _Field(json_name="priority", check=_priority),
    "on_unknown": _Field(json_name="onUnknown", check=_on_unknown),
    "sender": _Field(json_name="from", check=_sender),
    "tag": _Field(json_name="tag", check=_tag),
    "on_overflow": _Field(json_name="onOverflow", check=_on_overflow),
}


def tenant_name(value: str) -> str:
    """Return a tenant's name as it is kept; raise ValidationError."""
    name = _checked_name(value)
    if is_id(name, TENANT_PREFIX):
        raise ValidationError([Issue(path="name", message="may not have the form of a tenant's id")])
    return name


def api_key_name(value: str) -> str:
    """Return what a key is for, as it is kept; empty is allowed. Raises ValidationError."""
    return _checked_name(value) if value.strip() else ""


def _checked_name(value: str) -> str:
    try:
        return _name(value)
    except _WrongError as error:
        raise ValidationError([Issue(path="name", message=str(error))]) from None
