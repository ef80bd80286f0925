"""Where the services that `up` started can be reached: a file that other commands of the same user read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
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
    return _read(data_dir).get(part)


def running_addresses(data_dir: Path, service: str) -> Sequence[str]:
    """Return the `host:port` of each process of a service; none when there is no such file."""
    is_one = re.compile(rf"{service}(-[0-9]+)?").fullmatch
    return [address for name, address in _read(data_dir).items() if is_one(name)]


def _read(data_dir: Path) -> Mapping[str, str]:
    try:
        return {str(name): str(address) for name, address in json.loads(addresses_file(data_dir).read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}
