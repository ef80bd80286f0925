"""The one list of carriers: which there are, and which of them takes a message."""

from __future__ import annotations

from collections.abc import Iterator

from servicekit.clock import Clock
from services.delivery.carriers.base import Carrier
from services.delivery.carriers.http import Gateway, HttpCarrier
from services.delivery.carriers.simulator import Simulator


class Carriers:
    """All configured carriers, by name. The first one takes every message."""

    def __init__(self, *carriers: Carrier) -> None:
        self._by_name = {carrier.name: carrier for carrier in carriers}
        self._first = carriers[0]

    @classmethod
    def configured(cls, *, gateway: Gateway | None, simulator_sender: str, clock: Clock) -> Carriers:
        """Build the carriers of this installation: its gateway, or else the simulator."""
        return cls(HttpCarrier(gateway, clock) if gateway else Simulator(simulator_sender))

    def pick(self, to: str) -> Carrier:  # noqa: ARG002  # routes by number come with real carriers
        """Return the carrier that takes a message to this number."""
        return self._first

    def named(self, name: str) -> Carrier | None:
        """Return a carrier by its name; None when it is no longer configured."""
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Carrier]:
        return iter(self._by_name.values())
