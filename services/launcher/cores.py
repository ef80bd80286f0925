"""How much of the machine's processors this process may use."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN_CGROUP: Final = Path("/proc/self/cgroup")
# With version 2 of cgroups all controllers are in one tree, which has no name: `0::/the/path`.
_UNIFIED: Final = "0::"


def usable_cores(*, cgroups: Path = CGROUPS, own_cgroup: Path = OWN_CGROUP) -> int:
    """Return the number of whole cores, at least 1: those that it may run on, within the limit of its cgroup, if any.

    Limits by version 1 of cgroups are not looked for.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _limit(cgroups, own_cgroup)
    return max(1, cores if limit is None else min(cores, int(limit)))


def _limit(cgroups: Path, own_cgroup: Path) -> float | None:
    """Return how many cores' time the cgroup gets; None for no limit. A limit of those around it binds it too."""
    try:
        lines = own_cgroup.read_text().splitlines()
    except OSError:
        return None
    paths = [PurePosixPath(line.removeprefix(_UNIFIED)) for line in lines if line.startswith(_UNIFIED)]
    folders = [cgroups / str(each).lstrip("/") for path in paths for each in (path, *path.parents)]
    return min((limit for limit in map(_limit_of, folders) if limit is not None), default=None)


def _limit_of(cgroup: Path) -> float | None:
    try:
        # `max 100000`, or two numbers of microseconds: so much time in each such period.
        quota, period = (cgroup / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None
