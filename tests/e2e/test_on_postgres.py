"""The product on PostgreSQL, as a user who moves there sees it."""

from __future__ import annotations

import httpx

from tests.e2e.conftest import eventually, on_postgres

PAYLOAD = {"to": "+6581230000", "text": "Order #4821 confirmed", "ref": "4821"}


def test_walks_from_a_payload_to_a_reply_and_keeps_everything_across_a_restart(new_product, postgres_url):
    with on_postgres(new_product(), postgres_url) as product:
        with product.client() as api:
            made = api.post("/v1/ingress", json={"name": "Order system", "preset": "generic"}).json()
            accepted = api.post(f"/v1/ingress/{made['ingressKey']}", json={**PAYLOAD, "to": "+6581230005"}).json()
            path = f"/v1/messages/{accepted['id']}"
            eventually(lambda: api.get(path).json()["status"], "delivered")
            eventually(lambda: [entry["event"] for entry in timeline(api, path)][-1], "reply")
            refused = api.post("/v1/messages", json={"to": "+6581230001", "text": "magic"}).json()
            eventually(lambda: api.get(f"/v1/messages/{refused['id']}").json()["status"], "failed")
            changed = api.patch(f"/v1/ingress/{made['id']}", json={"toPath": "phone"}).json()
        assert not list(product.data_dir.glob("*.db"))

        product.stop()
        product.start()

        with product.client() as api:
            assert api.get(f"/v1/ingress/{made['id']}").json() == changed
            assert api.get(path).json()["status"] == "delivered"
            assert api.post(f"/v1/ingress/{made['ingressKey']}", json=PAYLOAD).json()["error"] == "missing_fields"


def timeline(api: httpx.Client, path: str) -> list[dict[str, str]]:
    return api.get(f"{path}/timeline").json()["entries"]
