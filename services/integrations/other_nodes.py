"""What one node knows of the others: what their watchers have, and whose lease is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.integrations.store import Node, View

# How long a node is waited for that does not renew.
LEASE_SECONDS: Final = 1.4


@dataclass(frozen=True, kw_only=True)
class _Sighting:
    node: Node
    renewed_at: float


class OtherNodes:
    """The other nodes, as one node sees them.

    A lease is over when its count of renewals has stood still for LEASE_SECONDS on the monotonic clock of whoever
    looks. So no two clocks are compared, and none that can be put forward or back.
    """

    def __init__(self) -> None:
        self._sightings: dict[str, _Sighting] = {}

    def seen(self, view: View, own_id: str, now: float) -> None:
        """Take note of a view that came just now."""
        self._sightings = {node.id: self._sighting(node, now) for node in view.nodes if node.id != own_id}

    def applied_revisions(self) -> Sequence[int]:
        """Return how far the watchers of each are."""
        return [sighting.node.applied_revision for sighting in self._sightings.values()]

    def silent_at(self, now: float) -> Sequence[Node]:
        """Return those whose lease is over."""
        return [sighting.node for sighting in self._sightings.values() if now - sighting.renewed_at >= LEASE_SECONDS]

    def _sighting(self, node: Node, now: float) -> _Sighting:
        before = self._sightings.get(node.id)
        is_news = before is None or before.node.renewals != node.renewals
        return _Sighting(node=node, renewed_at=now if before is None or is_news else before.renewed_at)
