"""Tells Delivery where events go, and switches off what only fails."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from servicekit.clock import Clock
from servicekit.errors import NotFoundError
from services.integrations.commit_changes import ChangeFeed
from services.integrations.domain import Change
from services.integrations.outbound_rules import MAX_REASON_LENGTH
from services.integrations.signing_secrets import SigningSecrets
from services.integrations.webhooks import Disabled, Target, Targets

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A URL that takes no more events: the integration's, or the tenant's webhook when there is no integration id."""

    tenant_id: str
    integration_id: str
    url: str
    reason: str
    failing_since: datetime | None = None


class Outbounds(Protocol):
    """What is asked of the storage of integrations."""

    async def disable_outbound(self, tenant_id: str, integration_id: str, url: str, disabled: Disabled) -> Change:
        """Switch an outbound URL off; raise NotFoundError when that is another one by now, or off already."""


class Webhooks(Protocol):
    """What is asked of the storage of webhooks."""

    async def find_targets(self, tenant_id: str, integration_id: str) -> Targets:
        """Return the tenant's webhook and one integration's outbound URL, as far as there are any."""

    async def disable_webhook(self, tenant_id: str, url: str, disabled: Disabled) -> bool:
        """Switch it off; return False when there is none, it has another URL by now, or it is off already."""


class FindTargets:
    """Answers from the database each time; whoever asks often remembers the answer for a moment."""

    def __init__(self, *, webhooks: Webhooks, integrations: Outbounds, changes: ChangeFeed, clock: Clock) -> None:
        self._webhooks = webhooks
        self._integrations = integrations
        self._changes = changes
        self._clock = clock

    async def of(self, tenant_id: str, integration_id: str) -> Targets:
        """Return where events of a tenant go now, and one integration's; each target with the secrets in force."""
        targets = await self._webhooks.find_targets(tenant_id, integration_id)
        integration, webhook, now = targets.integration, targets.webhook, self._clock.now()
        return Targets(
            integration=integration and replace(integration, outbound=_as_of(now, integration.outbound)),
            webhook=webhook and _as_of(now, webhook),
        )

    async def disable(self, failure: Failure) -> bool:
        """Switch a URL off unless it is gone, another one by now, or off already; return whether it is off now."""
        now = self._clock.now()
        disabled = Disabled(
            at=now, reason=failure.reason[:MAX_REASON_LENGTH], missed_since=min(failure.failing_since or now, now)
        )
        if failure.integration_id:
            is_switched = await self._disable_outbound(failure, disabled)
        else:
            is_switched = await self._webhooks.disable_webhook(failure.tenant_id, failure.url, disabled)
        if is_switched:
            log.warning(
                "webhook disabled",
                tenant_id=failure.tenant_id,
                integration_id=failure.integration_id,
                reason=disabled.reason,
            )
        return is_switched or await self._is_off(failure)

    async def _is_off(self, failure: Failure) -> bool:
        targets = await self._webhooks.find_targets(failure.tenant_id, failure.integration_id)
        target = targets.webhook
        if failure.integration_id:
            target = targets.integration.outbound if targets.integration else None
        return target is not None and target.url == failure.url and not target.is_enabled

    async def _disable_outbound(self, failure: Failure, disabled: Disabled) -> bool:
        try:
            await self._changes.commit(
                lambda: self._integrations.disable_outbound(
                    failure.tenant_id, failure.integration_id, failure.url, disabled
                )
            )
        except NotFoundError:
            return False
        return True


def _as_of(now: datetime, target: Target) -> Target:
    return replace(target, secrets=SigningSecrets(newest=target.secrets.newest, old=target.secrets.old_at(now)))
