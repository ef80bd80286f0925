"""Routes as they are written: what a correct list becomes, and what is refused, with its line."""

from __future__ import annotations

import pytest

from services.delivery.carriers.yaml_document import read_yaml
from services.delivery.installation.file_items import CheckedFile
from services.delivery.installation.route_entries import read_routes
from services.delivery.routing import Route

CARRIERS = ("main", "smsc")
INTEGRATION = "wkh_01m82aa6rjf2w4dfra4tnmseb0"


def read(text: str) -> tuple[tuple[Route, ...], list[str]]:
    """Return the routes, and every problem in a line."""
    file = CheckedFile(read_yaml(text, "carriers.yaml"))
    routes = read_routes(file, CARRIERS)
    return routes, [f"{issue.path}: {issue.message}" for issue in file.issues]


def test_without_routes_all_carriers_are_one_route_in_their_order():
    routes, problems = read("carriers: {}")

    assert problems == []
    assert routes == (Route(name="default", carriers={"main": 1}, failover=("smsc",)),)


def test_a_route_has_all_its_conditions():
    routes, problems = read(
        f"""\
routes:
  - name: singapore
    to: {{prefixes: ["+65", +6598], countries: [SG, NO]}}
    integrations: [{INTEGRATION}]
    from: [ACME, "+6598765432"]
    tags: [alerts]
    carriers: {{main: 80, smsc: 20}}
    sender: ACME
"""
    )

    assert problems == []
    assert routes[0] == Route(
        name="singapore",
        carriers={"main": 80, "smsc": 20},
        sender="ACME",
        prefixes=("+65", "+6598"),
        countries=frozenset({"SG", "NO"}),
        integrations=frozenset({INTEGRATION}),
        senders=frozenset({"ACME", "+6598765432"}),
        tags=frozenset({"alerts"}),
    )


def test_a_default_route_is_added_only_when_no_route_takes_everything():
    limited, _ = read("routes:\n  - {name: a, tags: [x], carriers: [main]}\n")
    complete, _ = read("routes:\n  - {name: a, tags: [x], carriers: [main]}\n  - {name: b, carriers: [smsc]}\n")

    assert [route.name for route in limited] == ["a", "default"]
    assert [route.name for route in complete] == ["a", "b"]


def test_the_first_of_a_list_takes_all_and_the_others_are_failover():
    routes, problems = read("routes:\n  - {name: a, carriers: [smsc, main]}\n")

    assert problems == []
    assert (routes[0].carriers, routes[0].failover) == ({"smsc": 1}, ("main",))


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ("{carriers: [main]}", "routes[0].name: is missing"),
        ("{name: Main Route, carriers: [main]}", "routes[0].name: must be 1 to 32 lower-case letters"),
        ("{name: a}", "routes[0].carriers: is missing: name at least one of main, smsc"),
        ("{name: a, carriers: []}", "routes[0].carriers: is empty"),
        ("{name: a, carriers: {}}", "routes[0].carriers: is empty"),
        ("{name: a, carriers: main}", "routes[0].carriers: must be a mapping"),
        ("{name: a, carriers: [mian]}", "routes[0].carriers[0]: there is no carrier `mian`: did you mean `main`?"),
        ("{name: a, carriers: {mian: 1}}", "routes[0].carriers.mian: there is no carrier `mian`"),
        ("{name: a, carriers: {main: 0}}", "routes[0].carriers.main: must be a whole number from 1 to 1000"),
        ("{name: a, carriers: {main: 1001}}", "routes[0].carriers.main: must be a whole number from 1 to 1000"),
        ("{name: a, carriers: {main: 1.5}}", "routes[0].carriers.main: must be a whole number from 1 to 1000"),
        ("{name: a, carriers: [main, main]}", "routes[0].carriers[1]: `main` is in this list already"),
        ("{name: a, carriers: [main], failover: [main]}", "routes[0].failover[0]: `main` is among the carriers"),
        ("{name: a, carriers: [main], failover: [x]}", "routes[0].failover[0]: there is no carrier `x`"),
        ("{name: a, carriers: [main], weight: 1}", "routes[0].weight: is not known here"),
        ("{name: a, carriers: [main], tag: [x]}", "routes[0].tag: is not known here: did you mean `tags`?"),
        ("{name: a, carriers: [main], to: {}}", "routes[0].to: is empty"),
        ("{name: a, carriers: [main], to: '+65'}", "routes[0].to: must be a mapping"),
        ("{name: a, carriers: [main], to: {prefixes: []}}", "routes[0].to.prefixes: is empty"),
        ("{name: a, carriers: [main], to: {prefixes: }}", "routes[0].to.prefixes: must be a list"),
        ("{name: a, carriers: [main], to: {prefixes: ['65']}}", "routes[0].to.prefixes[0]: must be the beginning"),
        ("{name: a, carriers: [main], to: {prefixes: [+]}}", "routes[0].to.prefixes[0]: must be the beginning"),
        (
            "{name: a, carriers: [main], to: {countries: [sg]}}",
            "routes[0].to.countries[0]: `sg` must be in capitals",
        ),
        ("{name: a, carriers: [main], to: {countries: [XX]}}", "routes[0].to.countries[0]: `XX` is no country"),
        ("{name: a, carriers: [main], to: {countries: [SG, SG]}}", "routes[0].to.countries[1]: `SG` is in this list"),
        (
            "{name: a, carriers: [main], integrations: [wkh_1]}",
            "routes[0].integrations[0]: must be an integration",
        ),
        ("{name: a, carriers: [main], from: [ACME-SHOP]}", "routes[0].from[0]: must be a number such as"),
        ("{name: a, carriers: [main], sender: ABCDEFGHIJKL}", "routes[0].sender: must be a number such as"),
        ("{name: a, carriers: [main], sender: ' ACME'}", "routes[0].sender: must be a number such as"),
        ("{name: a, carriers: [main], sender: }", "routes[0].sender: is empty"),
        ("{name: a, carriers: [main], tags: [[x]]}", "routes[0].tags[0]: must be one text"),
        (f"{{name: a, carriers: [main], tags: [{'x' * 65}]}}", "routes[0].tags[0]: has 65 characters"),
        ("{name: default, tags: [x], carriers: [main]}", "routes[0].name: is the name of the route that takes what"),
        ("main", "routes[0]: must be a mapping"),
    ],
)
def test_a_wrong_route_is_refused_with_its_line_and_key(route, problem):
    _, problems = read(f"# one line before\nroutes:\n  - {route}\n")

    assert len(problems) == 1, problems
    assert problems[0].startswith(f"carriers.yaml:3: {problem}")


def test_one_name_belongs_to_one_route():
    _, problems = read("routes:\n  - {name: a, tags: [x], carriers: [main]}\n  - {name: a, carriers: [main]}\n")

    assert problems == [
        "carriers.yaml:3: routes[1].name: there is a route `a` already: give this one a name of its own"
    ]


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("", "tags: [x]"),
        ("", ""),
        ("tags: [x]", "tags: [x]"),
        ("tags: [x, y]", "tags: [y], from: [ACME]"),
        ("to: {prefixes: ['+65']}", "to: {prefixes: ['+659', '+658']}"),
        ("to: {countries: [SG, MY]}", "to: {countries: [SG]}"),
    ],
)
def test_a_route_that_no_message_can_reach_is_refused(wide, narrow):
    first, second = (f", {text}" if text else "" for text in (wide, narrow))

    _, problems = read(
        f"routes:\n  - {{name: a, carriers: [main]{first}}}\n  - {{name: b, carriers: [main]{second}}}\n"
    )

    assert problems == [
        "carriers.yaml:3: routes[1]: no message can reach it: all that fit it are taken by route `a` before"
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tags: [x]", "tags: [x, y]"),
        ("tags: [x]", "from: [ACME]"),
        ("to: {prefixes: ['+659']}", "to: {prefixes: ['+65']}"),
        ("to: {prefixes: ['+65']}, tags: [x]", "to: {prefixes: ['+65']}"),
    ],
)
def test_a_route_that_some_message_can_reach_is_taken(first, second):
    _, problems = read(
        f"routes:\n  - {{name: a, carriers: [main], {first}}}\n  - {{name: b, carriers: [main], {second}}}\n"
    )

    assert problems == []


def test_a_route_with_a_wrong_condition_hides_no_other():
    _, problems = read(
        "routes:\n  - {name: a, carriers: [main], to: {countries: [XX]}}\n  - {name: b, carriers: [main], tags: [x]}\n"
    )

    assert len(problems) == 1
    assert "routes[0].to.countries[0]" in problems[0]
