"""Which carrier gets a message: rules as data, and a pure choice among the carriers of the rule that fits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Protocol
from zlib import crc32

MAX_WEIGHT: Final = 1000
_DRAWS: Final = 2**32


class Routable(Protocol):
    """What of a message its route depends on."""

    @property
    def to(self) -> str:
        """The recipient in E.164."""

    @property
    def integration_id(self) -> str:
        """The integration's id; empty for the API."""

    @property
    def wanted_sender(self) -> str:
        """The number or name that it asks to be sent from; empty for none."""

    @property
    def tag(self) -> str:
        """A word for routing rules; empty for none."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """One rule. A condition that is empty fits everything; a message must fit all of them.

    `carriers` shares messages by weight; `failover` has those that get what none of `carriers` can take, in order.
    """

    name: str
    carriers: Mapping[str, int]
    failover: tuple[str, ...] = ()
    sender: str = ""  # the number or name to send from; empty for the carrier's own
    prefixes: tuple[str, ...] = ()  # of E.164 numbers, with the plus sign
    countries: frozenset[str] = frozenset()
    integrations: frozenset[str] = frozenset()
    senders: frozenset[str] = frozenset()  # that the message asks to be sent from
    tags: frozenset[str] = frozenset()

    @cached_property
    def members(self) -> tuple[str, ...]:
        """Every carrier of the route, in the order of preference."""
        return (*self.carriers, *(name for name in self.failover if name not in self.carriers))

    def fits(self, message: Routable, country: str) -> bool:
        """Whether the message is this route's; `country` is the ISO 3166 code of its number."""
        return (
            (not self.prefixes or message.to.startswith(self.prefixes))
            and (not self.countries or country in self.countries)
            and (not self.integrations or message.integration_id in self.integrations)
            and (not self.senders or message.wanted_sender in self.senders)
            and (not self.tags or message.tag in self.tags)
        )


@dataclass(frozen=True, kw_only=True)
class CarrierRules:
    """What an installation says of one carrier beyond how it is reached. Rates are SMS segments a second."""

    segments_per_second: float | None = None  # over all processes that send; None for no limit
    burst: int = 0  # segments that may go at once after a quiet time, beyond the even pace
    sender_segments_per_second: float | None = None  # for each number or name that is sent from
    in_flight: int | None = None  # calls at a time in one process; None for the default
    senders: Mapping[str, str] = field(default_factory=dict)  # by country (ISO 3166)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A carrier, and why it was chosen, in a few words for the timeline."""

    carrier: str
    why: str


def route_of(message: Routable, country: str, routes: Sequence[Route]) -> Route:
    """Return the first route that fits; the last one fits everything."""
    return next((route for route in routes if route.fits(message, country)), routes[-1])


def choose(
    route: Route,
    *,
    message_id: str,
    refused: Collection[str],
    failed: Collection[str],
    health: Mapping[str, float],
    available: Collection[str],
) -> Choice | None:
    """Return the carrier for a message's next attempt; None when every carrier of the route has refused it.

    `refused` will never take the message; `failed` could not take it since the last full round, so others go first.
    `health` in [0, 1] sinks with failures and scales weights. A carrier that is not `available` is chosen only when no
    other can be. The draw by weight depends on the message alone, so that it is the same in every process.
    """
    open_to = [name for name in route.members if name not in refused]
    if not open_to:
        return None
    for why, group in (
        ("", [name for name in open_to if name in available and name not in failed]),
        ("", [name for name in open_to if name in available]),
        ("no carrier of the route can take messages just now; ", open_to),
    ):
        if group:
            return _among(route, group, message_id=message_id, health=health, why=why)
    return None


def _among(route: Route, group: Sequence[str], *, message_id: str, health: Mapping[str, float], why: str) -> Choice:
    weights = {name: route.carriers[name] * health.get(name, 1.0) for name in group if name in route.carriers}
    if not sum(weights.values()):
        name = group[0]
        place = "the only carrier" if len(route.members) == 1 else "failover"
        return Choice(carrier=name, why=f"{why}route {route.name}: {place}")
    name = _drawn(weights, message_id)
    if len(weights) == 1:
        return Choice(carrier=name, why=f"{why}route {route.name}: first choice")
    share = round(100 * weights[name] / sum(weights.values()))
    return Choice(carrier=name, why=f"{why}route {route.name}: {share} % by weight")


def _drawn(weights: Mapping[str, float], message_id: str) -> str:
    mark = crc32(message_id.encode()) / _DRAWS * sum(weights.values())
    for name, weight in weights.items():
        mark -= weight
        if mark < 0:
            return name
    return list(weights)[-1]
