"""The things that Integrations keeps: tenants, API keys, integrations and the addresses that lead to them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from servicekit.sms_fitting import Overflow
from services.integrations.signing_secrets import NO_SECRETS, SigningSecrets
from services.integrations.webhooks import DEFAULT_EVENTS, Disabled

DEFAULT_TENANT: Final = "default"

TENANT_PREFIX: Final = "ten"
API_KEY_ID_PREFIX: Final = "key"
INTEGRATION_PREFIX: Final = "wkh"
NODE_PREFIX: Final = "node"

API_KEY_PREFIX: Final = "sk_live"
API_KEY_LENGTH: Final = 40
API_KEY_HINT_LENGTH: Final = len(API_KEY_PREFIX) + 5

INGRESS_KEY_PREFIX: Final = "ig"
INGRESS_KEY_LENGTH: Final = 32


PRIORITIES: Final = ("high", "normal", "low")
DEFAULT_DEDUPE_SECONDS: Final = 86_400
# What is done with a message of which nobody can know whether a carrier has it.
ON_UNKNOWN: Final = ("resend", "hold")
# What becomes of a text that takes more SMS parts than it may; the first unless said otherwise.
ON_OVERFLOW: Final = tuple(word.value for word in Overflow)
# Answer with the first message and send nothing more, or send and say so.
DEDUPE_MODES: Final = ("suppress", "annotate")


def sha256(secret: str) -> bytes:
    """Return the only form in which a key is looked up. Keys are random enough to need neither salt nor stretching."""
    return hashlib.sha256(secret.encode()).digest()


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """Whose all this is. A suspended tenant keeps everything and may do nothing."""

    id: str
    name: str
    active: bool
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key without its secret; the hint is the secret's start, enough to recognise it."""

    id: str
    tenant_id: str
    name: str
    hint: str
    created_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who makes a call, as its API key tells."""

    tenant_id: str
    key_id: str


@dataclass(frozen=True, kw_only=True)
class IngressKey:
    """One address that leads to an integration, known by its hash. It works until it expires, if ever."""

    sha256: bytes
    expires_at: datetime | None = None

    def works_at(self, moment: datetime) -> bool:
        """Tell whether the address answers at that time."""
        return self.expires_at is None or moment < self.expires_at


@dataclass(frozen=True, kw_only=True)
class Dedupe:
    """The rule by which a payload is known to mean the same message as one before. An empty key is no rule."""

    key: str = ""
    window_seconds: int = 0
    mode: str = ""


NO_DEDUPE: Final = Dedupe()


@dataclass(frozen=True, kw_only=True)
class Integration:
    """One connected system. `ingress_key` is its newest address, `ingress_keys` are all that lead here.

    `revision` is that of the newest change to it, or to its tenant's being active.
    """

    id: str
    tenant_id: str
    tenant_active: bool = True
    name: str
    preset: str
    ingress_key: str = field(repr=False)
    ingress_keys: tuple[IngressKey, ...] = ()
    to_path: str
    text_path: str
    ref_path: str
    secrets: SigningSecrets = NO_SECRETS
    signing_header: str
    outbound_url: str
    default_region: str
    priority: str
    on_unknown: str
    dedupe: Dedupe = NO_DEDUPE
    sender: str = ""  # empty to leave it to the route
    tag: str = ""
    max_segments: int = 0  # 0 for no limit
    on_overflow: str = ON_OVERFLOW[0]
    outbound_events: tuple[str, ...] = DEFAULT_EVENTS
    outbound_disabled: Disabled | None = None
    outbound_missed_since: datetime | None = None  # only in what a change answers that enabled the URL again
    reply_window_seconds: int = 0  # 0 for the installation's default
    for_each: str = ""  # empty to take a payload as one item
    revision: int = 0
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class IntegrationChanges:
    """New values for an integration's fields. None keeps what is there.

    An empty signing secret removes it and the one before it, and a dedupe rule without a key is none. To name the
    outbound URL is to enable it, unless the change says otherwise.
    """

    name: str | None = None
    preset: str | None = None
    to_path: str | None = None
    text_path: str | None = None
    ref_path: str | None = None
    for_each: str | None = None
    signing_secret: str | None = field(default=None, repr=False)
    signing_header: str | None = None
    outbound_url: str | None = None
    default_region: str | None = None
    priority: str | None = None
    on_unknown: str | None = None
    dedupe: Dedupe | None = None
    sender: str | None = None
    tag: str | None = None
    max_segments: int | None = None
    on_overflow: str | None = None
    outbound_events: tuple[str, ...] | None = None
    outbound_enabled: bool | None = None
    reply_window_seconds: int | None = None
    signing_secret_overlap_seconds: int | None = None

    @property
    def switches_outbound(self) -> bool | None:
        """Whether the change enables the outbound URL or disables it; None when it leaves that as it is."""
        if self.outbound_enabled is None and self.outbound_url is not None:
            return True
        return self.outbound_enabled


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one committed transaction did: integrations as they are now, and the ids of those that are no more."""

    revision: int
    changed: Sequence[Integration] = ()
    deleted_ids: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Defaults for one kind of sender."""

    name: str
    to_path: str
    text_path: str
    ref_path: str
    signing_header: str
    priority: str
    on_unknown: str


@dataclass(frozen=True, kw_only=True)
class RepeatableCall:
    """A call that its author has given a key: for a day, a repeat changes nothing and is answered as the first was.

    `operation` is the method and the path, such as `POST /v1/ingress`.
    """

    tenant_id: str
    operation: str
    key: str
    request_sha256: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class KeptAnswer:
    """What a repeatable call is answered with, now and when it is repeated. It may hold an address, so it is secret."""

    call: RepeatableCall
    answer: bytes = field(repr=False)
    answered_at: datetime
