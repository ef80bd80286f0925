"""How many cores there are to be used, within the limits of a cgroup and of those around it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.launcher.cores import usable_cores


@pytest.fixture(autouse=True)
def _runs_on_eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)


def cores_within(folder: Path, limits: dict[str, str], own: str = "0::/outer/inner\n") -> int:
    """Return what is found where each cgroup, by its path, has a limit."""
    for path, limit in limits.items():
        cgroup = folder / "cgroups" / path
        cgroup.mkdir(parents=True, exist_ok=True)
        (cgroup / "cpu.max").write_text(limit)
    (folder / "own").write_text(own)
    return usable_cores(cgroups=folder / "cgroups", own_cgroup=folder / "own")


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, 8),
        ({"outer/inner": "max 100000\n"}, 8),
        ({"outer/inner": "400000 100000\n"}, 4),
        ({"outer/inner": "270000 100000\n"}, 2),
        ({"outer/inner": "50000 100000\n"}, 1),
        ({"outer/inner": "6400000 100000\n"}, 8),
        ({"outer/inner": "max 100000\n", "outer": "300000 100000\n"}, 3),
        ({"outer/inner": "600000 100000\n", ".": "500000 100000\n"}, 5),
        ({"elsewhere": "100000 100000\n"}, 8),
        ({"outer/inner": "nonsense"}, 8),
    ],
)
def test_takes_the_tightest_limit_that_binds_the_process(tmp_path, limits, cores):
    found = cores_within(tmp_path, limits)

    assert found == cores


def test_looks_at_the_top_in_a_container_that_sees_only_its_own_cgroup(tmp_path):
    found = cores_within(tmp_path, {".": "200000 100000\n"}, own="0::/\n")

    assert found == 2


def test_counts_what_it_may_run_on_where_there_are_no_cgroups(tmp_path):
    found = usable_cores(cgroups=tmp_path / "none", own_cgroup=tmp_path / "none")

    assert found == 8


def test_counts_the_machines_cores_where_the_system_binds_no_process_to_some(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)

    found = usable_cores(cgroups=tmp_path / "none", own_cgroup=tmp_path / "none")

    assert found == 6
