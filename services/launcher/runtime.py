"""Where the services that `up` started can be reached: a file that other commands of the same user read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


def addresses_file(data_dir: Path) -> Path:
    """Return the file's place in a data folder."""
    return data_dir / "run" / "addresses.json"


def write_addresses(data_dir: Path, addresses: Mapping[str, str]) -> None:
    """Write the addresses, readable by this user only."""
    path = addresses_file(data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(dict(addresses), file)


def running_address(data_dir: Path, part: str) -> str | None:
    """Return a part's `host:port` as `up` wrote it; None when there is no such file."""
    try:
        return str(json.loads(addresses_file(data_dir).read_text())[part])
    except (OSError, ValueError, KeyError):
        return None
