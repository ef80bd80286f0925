"""What a tenant does with its integrations: create, read, list, replace, update, delete, and rotate their addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from servicekit.clock import Clock
from servicekit.egress_names import UrlGuard
from servicekit.errors import NotFoundError
from servicekit.ids import is_id, new_id, new_secret
from servicekit.paging import PageRequest
from services.integrations import outbound_rules, validation
from services.integrations.answer_once import FirstAnswer, Once, kept_answer
from services.integrations.commit_changes import ChangeFeed
from services.integrations.domain import (
    INGRESS_KEY_LENGTH,
    INGRESS_KEY_PREFIX,
    INTEGRATION_PREFIX,
    NO_DEDUPE,
    Integration,
    IntegrationChanges,
    Preset,
)
from services.integrations.signing_secrets import SigningSecrets
from services.integrations.store import AnsweredBeforeError, IntegrationStore
from services.integrations.webhooks import DEFAULT_EVENTS, switched


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """An integration's new address, and until when the old one works."""

    integration_id: str
    ingress_key: str = field(repr=False)
    old_key_expires_at: datetime


class ManageIntegrations:
    """Each method takes the caller's tenant, and knows nothing of any other's integrations.

    All raise NotFoundError for an id that is not the tenant's and ValidationError for fields that can not be used.
    Those that change something return when the change is in force. Those that take a Once return the FirstAnswer when
    its call was made before, within a day, and raise IdempotencyMismatchError when it was made with another request.
    """

    def __init__(
        self,
        *,
        store: IntegrationStore,
        changes: ChangeFeed,
        presets: Mapping[str, Preset],
        urls: UrlGuard,
        clock: Clock,
    ) -> None:
        self._urls = urls
        self._store = store
        self._changes = changes
        self._presets = presets
        self._clock = clock

    async def create(
        self, tenant_id: str, asked: IntegrationChanges, once: Once[Integration] | None = None
    ) -> Integration | FirstAnswer:
        """Connect a system; what was left out is the preset's."""
        fields = await self._with_url_checked(validation.new_integration(asked, self._presets, self._urls.policy))
        now = self._clock.now()
        integration = Integration(
            id=new_id(INTEGRATION_PREFIX, now),
            tenant_id=tenant_id,
            name=fields.name or "",
            preset=fields.preset or "",
            ingress_key=_new_ingress_key(),
            to_path=fields.to_path or "",
            text_path=fields.text_path or "",
            ref_path=fields.ref_path or "",
            for_each=fields.for_each or "",
            secrets=SigningSecrets(newest=fields.signing_secret or ""),
            signing_header=fields.signing_header or "",
            outbound_url=fields.outbound_url or "",
            default_region=fields.default_region or "",
            priority=fields.priority or "",
            on_unknown=fields.on_unknown or "",
            dedupe=fields.dedupe or NO_DEDUPE,
            sender=fields.sender or "",
            tag=fields.tag or "",
            max_segments=fields.max_segments or 0,
            on_overflow=fields.on_overflow or "",
            outbound_events=fields.outbound_events or DEFAULT_EVENTS,
            outbound_disabled=switched(None, is_enabled=fields.outbound_enabled is not False, now=now),
            reply_window_seconds=fields.reply_window_seconds or 0,
            created_at=now,
            updated_at=now,
        )
        keep = kept_answer(once, integration, now)
        try:
            change = await self._changes.commit(lambda: self._store.create_integration(integration, keep))
        except AnsweredBeforeError as before:
            return FirstAnswer(answer=before.answer)
        return change.changed[0]

    async def get(self, tenant_id: str, integration_id: str) -> Integration:
        """Read one."""
        _require_form(integration_id)
        return await self._store.get_integration(tenant_id, integration_id)

    async def list_page(self, tenant_id: str, page: PageRequest) -> Sequence[Integration]:
        """List one page, newest first."""
        return await self._store.list_integrations(tenant_id, page)

    async def replace(self, tenant_id: str, integration_id: str, asked: IntegrationChanges) -> Integration:
        """Make an integration what was asked for and the preset's defaults; a left-out signing secret is kept."""
        _require_form(integration_id)
        fields = await self._with_url_checked(validation.new_integration(asked, self._presets, self._urls.policy))
        return await self._change(tenant_id, integration_id, fields)

    async def update(self, tenant_id: str, integration_id: str, asked: IntegrationChanges) -> Integration:
        """Change only what was named."""
        _require_form(integration_id)
        fields = await self._with_url_checked(validation.changed_fields(asked, self._urls.policy))
        if fields == IntegrationChanges():
            return await self._store.get_integration(tenant_id, integration_id)
        return await self._change(tenant_id, integration_id, fields)

    async def delete(self, tenant_id: str, integration_id: str) -> None:
        """Delete an integration; every address of it answers 404 from now on."""
        _require_form(integration_id)
        await self._changes.commit(lambda: self._store.delete_integration(tenant_id, integration_id))

    async def rotate(
        self,
        tenant_id: str,
        integration_id: str,
        asked_overlap_seconds: int | None,
        once: Once[Rotation] | None = None,
    ) -> Rotation | FirstAnswer:
        """Give an integration a new address; the old one works for the overlap."""
        _require_form(integration_id)
        overlap = timedelta(seconds=outbound_rules.overlap_seconds(asked_overlap_seconds))
        now = self._clock.now()
        rotation = Rotation(
            integration_id=integration_id, ingress_key=_new_ingress_key(), old_key_expires_at=now + overlap
        )
        keep = kept_answer(once, rotation, now)
        try:
            await self._changes.commit(
                lambda: self._store.rotate_ingress_key(
                    tenant_id,
                    integration_id,
                    new_key=rotation.ingress_key,
                    old_keys_expire_at=rotation.old_key_expires_at,
                    now=now,
                    keep=keep,
                )
            )
        except AnsweredBeforeError as before:
            return FirstAnswer(answer=before.answer)
        return rotation

    async def _with_url_checked(self, fields: IntegrationChanges) -> IntegrationChanges:
        """Return the fields; raise ValidationError when the outbound URL's name leads where nothing may be sent."""
        if fields.outbound_url:
            await outbound_rules.look_up("outboundUrl", fields.outbound_url, self._urls)
        return fields

    async def _change(self, tenant_id: str, integration_id: str, fields: IntegrationChanges) -> Integration:
        now = self._clock.now()
        change = await self._changes.commit(
            lambda: self._store.change_integration(tenant_id, integration_id, fields, now)
        )
        return change.changed[0]


def _require_form(integration_id: str) -> None:
    if not is_id(integration_id, INTEGRATION_PREFIX):
        raise NotFoundError


def _new_ingress_key() -> str:
    return new_secret(INGRESS_KEY_PREFIX, INGRESS_KEY_LENGTH)
