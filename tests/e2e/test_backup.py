"""A backup that is taken while messages flow, and what is there when it is restored."""

from __future__ import annotations

import hashlib
import hmac
import json
import stat
import threading
from typing import Self

import httpx

from tests.e2e.conftest import Product, eventually

SECRET = "a-long-shared-secret"


class Sender:
    """Posts messages, one after the other, and remembers those that were acknowledged."""

    def __init__(self, product: Product, path: str) -> None:
        self.acknowledged: list[str] = []
        self._product = product
        self._path = path
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._product.address, trust_env=False, timeout=10) as client:
            while not self._stopping.is_set():
                self.acknowledged.append(post_signed(client, self._path).json()["id"])


def post_signed(client: httpx.Client, path: str) -> httpx.Response:
    body = json.dumps({"to": "+6581230000", "text": "Order #4821 confirmed"}).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    answer = client.post(path, content=body, headers={"X-Webhook-Signature": f"sha256={signature}"})
    assert answer.status_code == 202, answer.text
    return answer


def test_a_backup_under_load_holds_all_that_was_acknowledged_before_it(new_product, tmp_path):
    product, folder = new_product(), tmp_path / "monday"
    product.start()
    key = product.command("keys", "create").split()[0]
    with product.client(key) as api:
        made = api.post("/v1/ingress", json={"name": "Shop", "signingSecret": SECRET}).json()
    path = f"/v1/ingress/{made['ingressKey']}"
    with Sender(product, path) as sender:
        eventually(lambda: len(sender.acknowledged) > 20, True)
        before = list(sender.acknowledged)

        said = product.command("backup", str(folder))

        eventually(lambda: len(sender.acknowledged) > len(before) + 20, True)
    product.stop()
    assert "delivery.db" in said
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == dict.fromkeys(
        ("backup.json", "delivery.db", "integrations.db", "key-ring"), 0o600
    )

    restored = new_product()
    restored.command("restore", "--hold", str(folder))
    restored.start()

    with restored.client(key) as api:
        assert post_signed(api, path).status_code == 202  # the key, the address and the secret are what they were
        found = {message_id: api.get(f"/v1/messages/{message_id}").json()["status"] for message_id in before}
        assert set(found.values()) <= {"delivered", "sent", "unknown"}
        held = api.get("/v1/messages", params={"status": "unknown"}).json()["messages"]
        for message in held:
            api.post(f"/v1/messages/{message['id']}/resolve", json={"resolution": "resend"})
        for message in held:
            eventually(lambda path=f"/v1/messages/{message['id']}": api.get(path).json()["status"], "delivered", 30)
    restored.stop()


def test_neither_a_backup_nor_data_are_overwritten(new_product, tmp_path):
    product = new_product()
    product.command("migrate")
    product.command("keys", "list")
    product.command("backup", str(tmp_path / "monday"))

    assert "exists already" in refused(product, "backup", str(tmp_path / "monday"))
    assert "is there already: stop the product" in refused(product, "restore", str(tmp_path / "monday"))
    assert "is no finished backup" in refused(product, "restore", str(tmp_path))


def refused(product: Product, *arguments: str) -> str:
    done = product.run(*arguments)
    assert done.returncode == 1
    return done.stderr
