"""What happens when processes die or are told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import stat
import threading
import time

import httpx
import pytest

from tests.e2e.conftest import Product, eventually
from tests.kit.pages import every_message

MESSAGES = 2_000
SENDERS = 8


@pytest.fixture(scope="module")
def own_product(new_product) -> Product:
    product = new_product()
    product.start()
    return product


async def post_until_accepted(client: httpx.AsyncClient, url: str, number: int) -> str:
    """Post one payload until it is accepted, as a sender would; return the message's id."""
    payload = {"to": "+6581230000", "text": f"message {number}", "ref": str(number)}
    async with asyncio.timeout(60):
        while True:
            try:
                answer = await client.post(url, json=payload)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            if answer.status_code == 202:
                return str(answer.json()["id"])
            assert answer.status_code in (429, 503), answer.text
            await asyncio.sleep(0.05)


async def kill_each_in_turn(product: Product, accepted: list[str]) -> None:
    """Kill a child after every tenth of the messages, and wait until it is back."""
    for part, name in enumerate(("delivery", "ingress", "integrations", "gateway"), start=1):
        while len(accepted) < MESSAGES * part / 10:
            await asyncio.sleep(0.02)
        pid = product.children()[name]
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while product.children().get(name, pid) == pid:
                await asyncio.sleep(0.1)


async def post_through_crashes(product: Product, url: str) -> list[str]:
    """Post 2,000 payloads while each child is killed in turn; return the ids of the accepted messages."""
    accepted: list[str] = []
    numbers = iter(range(MESSAGES))

    async def send_all(client: httpx.AsyncClient) -> None:
        for number in numbers:
            accepted.append(await post_until_accepted(client, url, number))  # noqa: PERF401  # others read it meanwhile

    async with httpx.AsyncClient(base_url=product.address, trust_env=False, timeout=10) as client:
        await asyncio.gather(kill_each_in_turn(product, accepted), *(send_all(client) for _ in range(SENDERS)))
    return accepted


def test_loses_no_accepted_message_when_each_process_is_killed_in_turn(own_product):
    with own_product.client() as api:
        made = api.post("/v1/ingress", json={"name": "Order system"}).json()

        accepted = asyncio.run(post_through_crashes(own_product, f"/v1/ingress/{made['ingressKey']}"))

        assert len(set(accepted)) == len(accepted) == MESSAGES

        def not_delivered() -> set[str]:
            return set(accepted) - {message["id"] for message in every_message(api, status="delivered")}

        eventually(not_delivered, set(), seconds=60)


def test_answers_every_request_in_hand_when_it_is_told_to_stop(new_product):
    product = new_product()
    product.start()
    with product.client() as api:
        url = api.post("/v1/ingress", json={"name": "Order system"}).json()["ingressUrl"]
    cut_off, accepted, refused = [], [], threading.Event()

    def post_until_refused() -> None:
        with httpx.Client(trust_env=False, timeout=10) as sender:
            while not refused.is_set():
                try:
                    answer = sender.post(url, json={"to": "+6581230000", "text": "in hand"})
                except httpx.ConnectError:
                    refused.set()
                except httpx.TransportError as error:
                    cut_off.append(error)
                else:
                    accepted.append(answer.status_code)

    senders = [threading.Thread(target=post_until_refused) for _ in range(4)]
    for sender in senders:
        sender.start()
    while len(accepted) < 50:
        time.sleep(0.01)
    product.stop()
    for sender in senders:
        sender.join()

    assert cut_off == []
    assert set(accepted) == {202}


@pytest.fixture(scope="module")
def two_of_ingress(new_product) -> Product:
    product = new_product()
    product.start(TEXTWAY_INGRESS_WORKERS="2")
    return product


def accepting(product: Product) -> set[str]:
    """Return which processes of Ingress have accepted twenty payloads since they started."""
    addresses = json.loads((product.data_dir / "run" / "addresses.json").read_text())
    found = set()
    for name in ("ingress", "ingress-2"):
        with contextlib.suppress(httpx.TransportError):
            metrics = httpx.get(f"http://{addresses[f'{name}_metrics']}/metrics", trust_env=False).text
            counts = re.findall(r'^textway_ingress_payloads_accepted_total{result="new"} (\S+)$', metrics, re.MULTILINE)
            if sum(map(float, counts)) >= 20:
                found.add(name)
    return found


def test_goes_on_taking_payloads_while_one_of_two_processes_of_ingress_is_killed(two_of_ingress):
    product = two_of_ingress
    with product.client() as api:
        url = api.post("/v1/ingress", json={"name": "Order system"}).json()["ingressUrl"]
    answers, ended = [], threading.Event()

    def post_until_ended() -> None:
        with httpx.Client(trust_env=False, timeout=10) as sender:
            while not ended.is_set():
                answers.append(sender.post(url, json={"to": "+6581230000", "text": "for any of them"}).status_code)

    senders = [threading.Thread(target=post_until_ended) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    try:
        eventually(lambda: accepting(product), {"ingress", "ingress-2"}, seconds=30)
        before = len(answers)
        os.kill(product.children()["ingress-2"], signal.SIGKILL)
        eventually(lambda: accepting(product), {"ingress"})
        eventually(lambda: accepting(product), {"ingress", "ingress-2"}, seconds=30)
    finally:
        ended.set()
        for sender in senders:
            sender.join()

    # Only what the process had in hand is told to be sent again, and all else is taken by the other one.
    assert set(answers[:before]) == {202}
    assert set(answers) <= {202, 503}
    assert answers.count(503) <= SENDERS


def test_tells_the_processes_of_ingress_apart_in_their_logs(two_of_ingress):
    logs = two_of_ingress.data_dir / "logs"

    first, second = (
        json.loads((logs / f"{name}.log").read_text().splitlines()[0]) for name in ("ingress", "ingress-2")
    )

    assert first["service"] == second["service"] == "ingress"
    assert second["replica"] == f"{first['replica']}-2"


def test_stops_everything_and_exits_with_0_on_sigterm(two_of_ingress):
    product = two_of_ingress
    children = product.children()
    assert set(children) == {"gateway", "integrations", "ingress", "ingress-2", "delivery"}

    started = time.monotonic()
    status = product.stop()

    assert status == 0
    assert time.monotonic() - started < 25
    for pid in children.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_keeps_everything_across_a_restart(new_product):
    product = new_product()
    product.start()
    with product.client() as api:
        made = api.post("/v1/ingress", json={"name": "Order system", "signingSecret": "keep-this-secret"}).json()
        message_id = api.post("/v1/messages", json={"to": "+6581230000", "text": "kept"}).json()["id"]
        eventually(lambda: api.get(f"/v1/messages/{message_id}").json()["status"], "delivered")
    product.stop()

    product.start()

    with product.client() as api:
        assert api.get(f"/v1/ingress/{made['id']}").json() == made
        assert api.get(f"/v1/messages/{message_id}").json()["text"] == "kept"
        unsigned = api.post(f"/v1/ingress/{made['ingressKey']}", json={"to": "+6581230000", "text": "x"})
        assert unsigned.json()["error"] == "invalid_signature"
    stored = (product.data_dir / "integrations.db").read_bytes()
    assert b"keep-this-secret" not in stored
    assert made["ingressKey"].encode() not in stored
    assert product.key.encode() not in stored
    assert stat.S_IMODE((product.data_dir / "key-ring").stat().st_mode) == 0o600


def test_puts_no_secret_text_or_whole_number_into_logs(new_product):
    product = new_product()
    product.start()
    with product.client() as api:
        made = api.post("/v1/ingress", json={"name": "Order system", "signingSecret": "a-signing-secret"}).json()
        api.post(f"/v1/ingress/{made['ingressKey']}", json={"to": "+6581230000", "text": "unsigned words"})
        api.patch(f"/v1/ingress/{made['id']}", json={"signingSecret": ""})
        body = {"to": "+6581230000", "text": "very private words"}
        message_id = api.post(f"/v1/ingress/{made['ingressKey']}", json=body).json()["id"]
        eventually(lambda: api.get(f"/v1/messages/{message_id}").json()["status"], "delivered")
    product.stop()

    files = [
        path for path in product.data_dir.rglob("*") if path.is_file() and path.suffix in (".log", ".txt", ".conf")
    ]
    everything = "".join(product.output) + "".join(path.read_text(errors="replace") for path in files)
    assert message_id in everything
    for secret in (
        made["ingressKey"],
        product.key,
        "a-signing-secret",
        "private words",
        "unsigned words",
        "+6581230000",
    ):
        assert secret not in everything.replace(try_out_payload(everything), ""), secret


def try_out_payload(output: str) -> str:
    """The greeting's own example has a number in it."""
    found = re.search(r"curl -s \"\$INGRESS_URL\".*", output)
    return found.group(0) if found else ""
