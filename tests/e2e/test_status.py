"""`textway status`, as an operator types it."""

from __future__ import annotations

import json
import re

from tests.e2e.conftest import eventually
from tests.kit.ports import free_address


def test_shows_every_process_the_queue_and_the_carriers(product, api):
    sent = api.post("/v1/messages", json={"to": "+6581230000", "text": "Hello"}).json()
    eventually(lambda: api.get(f"/v1/messages/{sent['id']}").json()["status"], "delivered")

    for_people, for_machines = product.run("status"), product.run("status", "--json")

    assert (for_people.returncode, for_people.stderr) == (0, "")
    lines = for_people.stdout.splitlines()
    assert lines[0] == "Textway is ready."
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert [rows[name][2] for name in ("integrations", "delivery", "ingress", "gateway")] == ["ready"] * 4
    assert rows["gateway"][1] == product.address
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", rows["gateway"][3])
    assert rows["queue"][1:3] == ["0", "ready,"]
    assert rows["simulator"][1:3] == ["simulator", "healthy"]
    told = json.loads(for_machines.stdout)
    assert told["ready"]
    assert told["queue"]["ready"] == 0
    # Other tests of this product have callbacks that are to be tried again.
    assert rows["webhooks"][1:3] == [f"{told['webhooks']['pending']:,}", "pending,"]
    assert told["disabledWebhooks"] == 0
    assert told["carriers"][0]["sentLastMinute"] >= 1


def test_says_that_nothing_runs_with_a_data_folder(new_product):
    product = new_product()

    for_people, for_machines = product.run("status"), product.run("status", "--json")

    assert (for_people.returncode, for_people.stderr) == (1, "")
    assert for_people.stdout == f"No `textway up` runs with the data folder {product.data_dir} (TEXTWAY_DATA_DIR).\n"
    assert (for_machines.returncode, for_machines.stderr) == (1, "")
    told = json.loads(for_machines.stdout)
    assert (told["ready"], told["replicas"]) == (False, [])


def test_says_which_service_does_not_answer_where_it_was_told_to_look(new_product):
    product = new_product()
    address = free_address()
    product.environment["TEXTWAY_DELIVERY_ADDRESS"] = address

    done = product.run("status")

    assert (done.returncode, done.stderr) == (1, "")
    assert f"delivery at {address}: does not answer" in done.stdout
