"""Supervision of small real processes; each test runs a supervisor in a process of its own, as `up` does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.launcher import supervision

SUPERVISOR = """
import sys, time
from pathlib import Path
from services.launcher.supervision import Child, Folders, supervise

folder = Path(sys.argv[1])
children = []
for said in sys.argv[4:]:
    group, _, name = said.rpartition("/")
    children.append(Child(name=name, command=(sys.executable, sys.argv[2], name, str(folder)), group=group))
folders = Folders(logs=folder / "logs", run=folder / "run")
print(
    supervise(
        children,
        folders,
        report=lambda text: print(text, flush=True),
        on_start=lambda: print("begun"),
        on_stop=lambda: exec(sys.argv[3]),
    )
)
"""
WRITE_EVENTS = """
import os, signal, sys, time
name, folder = sys.argv[1:]
def note(event):
    with open(folder + "/events", "a") as file:
        file.write(f"{event} {name} {os.getpid()}\\n")
def stop(*_):
    note("stop")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("start")
print("hello from", name, file=sys.stderr, flush=True)
"""
LIVE = WRITE_EVENTS + "while True: time.sleep(60)"
DIE = WRITE_EVENTS + "sys.exit(7)"
WAIT_FOR_EACH_OTHER = (
    WRITE_EVENTS
    + """
def stop_with_the_other(*_):
    note("stop")
    deadline = time.monotonic() + 10
    while open(folder + "/events").read().count("stop") < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    note("end")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop_with_the_other)
while True: time.sleep(60)
"""
)
CHATTER = (
    WRITE_EVENTS
    + """
while not os.path.exists(folder + "/ending"):
    time.sleep(0.02)
print("x" * 1_000_000, file=sys.stderr, flush=True)
note("written")
while True: time.sleep(60)
"""
)
WAIT_FOR_CHATTER = """
(folder / "ending").touch()
deadline = time.monotonic() + 10
while "written" not in (folder / "events").read_text() and time.monotonic() < deadline:
    time.sleep(0.02)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(child: str, *names: str, on_stop: str = "print('ending')") -> subprocess.Popen[str]:
        script = tmp_path / "child.py"
        script.write_text(child)
        command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), str(script), on_stop, *names]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def events(folder: Path) -> list[tuple[str, str, int]]:
    file = folder / "events"
    rows = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [(event, name, int(pid)) for event, name, pid in rows]


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_starts_in_order_and_stops_in_reverse_order(start: Start, tmp_path: Path) -> None:
    process = start(LIVE, "first", "second", "third")
    wait_for(lambda: len(events(tmp_path)) == 3)

    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)

    assert output.splitlines()[-1] == "True"
    assert [name for event, name, _ in events(tmp_path) if event == "stop"] == ["third", "second", "first"]
    assert not any(is_alive(pid) for _, _, pid in events(tmp_path))


@pytest.mark.parametrize("is_ignored", [True, False])
def test_outlives_its_terminal_where_it_was_told_to(start: Start, tmp_path: Path, is_ignored: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    try:
        process = start(LIVE, "one")  # which has the signals of whoever starts it, as with `nohup`
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(lambda: len(events(tmp_path)) == 1)

    process.send_signal(signal.SIGHUP)
    time.sleep(1.5)  # more than a turn of its loop
    told = [event for event, _, _ in events(tmp_path)]

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert ("stop" not in told) is is_ignored


def test_stops_those_of_a_group_together(start: Start, tmp_path: Path) -> None:
    process = start(WAIT_FOR_EACH_OTHER, "both/one", "both/two")
    wait_for(lambda: len(events(tmp_path)) == 2)

    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=40)

    assert output.splitlines()[-1] == "True"
    assert [event for event, _, _ in events(tmp_path)] == ["start", "start", "stop", "stop", "end", "end"]


@pytest.mark.parametrize(
    ("lived_seconds", "back_within_seconds"), [(0, 3), (supervision.START_SECONDS + 0.5, 0.9)], ids=["young", "old"]
)
def test_starts_a_dead_child_again_and_says_so(
    start: Start, tmp_path: Path, lived_seconds: float, back_within_seconds: float
) -> None:
    process = start(LIVE, "one", "two")
    wait_for(lambda: len(events(tmp_path)) == 2)
    time.sleep(lived_seconds)
    dead = next(pid for _, name, pid in events(tmp_path) if name == "two")

    os.kill(dead, signal.SIGKILL)
    wait_for(lambda: len(events(tmp_path)) == 3, back_within_seconds)

    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert events(tmp_path)[2][:2] == ("start", "two")
    assert "two has stopped by itself" in output
    assert str(tmp_path / "logs" / "two.log") in output


def test_gives_up_on_a_child_that_can_not_start_and_shows_its_log(start: Start, tmp_path: Path) -> None:
    process = start(DIE, "broken")

    output, _ = process.communicate(timeout=60)

    assert output.splitlines()[-1] == "False"
    assert "broken can not be started" in output
    assert "hello from broken" in output
    assert len(events(tmp_path)) == supervision.START_RETRIES + 1


def test_keeps_what_children_write_in_files(start: Start, tmp_path: Path) -> None:
    process = start(LIVE, "one")
    log = tmp_path / "logs" / "one.log"
    wait_for(lambda: log.exists() and "hello from one" in log.read_text())

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)

    assert "hello" not in output


def test_reads_what_children_write_until_they_are_stopped(start: Start, tmp_path: Path) -> None:
    process = start(CHATTER, "one", on_stop=WAIT_FOR_CHATTER)
    wait_for(lambda: len(events(tmp_path)) == 1)

    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)

    assert output.splitlines()[-1] == "True"
    assert [event for event, _, _ in events(tmp_path)] == ["start", "written", "stop"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_children_do_not_outlive_a_killed_supervisor(start: Start, tmp_path: Path) -> None:
    process = start(LIVE, "one", "two")
    wait_for(lambda: len(events(tmp_path)) == 2)
    pids = [pid for _, _, pid in events(tmp_path)]

    process.kill()

    wait_for(lambda: not any(is_alive(pid) for pid in pids))
