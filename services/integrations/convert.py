"""Between the contract's messages and the domain's objects, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.clock import to_milliseconds
from servicekit.paging import PageRequest, page_of, page_request
from services.integrations.answer_once import FirstAnswer, Made, Once
from services.integrations.domain import ApiKey, Dedupe, Integration, IntegrationChanges, RepeatableCall, Tenant
from services.integrations.manage_integrations import Rotation
from services.integrations.signing_secrets import OldSecret
from services.integrations.watch_integrations import Update, WatcherWord
from textway.integrations.v1 import (
    integration_pb2,
    integrations_service_pb2,
    keys_service_pb2,
    registry_service_pb2,
)

WholeRequest = integrations_service_pb2.CreateIntegrationRequest | integrations_service_pb2.ReplaceIntegrationRequest


def whole_integration(request: WholeRequest) -> IntegrationChanges:
    """Return what a create or a replace asks for; None is what it leaves out."""
    return IntegrationChanges(
        name=request.name,
        preset=request.preset if request.HasField("preset") else None,
        to_path=request.to_path if request.HasField("to_path") else None,
        text_path=request.text_path if request.HasField("text_path") else None,
        ref_path=request.ref_path if request.HasField("ref_path") else None,
        for_each=request.for_each if request.HasField("for_each") else None,
        signing_secret=request.signing_secret if request.HasField("signing_secret") else None,
        signing_header=request.signing_header if request.HasField("signing_header") else None,
        outbound_url=request.outbound_url if request.HasField("outbound_url") else None,
        default_region=request.default_region if request.HasField("default_region") else None,
        priority=request.priority if request.HasField("priority") else None,
        on_unknown=request.on_unknown if request.HasField("on_unknown") else None,
        dedupe=_dedupe_from(request.dedupe) if request.HasField("dedupe") else None,
        # A keyword in Python, and the contract's word.
        sender=getattr(request, "from") if request.HasField("from") else None,
        tag=request.tag if request.HasField("tag") else None,
        max_segments=request.max_segments if request.HasField("max_segments") else None,
        on_overflow=request.on_overflow if request.HasField("on_overflow") else None,
        outbound_events=tuple(request.outbound_events) or None,
        outbound_enabled=request.outbound_enabled if request.HasField("outbound_enabled") else None,
        reply_window_seconds=request.reply_window_seconds if request.HasField("reply_window_seconds") else None,
        signing_secret_overlap_seconds=_secret_overlap(request),
    )


def named_fields(request: integrations_service_pb2.UpdateIntegrationRequest) -> IntegrationChanges:
    """Return what an update names; None is what it does not."""
    return IntegrationChanges(
        name=request.name if request.HasField("name") else None,
        to_path=request.to_path if request.HasField("to_path") else None,
        text_path=request.text_path if request.HasField("text_path") else None,
        ref_path=request.ref_path if request.HasField("ref_path") else None,
        for_each=request.for_each if request.HasField("for_each") else None,
        signing_secret=request.signing_secret if request.HasField("signing_secret") else None,
        signing_header=request.signing_header if request.HasField("signing_header") else None,
        outbound_url=request.outbound_url if request.HasField("outbound_url") else None,
        default_region=request.default_region if request.HasField("default_region") else None,
        priority=request.priority if request.HasField("priority") else None,
        on_unknown=request.on_unknown if request.HasField("on_unknown") else None,
        dedupe=_dedupe_from(request.dedupe) if request.HasField("dedupe") else None,
        # A keyword in Python, and the contract's word.
        sender=getattr(request, "from") if request.HasField("from") else None,
        tag=request.tag if request.HasField("tag") else None,
        max_segments=request.max_segments if request.HasField("max_segments") else None,
        on_overflow=request.on_overflow if request.HasField("on_overflow") else None,
        outbound_events=tuple(request.outbound_events) or None,
        outbound_enabled=request.outbound_enabled if request.HasField("outbound_enabled") else None,
        reply_window_seconds=request.reply_window_seconds if request.HasField("reply_window_seconds") else None,
        signing_secret_overlap_seconds=_secret_overlap(request),
    )


def _secret_overlap(request: WholeRequest | integrations_service_pb2.UpdateIntegrationRequest) -> int | None:
    if isinstance(request, integrations_service_pb2.CreateIntegrationRequest):
        return None  # there is no secret before the first
    named = request.HasField("signing_secret_overlap_seconds")
    return request.signing_secret_overlap_seconds if named else None


def _dedupe_from(dedupe: integration_pb2.Dedupe) -> Dedupe:
    return Dedupe(key=dedupe.key, window_seconds=dedupe.window_seconds, mode=dedupe.mode)


def list_request(request: integrations_service_pb2.ListIntegrationsRequest) -> PageRequest:
    """Return which page to list; raise ValidationError for one that can not be."""
    return page_request(request.page_size if request.HasField("page_size") else None, request.page_token)


def overlap_seconds(request: integrations_service_pb2.RotateIngressKeyRequest) -> int | None:
    """Return the overlap that was asked for, if any."""
    return request.overlap_seconds if request.HasField("overlap_seconds") else None


def once(
    call: tuple[str, str, str | None], request: Message, answer_of: Callable[[Made], Message]
) -> Once[Made] | None:
    """Return what makes a call repeatable: its tenant, operation and idempotency key; None when it has no key."""
    tenant_id, operation, key = call
    if key is None:
        return None
    request_sha256 = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    return Once(
        call=RepeatableCall(tenant_id=tenant_id, operation=operation, key=key, request_sha256=request_sha256),
        answer_of=lambda made: answer_of(made).SerializeToString(),
    )


def to_integration(integration: Integration, public_url: str) -> integration_pb2.Integration:
    """Return an integration as its tenant sees it: the signing secret is never shown again."""
    disabled, missed_since, old = (
        integration.outbound_disabled,
        integration.outbound_missed_since,
        integration.secrets.old,
    )
    return integration_pb2.Integration(
        id=integration.id,
        name=integration.name,
        preset=integration.preset,
        ingress_key=integration.ingress_key,
        ingress_url=_ingress_url(integration.ingress_key, public_url),
        to_path=integration.to_path,
        text_path=integration.text_path,
        ref_path=integration.ref_path,
        for_each=integration.for_each,
        signed=bool(integration.secrets.newest),
        signing_header=integration.signing_header,
        outbound_url=integration.outbound_url,
        default_region=integration.default_region,
        priority=integration.priority,
        on_unknown=integration.on_unknown,
        dedupe=_to_dedupe(integration.dedupe),
        tag=integration.tag,
        max_segments=integration.max_segments,
        on_overflow=integration.on_overflow,
        outbound_events=integration.outbound_events,
        outbound_enabled=integration.outbound_disabled is None,
        outbound_disabled_at=timestamp(disabled.at) if disabled else None,
        outbound_disabled_reason=disabled.reason if disabled else None,
        outbound_missed_since=timestamp(missed_since) if missed_since else None,
        reply_window_seconds=integration.reply_window_seconds,
        previous_signing_secret_expires_at=timestamp(old.expires_at) if old else None,
        created_at=timestamp(integration.created_at),
        updated_at=timestamp(integration.updated_at),
        **{"from": integration.sender},  # a keyword in Python, and the contract's word
    )


def _to_dedupe(dedupe: Dedupe) -> integration_pb2.Dedupe | None:
    if not dedupe.key:
        return None
    return integration_pb2.Dedupe(key=dedupe.key, window_seconds=dedupe.window_seconds, mode=dedupe.mode)


def to_list(
    found: Sequence[Integration], page: PageRequest, public_url: str
) -> integrations_service_pb2.ListIntegrationsResponse:
    """Return one page of a tenant's integrations, with the token of the next if more was found than the page holds."""
    shown, token = page_of(
        found, page, show=lambda each: to_integration(each, public_url), place=lambda each: (each.created_at, each.id)
    )
    return integrations_service_pb2.ListIntegrationsResponse(integrations=shown, next_page_token=token)


def to_created(made: Integration | FirstAnswer, public_url: str) -> integration_pb2.Integration:
    """Return what answers a create, for the first time or again."""
    if isinstance(made, FirstAnswer):
        return integration_pb2.Integration.FromString(made.answer)
    return to_integration(made, public_url)


def to_rotated(made: Rotation | FirstAnswer, public_url: str) -> integrations_service_pb2.RotateIngressKeyResponse:
    """Return what answers a rotation, for the first time or again."""
    if isinstance(made, FirstAnswer):
        return integrations_service_pb2.RotateIngressKeyResponse.FromString(made.answer)
    return to_rotation(made, public_url)


def to_rotation(rotation: Rotation, public_url: str) -> integrations_service_pb2.RotateIngressKeyResponse:
    """Return a new address, and until when the old one works."""
    return integrations_service_pb2.RotateIngressKeyResponse(
        id=rotation.integration_id,
        ingress_key=rotation.ingress_key,
        ingress_url=_ingress_url(rotation.ingress_key, public_url),
        previous_key_expires_at=timestamp(rotation.old_key_expires_at),
    )


def to_config(integration: Integration) -> registry_service_pb2.IntegrationConfig:
    """Return an integration as the other services see it: its addresses by their hashes only."""
    return registry_service_pb2.IntegrationConfig(
        id=integration.id,
        tenant_id=integration.tenant_id,
        tenant_active=integration.tenant_active,
        ingress_keys=[
            registry_service_pb2.IngressKey(
                sha256=key.sha256, expires_at=None if key.expires_at is None else timestamp(key.expires_at)
            )
            for key in integration.ingress_keys
        ],
        to_path=integration.to_path,
        text_path=integration.text_path,
        ref_path=integration.ref_path,
        for_each=integration.for_each,
        signing_secrets=[integration.secrets.newest] if integration.secrets.newest else [],
        old_signing_secrets=[_to_old_secret(integration.secrets.old)] if integration.secrets.old else [],
        signing_header=integration.signing_header,
        default_region=integration.default_region,
        revision=integration.revision,
        priority=integration.priority,
        on_unknown=integration.on_unknown,
        dedupe_key=integration.dedupe.key,
        dedupe_window_seconds=integration.dedupe.window_seconds,
        dedupe_mode=integration.dedupe.mode,
        sender=integration.sender,
        tag=integration.tag,
        max_segments=integration.max_segments,
        on_overflow=integration.on_overflow,
    )


def _to_old_secret(old: OldSecret) -> registry_service_pb2.SigningSecret:
    return registry_service_pb2.SigningSecret(secret=old.secret, expires_at=timestamp(old.expires_at))


def watcher_word(request: registry_service_pb2.WatchIntegrationsRequest) -> WatcherWord:
    """Return what a watcher says."""
    return WatcherWord(applied_revision=request.applied_revision, ping=request.ping)


def to_watch_response(update: Update) -> registry_service_pb2.WatchIntegrationsResponse:
    """Return one step of a watcher's copy."""
    return registry_service_pb2.WatchIntegrationsResponse(
        revision=update.revision,
        changed=[to_config(integration) for integration in update.changed],
        deleted_ids=update.deleted_ids,
        snapshot_complete=update.snapshot_complete,
        pong=update.pong,
        exact_for_ms=round(update.exact_seconds * 1000) if update.snapshot_complete else 0,
    )


def to_tenant(tenant: Tenant) -> keys_service_pb2.Tenant:
    """Return a tenant."""
    return keys_service_pb2.Tenant(
        id=tenant.id, name=tenant.name, active=tenant.active, created_at=timestamp(tenant.created_at)
    )


def to_api_key(key: ApiKey) -> keys_service_pb2.ApiKey:
    """Return an API key, without its secret."""
    return keys_service_pb2.ApiKey(
        id=key.id,
        tenant_id=key.tenant_id,
        name=key.name,
        hint=key.hint,
        created_at=timestamp(key.created_at),
        revoked_at=None if key.revoked_at is None else timestamp(key.revoked_at),
    )


def _ingress_url(ingress_key: str, public_url: str) -> str:
    return f"{public_url.rstrip('/')}/v1/ingress/{ingress_key}"


def timestamp(moment: datetime) -> Timestamp:
    """Return a time as the contract has it."""
    written = Timestamp()
    written.FromMilliseconds(to_milliseconds(moment))
    return written
