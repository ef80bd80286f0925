"""Children that are started in order, again when they die, and stopped in reverse order; supervisord does the work."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from configparser import RawConfigParser
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from supervisor import events
from supervisor.medusa.asyncore_25 import ExitNow
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor

# A child that dies sooner than this is tried again after 1, 2, 3 ... seconds and then given up; one that dies later is
# started again at once. It must be longer than a slow machine takes to import a service that then refuses to start.
START_SECONDS: Final = 5
START_RETRIES: Final = 4
# A service gets 20 seconds to finish what it has begun, and a little more to close its database.
STOP_SECONDS: Final = 25
# How often it looks while children start or stop; supervisord's own second is long for who waits for an answer.
ROUND_SECONDS: Final = 0.1
# How often it looks while all run. A signal, which the end of a child is too, is seen to at once.
QUIET_ROUND_SECONDS: Final = 5.0
LOG_BYTES: Final = 10 * 1024 * 1024
LOG_BACKUPS: Final = 5

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True, kw_only=True)
class Child:
    """One process to keep running.

    Those of one group, which stand side by side, are stopped together; by default each is a group of its own.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)  # beside what is inherited; no value has a quote in it
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where supervision keeps its files: the children's logs, and what is of use only while it runs."""

    logs: Path
    run: Path

    def log_of(self, child: str) -> Path:
        """Return the file of what a child says on standard error."""
        return self.logs / f"{child}.log"


def supervise(
    children: Sequence[Child],
    folders: Folders,
    *,
    report: Callable[[str], None],
    on_start: Callable[[], None],
    on_stop: Callable[[], None],
) -> bool:
    """Keep children running until SIGTERM or SIGINT; return False when it ended because one can not be started.

    They inherit this process's environment, and on Linux they are told to stop when this process is killed. What each
    writes goes to `<name>.log` (standard error) and `<name>.out.log`. `report` gets a sentence for each event that a
    person should know of; `on_start` is called once, when supervision has begun. `on_stop` is called once, in a thread
    of its own, and the first child is stopped when it has returned: until then the children work on, and what they
    write is read. Call it in the main thread.
    """
    options = _Options()
    options.realize(["-c", str(_write_configuration(children, folders))], doc=__doc__)
    options.first = True
    options.test = False
    supervisor = _Supervisor(options, folders, report, on_start, on_stop)
    try:
        supervisor.main()
    except ExitNow:
        pass
    finally:
        supervisor.see_the_end_said()
        options.close_logger()
    return not supervisor.gave_up


class _Options(ServerOptions):  # type: ignore[misc]  # supervisor has no types
    def setsignals(self) -> None:
        """Hear signals, save for the end of the terminal where whoever started this has it ignored (`nohup`)."""
        outlives_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        super().setsignals()
        if outlives_terminal:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def setpgrp(self) -> None:
        """Give a child that was just forked its own group, and let it not outlive its parent."""
        super().setpgrp()
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class _Supervisor(Supervisor):  # type: ignore[misc]  # supervisor has no types
    def __init__(
        self,
        options: _Options,
        folders: Folders,
        report: Callable[[str], None],
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        super().__init__(options)
        self.gave_up = False
        self._folders = folders
        self._report = report
        self._on_start = on_start
        # A child whose pipe is full stands still, so this must not keep the loop from reading.
        self._ending = threading.Thread(target=on_stop, name="ending", daemon=True)

    def runforever(self) -> None:
        """Begin; the base class has just forgotten all subscriptions."""
        events.subscribe(events.SupervisorStoppingEvent, lambda _event: self._ending.start())
        events.subscribe(events.ProcessStateExitedEvent, self._on_exit)
        events.subscribe(events.ProcessStateBackoffEvent, self._on_backoff)
        events.subscribe(events.ProcessStateFatalEvent, self._on_fatal)
        signals, writes = os.pipe()
        os.set_blocking(writes, False)
        signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        self.options.poller.poll = partial(self._poll, self.options.poller.poll, signals)
        self._on_start()
        super().runforever()

    def see_the_end_said(self) -> None:
        """Return when `on_stop` has, if it was called at all."""
        if self._ending.ident is not None:
            self._ending.join()

    def ordered_stop_groups_phase_1(self) -> None:
        """Stop the next group, once all is said and done that comes before."""
        if not self._ending.is_alive():
            super().ordered_stop_groups_phase_1()

    def _poll(
        self, poll: Callable[[float], tuple[list[int], list[int]]], signals: int, _timeout: float
    ) -> tuple[list[int], list[int]]:
        self.options.poller.register_readable(signals)
        readable, writable = poll(QUIET_ROUND_SECONDS if self._is_quiet() else ROUND_SECONDS)
        if signals in readable:
            os.read(signals, 1)  # one of them is handled in each round
        return [file for file in readable if file != signals], writable

    def _is_quiet(self) -> bool:
        processes = (process for group in self.process_groups.values() for process in group.processes.values())
        return self.options.mood == SupervisorStates.RUNNING and all(
            process.get_state() == ProcessStates.RUNNING for process in processes
        )

    def _on_exit(self, event: Any) -> None:
        name = event.process.config.name
        self._report(f"{name} has stopped by itself and is started again; its log is {self._folders.log_of(name)}")

    def _on_backoff(self, event: Any) -> None:
        name, tries = event.process.config.name, event.process.backoff
        if tries <= START_RETRIES:
            self._report(
                f"{name} has stopped by itself soon after its start and is started again in {tries} s;"
                f" its log is {self._folders.log_of(name)}"
            )

    def _on_fatal(self, event: Any) -> None:
        name = event.process.config.name
        log = self._folders.log_of(name)
        self._report(f"{name} can not be started, so everything is stopped. The end of {log}:\n{_tail(log)}")
        self.gave_up = True
        self.options.mood = SupervisorStates.SHUTDOWN


def _write_configuration(children: Sequence[Child], folders: Folders) -> Path:
    for folder in (folders.logs, folders.run):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    parser = RawConfigParser()
    parser["supervisord"] = {
        "nodaemon": "true",
        "silent": "true",
        "logfile": _escaped(folders.logs / "supervisor.log"),
        "logfile_maxbytes": str(LOG_BYTES),
        "logfile_backups": str(LOG_BACKUPS),
        "pidfile": _escaped(folders.run / "supervisor.pid"),
        "childlogdir": _escaped(folders.logs),
    }
    for position, child in enumerate(children, start=1):
        parser[f"program:{child.name}"] = {
            "command": _escaped(shlex.join(child.command)),
            "environment": _escaped(",".join(f'{name}="{value}"' for name, value in child.environment.items())),
            "priority": str(position),
            "autorestart": "true",
            "startsecs": str(START_SECONDS),
            "startretries": str(START_RETRIES),
            "stopwaitsecs": str(STOP_SECONDS),
            "killasgroup": "true",
            "stdout_logfile": _escaped(folders.logs / f"{child.name}.out.log"),
            "stdout_logfile_maxbytes": str(LOG_BYTES),
            "stdout_logfile_backups": str(LOG_BACKUPS),
            "stderr_logfile": _escaped(folders.log_of(child.name)),
            "stderr_logfile_maxbytes": str(LOG_BYTES),
            "stderr_logfile_backups": str(LOG_BACKUPS),
        }
    groups = groupby(children, key=lambda child: child.group or child.name)
    for position, (group, members) in enumerate(groups, start=1):
        programs = ",".join(child.name for child in members)
        parser[f"group:{group}"] = {"programs": programs, "priority": str(position)}
    path = folders.run / "supervisor.conf"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        parser.write(file)
    return path


def _escaped(value: object) -> str:
    return str(value).replace("%", "%%")


def _tail(path: Path, lines: int = 10) -> str:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return "(there is none)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "(it is empty)"
