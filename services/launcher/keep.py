"""What `textway up` becomes once all is prepared: it keeps the children running, and imports only what that takes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NoReturn

from services.launcher import gateway_process
from services.launcher.supervision import Child, Folders, supervise

_PLAN: Final = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be kept running, and what goes with it."""

    children: Sequence[Child]
    folders: Folders
    sockets: Path  # the folder where all listen; it is removed in the end when it is not the one of `folders`
    greeter: Sequence[str]  # a command that says when all is serving, and ends
    addresses: Path  # a file that is there while all of this runs


def become_keeper(plan: Plan, lock: int) -> NoReturn:
    """Put a process in the place of this one that keeps the plan, and the lock, a file descriptor.

    It is the same process to everybody else. What was imported to prepare all, 30 MiB, is gone.
    """
    file = plan.folders.run / _PLAN
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as output:
        json.dump(
            {
                "children": [asdict(child) for child in plan.children],
                "logs": str(plan.folders.logs),
                "run": str(plan.folders.run),
                "sockets": str(plan.sockets),
                "greeter": plan.greeter,
                "addresses": str(plan.addresses),
            },
            output,
        )
    os.set_inheritable(lock, True)  # noqa: FBT003  # it takes no keywords
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", __name__, str(file), str(lock)])


def report(sentence: str) -> None:
    """Tell whoever ran `up` something."""
    print(f"textway: {sentence}", file=sys.stderr, flush=True)


def main(file: Path, lock: int) -> int:
    """Keep the plan in a file until SIGTERM or SIGINT; return the exit code."""
    os.set_inheritable(lock, False)  # noqa: FBT003  # as above
    plan = _read(file)
    try:
        with _greeter(plan.greeter) as greet:
            kept = supervise(
                plan.children,
                plan.folders,
                report=report,
                on_start=greet,
                on_stop=lambda: gateway_process.drain(plan.sockets / gateway_process.ADMIN_SOCKET),
            )
    finally:
        plan.addresses.unlink(missing_ok=True)
        if plan.sockets != plan.folders.run:
            shutil.rmtree(plan.sockets, ignore_errors=True)
    return 0 if kept else 1


def _read(file: Path) -> Plan:
    said = json.loads(file.read_text())
    return Plan(
        children=[Child(**child) for child in said["children"]],
        folders=Folders(logs=Path(said["logs"]), run=Path(said["run"])),
        sockets=Path(said["sockets"]),
        greeter=said["greeter"],
        addresses=Path(said["addresses"]),
    )


class _Greeter:
    """The process that says when all is serving."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        # In a group of its own: Ctrl-C is for the supervisor, which ends it.
        self._process = subprocess.Popen(self._command, process_group=0)

    def end(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()


@contextlib.contextmanager
def _greeter(command: Sequence[str]) -> Iterator[_Greeter]:
    greeter = _Greeter(command)
    try:
        yield greeter
    finally:
        greeter.end()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
