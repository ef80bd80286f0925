"""What the machine's processes use, read from /proc: CPU by name, resident memory, and how busy everybody else was."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process as the kernel shows it at one moment."""

    pid: int
    parent: int
    command: str
    cpu_seconds: float  # its own, and that of children which it has outlived
    resident_bytes: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The CPU that named groups of processes have used up to one moment, and the whole machine."""

    at: float
    cpu_seconds: Mapping[str, float]
    machine_busy_seconds: float


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What was used between two snapshots."""

    seconds: float
    cpu_seconds: Mapping[str, float]
    others_share: float  # CPU of everybody else, in cores

    @classmethod
    def between(cls, before: Snapshot, after: Snapshot) -> Usage:
        """Return the difference."""
        seconds = after.at - before.at
        used = {name: after.cpu_seconds[name] - before.cpu_seconds.get(name, 0.0) for name in after.cpu_seconds}
        busy = after.machine_busy_seconds - before.machine_busy_seconds
        return cls(
            seconds=seconds, cpu_seconds=used, others_share=max(0.0, (busy - sum(used.values())) / max(seconds, 0.001))
        )


def all_processes() -> dict[int, Process]:
    """Return every process that can be seen, by its pid."""
    found = (_read(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdigit())
    return {process.pid: process for process in found if process}


def tree(root: int, processes: Mapping[int, Process]) -> list[Process]:
    """Return a process and all that descend from it."""
    return [process for process in processes.values() if root in _line_of(process, processes)]


def named(root: int, names: Mapping[str, str], processes: Mapping[int, Process]) -> dict[str, list[Process]]:
    """Sort a tree by names: each process goes to the nearest of itself and its ancestors whose command has the word.

    `names` gives the word for each name. What has none is filed under `launcher`.
    """
    sorted_by_name: dict[str, list[Process]] = {name: [] for name in (*names, "launcher")}
    for process in tree(root, processes):
        line = _line_of(process, processes)
        commands = [processes[pid].command for pid in line[: line.index(root)]]  # whoever started us is no part of it
        found = (name for command in commands for name, word in names.items() if word in command)
        sorted_by_name[next(found, "launcher")].append(process)
    return sorted_by_name


def snapshot(groups: Mapping[str, Iterable[Process]]) -> Snapshot:
    """Return what groups that were read just now have used."""
    return Snapshot(
        at=time.monotonic(),
        cpu_seconds={name: sum(process.cpu_seconds for process in group) for name, group in groups.items()},
        machine_busy_seconds=_machine_busy_seconds(),
    )


def resident_mebibytes(groups: Mapping[str, Iterable[Process]]) -> dict[str, float]:
    """Return each group's resident memory. Pages that processes share count in each of them."""
    return {name: sum(process.resident_bytes for process in group) / _MEBIBYTE for name, group in groups.items()}


def proportional_mebibytes(groups: Mapping[str, Iterable[Process]]) -> dict[str, float]:
    """Return each group's share of memory: a page that is in several processes is divided among them.

    It is what the machine has less of. Processes of somebody else's that use the same files take their share too.
    """
    return {
        name: sum(_proportional_bytes(process.pid) for process in group) / _MEBIBYTE for name, group in groups.items()
    }


def _line_of(process: Process, processes: Mapping[int, Process]) -> list[int]:
    """Return the pids of a process and of its ancestors, nearest first."""
    line = [process.pid]
    while (parent := processes[line[-1]].parent) in processes and parent not in line:
        line.append(parent)
    return line


def _read(pid: int) -> Process | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
        command = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None  # it has just ended
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        command=command,
        cpu_seconds=sum(map(int, fields[11:15])) / _TICKS_PER_SECOND,
        resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
    )


def _proportional_bytes(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it has just ended
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _machine_busy_seconds() -> float:
    user, nice, system, _idle, _waiting, irq, softirq, *_ = map(
        int, (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / _TICKS_PER_SECOND
