"""Which carrier gets a message."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from services.delivery.routing import Route, choose, route_of

WEIGHTED = Route(name="r", carriers={"a": 80, "b": 20}, failover=("c", "d"))
ALL = frozenset("abcd")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    to: str = "+6581230000"
    integration_id: str = ""
    wanted_sender: str = ""
    tag: str = ""


def chosen(route: Route = WEIGHTED, number: int = 1, **changes: object) -> str | None:
    given = {"refused": set(), "failed": set(), "health": {}, "available": ALL} | changes
    choice = choose(route, message_id=f"msg_{number}", **given)
    return choice and choice.carrier


@pytest.mark.parametrize(
    ("conditions", "message", "fits"),
    [
        ({}, Wanted(), True),
        ({"prefixes": ("+65", "+60")}, Wanted(), True),
        ({"prefixes": ("+60",)}, Wanted(), False),
        ({"countries": frozenset({"SG"})}, Wanted(), True),
        ({"countries": frozenset({"US"})}, Wanted(), False),
        ({"integrations": frozenset({"wkh_1"})}, Wanted(integration_id="wkh_1"), True),
        ({"integrations": frozenset({"wkh_1"})}, Wanted(), False),
        ({"senders": frozenset({"ACME"})}, Wanted(wanted_sender="ACME"), True),
        ({"senders": frozenset({"ACME"})}, Wanted(wanted_sender="SHOP"), False),
        ({"tags": frozenset({"alert"})}, Wanted(tag="alert"), True),
        ({"tags": frozenset({"alert"}), "prefixes": ("+60",)}, Wanted(tag="alert"), False),
    ],
)
def test_fits_when_every_condition_does(conditions, message, fits):
    assert Route(name="r", carriers={"a": 1}, **conditions).fits(message, "SG") is fits


def test_takes_the_first_route_that_fits_and_the_last_when_none_does():
    first = Route(name="first", carriers={"a": 1}, prefixes=("+65",))
    second = Route(name="second", carriers={"a": 1}, prefixes=("+6581",))
    last = Route(name="last", carriers={"a": 1})

    assert route_of(Wanted(), "SG", [first, second, last]).name == "first"
    assert route_of(Wanted(to="+441234567890"), "GB", [first, second, last]).name == "last"


def test_shares_messages_by_weight_and_each_message_always_alike():
    drawn = [chosen(number=number) for number in range(5000)]
    again = [chosen(number=number) for number in range(5000)]

    assert drawn == again
    assert 0.77 <= Counter(drawn)["a"] / 5000 <= 0.83
    assert set(drawn) == {"a", "b"}


def test_sends_less_to_a_carrier_whose_health_has_sunk():
    drawn = Counter(chosen(number=number, health={"a": 0.05, "b": 1.0}) for number in range(5000))

    assert 0.13 <= drawn["a"] / 5000 <= 0.20


@pytest.mark.parametrize(
    ("changes", "carrier"),
    [
        ({"refused": {"a"}}, "b"),
        ({"refused": {"a", "b"}}, "c"),
        ({"refused": {"a", "b", "c"}}, "d"),
        ({"refused": set(ALL)}, None),
        ({"failed": {"a", "b"}}, "c"),
        ({"available": {"c", "d"}}, "c"),
        ({"available": {"d"}}, "d"),
        ({"available": {"c"}, "refused": {"c"}}, "a"),  # nobody can just now: it waits for its first choice
        ({"failed": {"a", "b", "c", "d"}, "available": {"b"}}, "b"),
        ({"health": {"a": 0.0, "b": 0.0}}, "a"),
    ],
)
def test_fails_over_in_order_and_never_to_who_has_refused(changes, carrier):
    always_a = Route(name="r", carriers={"a": 1000, "b": 1}, failover=("c", "d"))

    assert chosen(always_a, number=7, **changes) == carrier


def test_says_why():
    def why(route, **changes):
        given = {"refused": set(), "failed": set(), "health": {}, "available": ALL} | changes
        return choose(route, message_id="msg_7", **given).why

    assert why(Route(name="only", carriers={"a": 1})) == "route only: first choice"
    assert why(Route(name="two", carriers={"a": 1}, failover=("b",)), refused={"a"}) == "route two: failover"
    assert why(WEIGHTED, failed={"b"}) == "route r: first choice"
    assert why(WEIGHTED) in ("route r: 80 % by weight", "route r: 20 % by weight")
    assert why(WEIGHTED, available=()).startswith("no carrier of the route can take messages just now; route r: ")
