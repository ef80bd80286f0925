"""How every carrier is just now, in the words of `GET /v1/carriers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from services.delivery.carriers.base import Capability


class CarrierState(StrEnum):
    """Whether a carrier gets messages."""

    HEALTHY = "healthy"  # as many as its limits allow
    THROTTLED = "throttled"  # it asked for less, and gets less
    OPEN = "open"  # it fails, and gets none
    PROBING = "probing"  # it failed, and one message tries whether it is back


@dataclass(frozen=True, kw_only=True)
class CarrierError:
    """What went wrong at a carrier."""

    at: datetime
    code: str  # of a `FailureReason`
    message: str  # the carrier's own answer in short


@dataclass(frozen=True, kw_only=True)
class CarrierOverview:
    """One carrier. Counts are of the process that tells; rates are SMS segments a second over all processes."""

    name: str
    kind: str  # `http`, `smpp` or `simulator`
    definition: str  # such as `twilio`; empty for what is not HTTP
    capability: Capability
    state: CarrierState
    sender: str  # empty when the carrier chooses
    state_until: datetime | None = None  # None when nothing ends it by itself
    limit_segments_per_second: float | None = None  # as configured; None for no limit
    current_segments_per_second: float | None = None  # what it has sunk to because the carrier throttled
    sent_last_minute: int = 0
    failed_last_minute: int = 0
    in_flight: int = 0
    last_error: CarrierError | None = None


class KnowsCarriers(Protocol):
    """Whoever knows how the carriers are."""

    def overview(self) -> Sequence[CarrierOverview]:
        """Return every configured carrier, in the order of the configuration: no network, no disk."""
