"""The one list of carriers: which there are, and which of them may take a message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from servicekit import phone_numbers
from services.delivery.carriers.base import Carrier
from services.delivery.routing import CarrierRules, Routable, Route, route_of

DEFAULT_ROUTE = "default"


class Carriers:
    """All configured carriers by name, what an installation says of each, and the routes over them."""

    def __init__(
        self, *carriers: Carrier, rules: Mapping[str, CarrierRules] | None = None, routes: Sequence[Route] = ()
    ) -> None:
        """Take carriers in order; without routes, one takes all messages to them in that order."""
        self._by_name = {carrier.name: carrier for carrier in carriers}
        self._rules = rules or {}
        names = tuple(self._by_name)
        self.routes = tuple(routes) or (Route(name=DEFAULT_ROUTE, carriers={names[0]: 1}, failover=names[1:]),)
        # Telling a number's country takes a while, so it is done only where something depends on it.
        self._by_country = any(route.countries for route in self.routes) or any(
            rules.senders for rules in self._rules.values()
        )

    def route(self, message: Routable) -> Route:
        """Return the route of a message."""
        return route_of(message, self._country(message.to), self.routes)

    def sender(self, message: Routable, route: Route, carrier: Carrier) -> str:
        """Return the number or name to send from: the message's wish, or the route's, the country's, the carrier's."""
        by_country = self.rules(carrier.name).senders.get(self._country(message.to), "")
        return message.wanted_sender or route.sender or by_country or carrier.sender

    def named(self, name: str) -> Carrier | None:
        """Return a carrier by its name; None when it is no longer configured."""
        return self._by_name.get(name)

    def rules(self, name: str) -> CarrierRules:
        """Return what the installation says of a carrier."""
        return self._rules.get(name, _NO_RULES)

    def __iter__(self) -> Iterator[Carrier]:
        return iter(self._by_name.values())

    def _country(self, number: str) -> str:
        return phone_numbers.region_of(number) if self._by_country else ""


_NO_RULES = CarrierRules()
