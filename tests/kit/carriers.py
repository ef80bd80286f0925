"""Writes the product a `carriers.yaml` that leads to a test's own carrier."""

from __future__ import annotations

import json
from pathlib import Path

SENDER = "+6598765432"


def carriers_file(folder: Path, url: str, capability: str = "blind", *, name: str = "gateway", **more: object) -> Path:
    """Write a file with one carrier that follows `own-gateway`; `more` are further keys of it, such as `limits`."""
    carrier = {
        "definition": "own-gateway",
        "from": SENDER,
        "settings": {"url": url},
        "capability": capability,
        **more,
    }
    path = folder / "carriers.yaml"
    path.write_text(json.dumps({"carriers": {name: carrier}}, indent=2))  # JSON is YAML
    return path
