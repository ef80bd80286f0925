"""Secrets that sign: how a new one is made, and what becomes of the one before it."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # begins a secret, is none
SECRET_BYTES: Final = 32
DEFAULT_OVERLAP_SECONDS: Final = 86_400


def new_signing_secret(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Return `whsec_` and 32 random bytes in base64, as Standard Webhooks 1.0 writes a secret."""
    return SECRET_PREFIX + base64.b64encode(random_bytes(SECRET_BYTES)).decode()


@dataclass(frozen=True, kw_only=True)
class OldSecret:
    """The secret before the newest, and when it stops working."""

    secret: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class SigningSecrets:
    """The newest secret, empty for none, and the one before it while both work. No newest, no old one."""

    newest: str = field(default="", repr=False)
    old: OldSecret | None = None

    def old_at(self, moment: datetime) -> OldSecret | None:
        """Return the old secret if it works at that time."""
        return self.old if self.old and moment < self.old.expires_at else None

    def changed(self, new: str | None, *, overlap_seconds: int | None, now: datetime) -> SigningSecrets:
        """Return the secrets after a change. None keeps the newest, an empty one removes both.

        A new secret makes the newest one the old one, for the overlap; what was the old one is dropped. A secret that
        is the newest already is not new: whoever repeats a call changes nothing by it. Then, as with None, an overlap
        ends the one that is under way sooner, and never later.
        """
        if new == "":
            return NO_SECRETS
        if new is None or new == self.newest:
            return SigningSecrets(newest=self.newest, old=_ending_sooner(self.old_at(now), overlap_seconds, now))
        seconds = DEFAULT_OVERLAP_SECONDS if overlap_seconds is None else overlap_seconds
        if not self.newest or not seconds:
            return SigningSecrets(newest=new)
        return SigningSecrets(
            newest=new, old=OldSecret(secret=self.newest, expires_at=now + timedelta(seconds=seconds))
        )


NO_SECRETS: Final = SigningSecrets()


def _ending_sooner(old: OldSecret | None, overlap_seconds: int | None, now: datetime) -> OldSecret | None:
    if old is None or overlap_seconds is None:
        return old
    if not overlap_seconds:
        return None
    return OldSecret(secret=old.secret, expires_at=min(old.expires_at, now + timedelta(seconds=overlap_seconds)))
