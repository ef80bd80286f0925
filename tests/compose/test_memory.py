"""What the containers hold does not grow with the messages that went through them."""

from __future__ import annotations

import os
import time

import pytest

from .engine import OWN_CARRIER, wait_until, wait_until_ready
from .load import post_many

FIRST = 5_000
ALL = 50_000
AT_ONCE = 48
MOST_GROWTH = 1.2
SERVICES = ("gateway", "integrations", "ingress", "delivery", "postgres")
MIB = 1024 * 1024
SETTLED_SECONDS = 5


@pytest.mark.timeout(1200)
def test_no_container_grows_with_fifty_thousand_messages(new_installation, figure):
    installation = new_installation(OWN_CARRIER)
    installation.up()
    wait_until_ready(installation)
    carrier = installation.carrier()
    url = installation.new_integration()["ingressUrl"]
    containers = {service: installation.containers(service)[0] for service in SERVICES}

    def memory_after(messages: int) -> dict[str, int]:
        answers = post_many(url, messages - carrier.count(), at_once=AT_ONCE)
        assert {answer.status for answer in answers} == {202}
        wait_until(lambda: carrier.count() == messages, f"{messages} are sent", within=300)
        time.sleep(SETTLED_SECONDS)
        return {service: container.memory() for service, container in containers.items()}

    early = memory_after(FIRST)
    began = time.monotonic()
    late = memory_after(ALL)
    took = time.monotonic() - began

    growth = {service: late[service] / early[service] for service in SERVICES}
    each = ", ".join(
        f"{service} {early[service] / MIB:.0f} to {late[service] / MIB:.0f} MiB ({growth[service]:.2f})"
        for service in SERVICES
    )
    figure(f"memory after {FIRST} and {ALL} messages ({(ALL - FIRST) / took:.0f}/s, {os.cpu_count()} cores): {each}")
    assert max(growth.values()) <= MOST_GROWTH, each
    installation.down()
