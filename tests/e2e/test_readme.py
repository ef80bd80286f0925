"""The README's walk, command by command as it stands there, against its own answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Product

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(bash|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def walk() -> list[tuple[str, str]]:
    """The steps of the README's walk."""
    return steps_of(README.read_text().partition("## The walk")[2].partition("## Numbers that play a role")[0])


def steps_of(text: str) -> list[tuple[str, str]]:
    """Each shell block of a text with the answer that follows it (empty for none)."""
    blocks = BLOCK.findall(text)
    return [
        (command, blocks[number + 1][1] if number + 1 < len(blocks) and blocks[number + 1][0] == "json" else "")
        for number, (kind, command) in enumerate(blocks)
        if kind == "bash"
    ]


def matches(answer: str, shown: str) -> bool:
    """Compare an answer with what a document shows of it, where an ellipsis stands for anything."""
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("…"))
    return re.search(pattern, answer, re.DOTALL) is not None


def take_the_walk(product: Product, folder: Path, **environment: str) -> None:
    """Run the README's walk as it is written."""
    steps = walk()
    assert len(steps) >= 7
    run_steps(product, folder, steps, **environment)


def run_steps(product: Product, folder: Path, steps: list[tuple[str, str]], **environment: str) -> None:
    """Run every step as it is written, at this product's address and with its key, and compare every answer."""
    script = ["set -e"]
    for number, (command, _) in enumerate(steps):
        here = command.replace("http://127.0.0.1:8080", product.address).replace("/tmp/", f"{folder}/")
        here = here.replace("sk_live_...", product.key)
        script.append(f"{{ {here}\n}} > {folder}/answer-{number}")

    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    for number, (_, shown) in enumerate(steps):
        if shown:
            answer = (folder / f"answer-{number}").read_text().replace(product.address, "http://127.0.0.1:8080")
            assert matches(answer, shown), f"the document shows\n{shown}\nand the answer is\n{answer}"


def test_the_walk_works_as_it_is_written(product, tmp_path):
    take_the_walk(product, tmp_path)


def test_the_lines_that_up_prints_work_when_pasted(new_product):
    product = new_product()
    product.start(TEXTWAY_BOOTSTRAP_KEY=None)
    lines = [line.strip() for line in product.output if line.startswith("  ")]
    assert len(lines) == 3

    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True, timeout=60)

    accepted, listed = (json.loads(line) for line in re.findall(r"\{.*?\}(?=\{|$)", done.stdout.replace("}\n{", "}{")))
    assert accepted["status"] == "queued"
    assert accepted["id"] == listed["messages"][0]["id"]


def test_up_shows_a_new_key_the_first_time_only(new_product):
    product = new_product()
    product.start(TEXTWAY_BOOTSTRAP_KEY=None)
    shown = re.findall(r"sk_live_\w{40}", "".join(product.output))
    product.stop()
    product.output.clear()

    product.start(TEXTWAY_BOOTSTRAP_KEY=None)

    assert len(set(shown)) == 1
    assert not re.search(r"sk_live_\w{40}", "".join(product.output))
    with product.client(shown[0]) as api:
        assert api.get("/v1/messages").status_code == 200


@pytest.mark.parametrize(
    ("number", "outcome"), [("+6581230000", "delivered"), ("+6581230001", "failed"), ("hello", "400")]
)
def test_send_tells_what_became_of_a_message(product, number, outcome):
    done = subprocess.run(
        [*product.python, "send", number, "Hello"],
        env={**product.environment, "TEXTWAY_API_KEY": product.key},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert outcome in done.stdout + done.stderr
    assert (done.returncode == 0) is (outcome == "delivered")


def test_keys_can_be_managed_while_the_product_is_down(new_product):
    product = new_product()
    product.command("migrate")
    made = product.command("keys", "create", "--name", "nightly job")
    key = made.split()[0]
    listed = product.command("keys", "list")
    assert "nightly job" in listed
    assert key not in listed

    product.start()

    with product.client(key) as api:
        assert api.get("/v1/messages").status_code == 200
        (line,) = [line for line in listed.splitlines() if "nightly job" in line]
        product.command("keys", "revoke", line.split()[0])
        assert api.get("/v1/ingress").status_code == 401
