"""Where events go: the tenant's forward-all webhook, an integration's outbound URL, and how either is switched off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.integrations.signing_secrets import SigningSecrets

EVENTS: Final = (
    "message.received",
    "message.sent",
    "message.delivered",
    "message.undelivered",
    "message.failed",
    "message.expired",
)
# Replies only: who wants to know what became of each message says so.
DEFAULT_EVENTS: Final = EVENTS[:1]
BY_ITS_OWNER: Final = "It was switched off by a call of the API."


@dataclass(frozen=True, kw_only=True)
class Disabled:
    """Since when nothing is sent to a URL, and why.

    `missed_since` is from when on events may not have arrived: earlier than `at` where the URL had failed before.
    """

    at: datetime
    reason: str
    missed_since: datetime


def by_its_owner(now: datetime) -> Disabled:
    """Return that an owner has switched a URL off."""
    return Disabled(at=now, reason=BY_ITS_OWNER, missed_since=now)


def switched(before: Disabled | None, *, is_enabled: bool, now: datetime) -> Disabled | None:
    """Return what switching a URL on or off makes of its state: who switches off what is off keeps why and when."""
    return None if is_enabled else before or by_its_owner(now)


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """A tenant's forward-all webhook."""

    tenant_id: str
    url: str
    events: tuple[str, ...]
    secrets: SigningSecrets
    disabled: Disabled | None = None
    created_at: datetime
    updated_at: datetime

    @property
    def target(self) -> Target:
        """Where events go."""
        return Target(url=self.url, events=self.events, is_enabled=self.disabled is None, secrets=self.secrets)


@dataclass(frozen=True, kw_only=True)
class WebhookFields:
    """What an owner says of a webhook. No events are the default ones."""

    url: str
    events: tuple[str, ...] = ()
    is_enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class SavedWebhook:
    """A webhook as it is after a call that set it, and from when on it may have missed events if that enabled it."""

    webhook: Webhook
    is_new: bool
    missed_since: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where events go, and what signs them. An empty URL is none."""

    url: str
    events: tuple[str, ...]
    is_enabled: bool
    secrets: SigningSecrets


@dataclass(frozen=True, kw_only=True)
class IntegrationTarget:
    """Where an integration's events go, and what it says of replies."""

    id: str
    name: str
    outbound: Target
    reply_window_seconds: int


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Everywhere that an event may go to; None for what there is not."""

    integration: IntegrationTarget | None = None
    webhook: Target | None = None


def in_order(events: Sequence[str]) -> tuple[str, ...]:
    """Return known events without repeats, in the order in which they are listed everywhere."""
    return tuple(event for event in EVENTS if event in events)
