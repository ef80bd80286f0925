"""What storage must guarantee to Integrations.

Every method is one transaction: all of it is on disk when the method returns, or none of it happens. Whatever takes a
tenant's id sees that tenant's rows only, and raises NotFoundError for an id that the tenant has not, which is the same
for another tenant's and for an unknown one. Every method raises UnavailableError when the database can not be had;
whether a write that raised it took place is then not known.

Each change of an integration takes the next revision: one count for all, which grows in the order of commits, also
across restarts. API keys are stored as SHA-256 only, ingress keys and signing secrets encrypted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from servicekit.paging import PageRequest
from services.integrations.domain import ApiKey, Change, Integration, IntegrationChanges, KeptAnswer, Tenant
from services.integrations.webhooks import Disabled, SavedWebhook, Targets, Webhook, WebhookFields


class AnsweredBeforeError(Exception):
    """The call is a repeat: nothing was changed, and this is its first answer."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("the call was answered before")
        self.answer = answer


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Every integration as it was at one revision. The pages can be read once, and touch no database any more."""

    revision: int
    pages: Iterable[Sequence[Integration]]


class LeaseLostError(Exception):
    """The node is no longer counted among those that share the database: the others go on without it."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One of the processes that share the database: how often it has renewed its lease, what its watchers have."""

    id: str
    renewals: int
    applied_revision: int


@dataclass(frozen=True, kw_only=True)
class View:
    """The newest revision, and the nodes as they were at the same moment."""

    revision: int
    nodes: Sequence[Node]


class TenantStore(Protocol):
    """Tenants and their API keys."""

    async def ensure_tenant(self, tenant: Tenant) -> Tenant:
        """Return the tenant of that name; store this one when there is none."""

    async def create_tenant(self, tenant: Tenant) -> None:
        """Store a tenant; raise AlreadyExistsError when the name is taken. Names that differ in case differ."""

    async def list_tenants(self) -> Sequence[Tenant]:
        """Return all tenants, oldest first."""

    async def find_tenant(self, id_or_name: str) -> Tenant:
        """Return the tenant of that id or name; raise NotFoundError."""

    async def set_tenant_active(self, tenant_id: str, *, active: bool) -> tuple[Tenant, Change]:
        """Suspend or resume; return the tenant, and its integrations as they are now, all of one new revision."""

    async def add_api_key(self, key: ApiKey, sha256: bytes) -> None:
        """Store a key by its hash; raise AlreadyExistsError when that hash is stored already."""

    async def ensure_api_key(self, key: ApiKey, sha256: bytes) -> ApiKey:
        """Return the key of that hash, whosever it is and revoked or not; store this one when there is none."""

    async def find_api_key(self, sha256: bytes) -> tuple[ApiKey, Tenant] | None:
        """Return the key of that hash, revoked or not, and its tenant; None when there is none."""

    async def list_api_keys(self, tenant_id: str) -> Sequence[ApiKey]:
        """Return a tenant's keys, revoked ones too, oldest first; nothing for an unknown tenant."""

    async def revoke_api_key(self, key_id: str, now: datetime) -> ApiKey:
        """Revoke a key, and return it. One that is revoked already keeps the time at which it first was."""


class IntegrationStore(Protocol):
    """Integrations and the addresses that lead to them.

    What takes a KeptAnswer keeps it for a day, in the transaction of the change. When one is kept for that call already
    it changes nothing, and raises AnsweredBeforeError, or IdempotencyMismatchError when the requests differ. Of several
    at once, in whatever processes, one changes something and the others wait for its answer.
    """

    async def create_integration(self, integration: Integration, keep: KeptAnswer | None = None) -> Change:
        """Store an integration with its one address."""

    async def get_integration(self, tenant_id: str, integration_id: str) -> Integration:
        """Return one."""

    async def list_integrations(self, tenant_id: str, page: PageRequest) -> Sequence[Integration]:
        """Return a page, newest first by time and id. One made meanwhile moves nothing to another page."""

    async def change_integration(
        self, tenant_id: str, integration_id: str, changes: IntegrationChanges, now: datetime
    ) -> Change:
        """Set the fields that are not None, leave the others; return it as it is now.

        `SigningSecrets.changed` says what becomes of its secrets.
        """

    async def disable_outbound(self, tenant_id: str, integration_id: str, url: str, disabled: Disabled) -> Change:
        """Switch its outbound URL off; raise NotFoundError when that is another one by now, or off already."""

    async def delete_integration(self, tenant_id: str, integration_id: str) -> Change:
        """Delete an integration and every address of it."""

    async def rotate_ingress_key(
        self,
        tenant_id: str,
        integration_id: str,
        *,
        new_key: str,
        old_keys_expire_at: datetime,
        now: datetime,
        keep: KeptAnswer | None = None,
    ) -> Change:
        """Make `new_key` the current address. The old ones go at the given time, or at an earlier one set before.

        Raises ConflictError when more than MAX_OLD_KEYS would go on working.
        """

    async def find_by_ingress_key(self, sha256: bytes) -> Integration | None:
        """Return the integration that a key leads to, expired or not; None when there is none."""

    async def snapshot(self, page_size: int) -> Snapshot:
        """Return every integration of every tenant: exactly the changes up to its revision are in it."""

    async def count_unreadable_secrets(self) -> int:
        """Return how many stored secrets the key ring does not open."""

    async def reseal(self) -> int:
        """Encrypt every stored secret again, with the ring's first key; return how many there were."""


class NodeStore(Protocol):
    """The processes that share a database, and the changes that each makes. No process has a SQLite file in common."""

    async def join(self, node_id: str, *, instead_of: str | None = None) -> View:
        """Count a node in; return what was there once everybody could see it, itself included.

        Who has looked before, and so does not wait for it, has committed nothing that is not in there.
        """

    async def renew(self, node_id: str, applied_revision: int, *, is_news: bool) -> View:
        """Renew a node's lease and tell what its watchers have; others hear at once when that is news.

        Raises LeaseLostError when the node has been removed.
        """

    async def look(self) -> View:
        """Return everything that is committed by now."""

    async def remove(self, node: Node) -> None:
        """Count a node out, unless it has renewed its lease since."""

    async def leave(self, node_id: str) -> None:
        """Count a node out."""

    async def changes_after(self, revision: int) -> Change | None:
        """Return in one all that happened after a revision, as things are now; None when that can not be told.

        It can not when a process of an earlier release made some of it, or when it is more than is kept.
        """

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard` whenever there is news, with the id of the node that has applied something, empty for a change.

        Ends with UnavailableError when the connection is lost. News may be missed: nobody may rely on it.
        """


class WebhookStore(Protocol):
    """Tenants' forward-all webhooks, one each at most. No watcher is told of them, so that they take no revisions.

    Raises NoWebhookConfigError where a tenant has none, and for KeptAnswers what IntegrationStore raises.
    """

    async def put_webhook(
        self, tenant_id: str, fields: WebhookFields, *, new_secret: str, now: datetime
    ) -> SavedWebhook:
        """Set a webhook with that secret, or replace one, which keeps its own secrets.

        Of several at once that set the first, one does, and the others replace it.
        """

    async def get_webhook(self, tenant_id: str) -> Webhook:
        """Return it."""

    async def rotate_webhook_secret(
        self, tenant_id: str, *, new_secret: str, overlap_seconds: int, now: datetime, keep: KeptAnswer | None = None
    ) -> Webhook:
        """Make `new_secret` the newest; `SigningSecrets.changed` says what becomes of the others."""

    async def delete_webhook(self, tenant_id: str) -> None:
        """Delete it with its secrets."""

    async def disable_webhook(self, tenant_id: str, url: str, disabled: Disabled) -> bool:
        """Switch it off; return False when there is none, it has another URL by now, or it is off already."""

    async def count_disabled(self) -> int:
        """Return how many webhooks and outbound URLs get no events because they have failed for too long."""

    async def find_targets(self, tenant_id: str, integration_id: str) -> Targets:
        """Return the tenant's webhook and one integration's outbound URL, as far as there are any."""
