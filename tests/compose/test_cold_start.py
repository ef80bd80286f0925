"""From nothing to the first delivered message, with no step between."""

from __future__ import annotations

import json
import time

import pytest

from .engine import run, wait_until, wait_until_ready

PAYLOAD = {"to": "+6581230000", "text": "Order #4821 confirmed", "ref": "4821"}


@pytest.fixture(scope="module")
def plain(new_installation):
    """The product as `docker compose up` starts it, with the simulated carrier."""
    return new_installation()


def test_delivers_the_first_message_after_a_cold_up_with_no_step_between(plain, figure):
    began = time.monotonic()
    plain.up()
    came_up = time.monotonic() - began

    wait_until_ready(plain)
    made = plain.new_integration()
    with plain.client() as api:
        accepted = api.post(f"/v1/ingress/{made['ingressKey']}", json=PAYLOAD)
        assert accepted.status_code == 202, accepted.text
        path = f"/v1/messages/{accepted.json()['id']}"
        wait_until(lambda: api.get(path).json()["status"] == "delivered", "the first message is delivered")

    figure(f"cold start: up after {came_up:.1f} s, first message delivered after {time.monotonic() - began:.1f} s")
    assert made["ingressUrl"] == f"{plain.address}/v1/ingress/{made['ingressKey']}"


def test_every_container_is_healthy_and_none_runs_as_root(plain):
    for service in ("gateway", "integrations", "ingress", "delivery", "postgres"):
        (container,) = plain.containers(service)
        wait_until(lambda one=container: one.health == "healthy", f"{service} is healthy")
        if service != "postgres":  # which changes its user by itself
            assert run("docker", "exec", container.id, "id", "-u").strip() == "10001"


def test_an_operator_makes_the_first_key_by_one_command(plain):
    printed = plain.compose("exec", "-T", "integrations", "textway", "keys", "create")

    key = printed.split()[0]
    with plain.client() as api:
        answer = api.get("/v1/messages", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text


def test_logs_are_json_and_hold_no_secret(plain):
    logs = plain.compose("logs", "--no-color", "integrations", "ingress", "delivery")

    lines = [line.partition("|")[2].strip() for line in logs.splitlines() if "|" in line]
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines), logs
    (postgres,) = plain.containers("postgres")
    password = run("docker", "exec", postgres.id, "cut", "-d:", "-f5", "/login/login").strip()
    everything = plain.compose("logs", "--no-color")
    assert password
    assert password not in everything
    assert plain.key not in everything


def test_keeps_everything_when_it_is_started_again(plain):
    made = plain.new_integration()

    plain.compose("stop", "--timeout", "30")
    plain.up()
    wait_until_ready(plain)

    with plain.client() as api:
        assert api.get(f"/v1/ingress/{made['id']}").json()["ingressKey"] == made["ingressKey"]
        assert api.post(f"/v1/ingress/{made['ingressKey']}", json=PAYLOAD).status_code == 202


def test_only_who_has_business_with_the_database_can_reach_it(plain):
    (postgres,) = plain.containers("postgres")
    connect = f"import socket; socket.create_connection(('{postgres.address('database')}', 5432), 2)"

    def reaches_it(service: str) -> bool:
        command = ("exec", "-T", service, "python", "-c", f"try: {connect}\nexcept OSError: print('no')")
        return "no" not in plain.compose(*command)

    assert (reaches_it("delivery"), reaches_it("integrations"), reaches_it("ingress")) == (True, True, False)
