"""How the carriers are, as a user asks the running product."""

from __future__ import annotations

import httpx

from tests.e2e.conftest import Product


def test_carriers_are_listed_with_their_state(api: httpx.Client) -> None:
    answer = api.get("/v1/carriers")

    assert answer.status_code == 200, answer.text
    (simulator,) = answer.json()["carriers"]
    assert (simulator["name"], simulator["kind"], simulator["state"]) == ("simulator", "simulator", "healthy")


def test_carriers_are_not_shown_without_a_key(post: httpx.Client) -> None:
    answer = post.get("/v1/carriers")

    assert answer.status_code == 401
    assert answer.json()["error"] == "unauthorized"


def test_the_command_shows_the_same(product: Product) -> None:
    heads, simulator = product.command("carriers", "list").splitlines()

    assert heads.split()[:3] == ["carrier", "kind", "state"]
    assert simulator.split()[:3] == ["simulator", "simulator", "healthy"]
