"""What a tenant does with its forward-all webhook: set, read, delete it, and rotate its secret."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from servicekit.clock import Clock
from servicekit.egress_names import UrlGuard
from services.integrations import outbound_rules
from services.integrations.answer_once import FirstAnswer, Once, kept_answer
from services.integrations.signing_secrets import new_signing_secret
from services.integrations.store import AnsweredBeforeError, WebhookStore
from services.integrations.webhooks import SavedWebhook, Webhook, WebhookFields


@dataclass(frozen=True, kw_only=True)
class SecretRotation:
    """A webhook's new secret, to be shown this once, and until when the old one signs."""

    new_secret: str = field(repr=False)
    old_secret_expires_at: datetime


class ManageWebhooks:
    """Each method takes the caller's tenant. All but `put` raise NoWebhookConfigError when it has no webhook."""

    def __init__(
        self,
        *,
        store: WebhookStore,
        urls: UrlGuard,
        clock: Clock,
        new_secret: Callable[[], str] = new_signing_secret,
    ) -> None:
        self._store = store
        self._urls = urls
        self._clock = clock
        self._new_secret = new_secret

    async def put(self, tenant_id: str, asked: WebhookFields) -> SavedWebhook:
        """Set the webhook or replace it; raise ValidationError for fields that can not be used."""
        fields = outbound_rules.webhook(asked, self._urls.policy)
        await outbound_rules.look_up("url", fields.url, self._urls)
        return await self._store.put_webhook(tenant_id, fields, new_secret=self._new_secret(), now=self._clock.now())

    async def get(self, tenant_id: str) -> Webhook:
        """Read it."""
        return await self._store.get_webhook(tenant_id)

    async def rotate(
        self, tenant_id: str, asked_overlap_seconds: int | None, once: Once[SecretRotation] | None = None
    ) -> SecretRotation | FirstAnswer:
        """Give the webhook a new secret; raise ValidationError for an overlap out of bounds.

        Raises IdempotencyMismatchError when `once` names a call that was made with another request.
        """
        overlap_seconds = outbound_rules.overlap_seconds(asked_overlap_seconds)
        now = self._clock.now()
        rotation = SecretRotation(
            new_secret=self._new_secret(), old_secret_expires_at=now + timedelta(seconds=overlap_seconds)
        )
        try:
            await self._store.rotate_webhook_secret(
                tenant_id,
                new_secret=rotation.new_secret,
                overlap_seconds=overlap_seconds,
                now=now,
                keep=kept_answer(once, rotation, now),
            )
        except AnsweredBeforeError as before:
            return FirstAnswer(answer=before.answer)
        return rotation

    async def delete(self, tenant_id: str) -> None:
        """Forget it and its secrets."""
        await self._store.delete_webhook(tenant_id)
