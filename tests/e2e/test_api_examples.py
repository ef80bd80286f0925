"""The examples of docs/api.md, command by command as they stand there, against their own answers."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.test_readme import run_steps, steps_of

REFERENCE = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_examples_work_as_they_are_written(new_product, tmp_path):
    product = new_product()  # one that has no webhook yet
    product.start()
    steps = steps_of(REFERENCE.read_text())
    assert len(steps) >= 14

    run_steps(product, tmp_path, steps)
