"""Facts about the machine and the code, without which a figure says nothing."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_SYNCS: Final = 200


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and on what a run was made."""

    at: str
    commit: str
    is_dirty: bool
    cores: int
    cpu: str
    memory_gib: float
    kernel: str
    python: str
    sync_ms: float  # one append of 512 bytes and fdatasync, the median: every durable figure hangs on it
    load_average: float  # when the run began


def describe(data_folder: Path) -> Machine:
    """Look at the machine, and at the disk under a folder."""
    return Machine(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=_git("rev-parse", "--short=10", "HEAD") or "unknown",
        is_dirty=bool(_git("status", "--porcelain")),
        cores=len(os.sched_getaffinity(0)),
        cpu=_cpu_model(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        sync_ms=_sync_milliseconds(data_folder),
        load_average=os.getloadavg()[0],
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _sync_milliseconds(folder: Path) -> float:
    with tempfile.TemporaryFile(dir=folder) as file:
        times = []
        for _ in range(_SYNCS):
            before = time.perf_counter()
            file.write(bytes(512))
            file.flush()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - before) * 1000)
    return round(statistics.median(times), 3)
