"""What Ingress works with: an integration as it is now, a payload as it came, a message to submit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

MAX_BODY_BYTES: Final = 262_144
# Counted in Unicode code points, as the sender's language counts a string. Segments are Delivery's matter.
MAX_TEXT_CHARACTERS: Final = 1_600
MAX_REF_CHARACTERS: Final = 64


@dataclass(frozen=True, kw_only=True)
class MappingPaths:
    """Where an integration's payloads have their recipient, text and reference, as its owner wrote it."""

    to: str
    text: str
    ref: str = ""
    default_region: str = ""


@dataclass(frozen=True, kw_only=True)
class IngressKey:
    """An address that leads to an integration, known by its hash only."""

    sha256: bytes = field(repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Integration:
    """One connected system, with all that it takes to turn its payloads into messages."""

    id: str
    tenant_id: str
    tenant_active: bool = True
    ingress_keys: tuple[IngressKey, ...] = ()
    paths: MappingPaths
    signing_secrets: tuple[str, ...] = field(default=(), repr=False)
    signing_header: str = "X-Webhook-Signature"
    revision: int = 0

    def answers_to(self, sha256: bytes, now: datetime) -> bool:
        """Tell whether an address leads here at this moment."""
        return any(
            key.sha256 == sha256 and (key.expires_at is None or now < key.expires_at) for key in self.ingress_keys
        )


@dataclass(frozen=True, kw_only=True)
class Payload:
    """A body as it came, and its headers by their names in lower case."""

    body: bytes = field(repr=False)
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def header(self, name: str) -> tuple[str, ...]:
        """Return every value of one header."""
        return self.headers.get(name.lower(), ())


@dataclass(frozen=True, kw_only=True)
class NewMessage:
    """What Delivery is asked to send."""

    tenant_id: str
    integration_id: str
    to: str
    text: str = field(repr=False)
    ref: str


@dataclass(frozen=True, kw_only=True)
class AcceptedMessage:
    """What Delivery has on disk."""

    id: str
    status: str


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What would become of a message."""

    segments: int
    encoding: str
    carrier: str
