"""Campaign: the network to the carrier goes wrong in every way, and each message's timeline tells what happened."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import eventually
from tests.faults.conftest import FULL
from tests.kit.proxy import HEALTHY, FaultProxy, Toxic

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

TAKEN, UNKNOWN, TRY_LATER = ("taken", False), ("unknown", True), ("try_later", False)
TAKEN_PERHAPS_TWICE = ("taken", True)


@pytest.fixture
def proxied(campaign):
    """A product whose way to the carrier leads through a proxy, and that proxy."""
    with contextlib.ExitStack() as stack:

        def proxy_before(carrier_url: str) -> str:
            nonlocal proxy
            proxy = stack.enter_context(FaultProxy(carrier_url))
            return proxy.url

        proxy: FaultProxy
        begun = campaign(capability="blind", way=proxy_before)
        yield begun, proxy


@contextlib.contextmanager
def toxic(proxy: FaultProxy, what: Toxic) -> Iterator[None]:
    proxy.toxic = what
    try:
        yield
    finally:
        proxy.toxic = HEALTHY


def attempts(api, message_id) -> list[tuple[str, bool]]:
    """Each finished attempt's outcome, and whether it is marked."""
    entries = api.get(f"/v1/messages/{message_id}/timeline").json()["entries"]
    return [
        (each["outcome"], each.get("possibleDuplicate", False))
        for each in entries
        if each["event"] == "attempt_finished"
    ]


def test_timelines_tell_the_truth_about_a_broken_network(proxied, figures):
    begun, proxy = proxied

    def send(text: str) -> str:
        answer = api.post("/v1/messages", json={"to": "+6581230000", "text": text})
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def becomes(message_id: str, expected: list[tuple[str, bool]], *, taken: int) -> None:
        eventually(lambda: attempts(api, message_id), expected, seconds=20)
        eventually(lambda: api.get(f"/v1/messages/{message_id}").json()["status"], "sent")
        assert begun.carrier.taken()[message_id] == taken

    with begun.product.client() as api:
        with toxic(proxy, Toxic(latency_seconds=1)):
            becomes(send("slow"), [TAKEN], taken=1)

        with toxic(proxy, Toxic(reset_answer=True)):
            answer_lost = send("the answer is lost")
            eventually(lambda: attempts(api, answer_lost)[:1], [("unknown", False)])
        becomes(answer_lost, [UNKNOWN, TAKEN_PERHAPS_TWICE], taken=2)

        with toxic(proxy, Toxic(reset_request=True)):
            request_lost = send("the request is lost")
            eventually(lambda: attempts(api, request_lost)[:1], [("unknown", False)])
        becomes(request_lost, [UNKNOWN, TAKEN_PERHAPS_TWICE], taken=1)

        with proxy.not_listening():
            nobody = send("nobody listens")
            eventually(lambda: attempts(api, nobody)[:1], [TRY_LATER])
        eventually(lambda: attempts(api, nobody)[-1:], [TAKEN], seconds=20)
        assert set(attempts(api, nobody)[:-1]) == {TRY_LATER}
        assert begun.carrier.taken()[nobody] == 1

        if FULL:
            for what in (Toxic(swallow_answer=True), Toxic(black_hole=True)):
                with toxic(proxy, what):
                    silent = send("nothing comes back")
                    eventually(lambda held=silent: attempts(api, held)[:1], [("unknown", False)], seconds=25)
                becomes(silent, [UNKNOWN, TAKEN_PERHAPS_TWICE], taken=2 if what.swallow_answer else 1)
    figures(f"sms={begun.carrier.taken().total()}")
