"""Between the contract's messages and the domain's objects, for webhooks and for where events go."""

from __future__ import annotations

from servicekit.clock import from_milliseconds
from services.integrations.answer_once import FirstAnswer
from services.integrations.convert import timestamp
from services.integrations.find_targets import Failure
from services.integrations.manage_webhooks import SecretRotation
from services.integrations.signing_secrets import SigningSecrets
from services.integrations.webhooks import IntegrationTarget, SavedWebhook, Target, Targets, Webhook, WebhookFields
from textway.integrations.v1 import registry_service_pb2, webhooks_service_pb2


def fields_from(request: webhooks_service_pb2.PutWebhookRequest) -> WebhookFields:
    """Return what a webhook is to be."""
    enabled = request.enabled if request.HasField("enabled") else True
    return WebhookFields(url=request.url, events=tuple(request.events), is_enabled=enabled)


def overlap_seconds(request: webhooks_service_pb2.RotateWebhookSecretRequest) -> int | None:
    """Return the overlap that was asked for, if any."""
    return request.overlap_seconds if request.HasField("overlap_seconds") else None


def to_webhook(webhook: Webhook) -> webhooks_service_pb2.Webhook:
    """Return a webhook as its tenant sees it: without its secrets."""
    disabled, old = webhook.disabled, webhook.secrets.old
    return webhooks_service_pb2.Webhook(
        url=webhook.url,
        enabled=disabled is None,
        events=webhook.events,
        disabled_at=timestamp(disabled.at) if disabled else None,
        disabled_reason=disabled.reason if disabled else None,
        previous_secret_expires_at=timestamp(old.expires_at) if old else None,
        created_at=timestamp(webhook.created_at),
        updated_at=timestamp(webhook.updated_at),
    )


def to_saved(saved: SavedWebhook) -> webhooks_service_pb2.Webhook:
    """Return what answers a call that set a webhook: a new one with its secret, which is shown this once."""
    answer = to_webhook(saved.webhook)
    if saved.is_new:
        answer.signing_secret = saved.webhook.secrets.newest
    if saved.missed_since:
        answer.missed_since.CopyFrom(timestamp(saved.missed_since))
    return answer


def to_rotation(rotation: SecretRotation) -> webhooks_service_pb2.RotateWebhookSecretResponse:
    """Return a new secret, and until when the old one signs."""
    return webhooks_service_pb2.RotateWebhookSecretResponse(
        signing_secret=rotation.new_secret, previous_secret_expires_at=timestamp(rotation.old_secret_expires_at)
    )


def to_rotated(made: SecretRotation | FirstAnswer) -> webhooks_service_pb2.RotateWebhookSecretResponse:
    """Return what answers a rotation, for the first time or again."""
    if isinstance(made, FirstAnswer):
        return webhooks_service_pb2.RotateWebhookSecretResponse.FromString(made.answer)
    return to_rotation(made)


def to_targets(targets: Targets) -> registry_service_pb2.GetWebhookTargetsResponse:
    """Return where events go."""
    return registry_service_pb2.GetWebhookTargetsResponse(
        integration=_to_integration_target(targets.integration) if targets.integration else None,
        webhook=_to_target(targets.webhook) if targets.webhook else None,
    )


def _to_integration_target(target: IntegrationTarget) -> registry_service_pb2.IntegrationTarget:
    return registry_service_pb2.IntegrationTarget(
        id=target.id,
        name=target.name,
        outbound=_to_target(target.outbound),
        reply_window_seconds=target.reply_window_seconds,
    )


def _to_target(target: Target) -> registry_service_pb2.WebhookTarget:
    return registry_service_pb2.WebhookTarget(
        url=target.url, enabled=target.is_enabled, events=target.events, secrets=_to_secrets(target.secrets)
    )


def _to_secrets(secrets: SigningSecrets) -> list[registry_service_pb2.SigningSecret]:
    newest = [registry_service_pb2.SigningSecret(secret=secrets.newest)] if secrets.newest else []
    if secrets.old is None:
        return newest
    expires_at = timestamp(secrets.old.expires_at)
    return [*newest, registry_service_pb2.SigningSecret(secret=secrets.old.secret, expires_at=expires_at)]


def failure_from(request: registry_service_pb2.DisableWebhookTargetRequest) -> Failure:
    """Return which target only fails."""
    since = from_milliseconds(request.failing_since.ToMilliseconds()) if request.HasField("failing_since") else None
    return Failure(
        tenant_id=request.tenant_id,
        integration_id=request.integration_id,
        url=request.url,
        reason=request.reason,
        failing_since=since,
    )
