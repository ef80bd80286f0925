"""The services' processes on one machine: what each is called, and where it listens."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from servicekit.settings import ENV_PREFIX, MAX_SOCKET_PATH, UNIX, SettingsError
from services.launcher.gateway_process import ADMIN_SOCKET
from services.launcher.settings import LauncherSettings

SERVICES: Final = ("integrations", "delivery", "ingress")
# What a process listens for, as its settings and the file of addresses call it.
CALLS, METRICS = "", "_metrics"


@dataclass(frozen=True, kw_only=True)
class ServiceProcess:
    """One of the processes that serve a service, counted from 1."""

    service: str
    number: int = 1

    @property
    def name(self) -> str:
        """What it is called: `ingress`, `ingress-2` and so on."""
        return self.service if self.number == 1 else f"{self.service}-{self.number}"

    @property
    def arguments(self) -> Sequence[str]:
        """What the `textway` command must be told to be this process."""
        numbered = () if self.number == 1 else ("--number", str(self.number))
        return ("serve", self.service, *numbered)

    def environment(self, addresses: Mapping[str, str]) -> Mapping[str, str]:
        """Return the settings by which it differs from others of its service."""
        return {
            f"{ENV_PREFIX}{self.service.upper()}{purpose.upper()}_LISTEN": addresses[f"{self.name}{purpose}"]
            for purpose in (CALLS, METRICS)
        }


def planned(settings: LauncherSettings) -> Sequence[ServiceProcess]:
    """Return the processes in the order in which they start."""
    counts = {"ingress": settings.ingress_workers}
    return [
        ServiceProcess(service=service, number=number)
        for service in SERVICES
        for number in range(1, counts.get(service, 1) + 1)
    ]


def choose_addresses(
    processes: Sequence[ServiceProcess], settings: LauncherSettings, sockets: Path
) -> Mapping[str, str]:
    """Return where each process listens, by its name, and for metrics by `<name>_metrics`.

    The first of a service listens where the settings say, and the others beside it: each at a free port of the same
    host, since a certificate names the host. Where they say nothing, it is a socket in the folder `sockets`, or a free
    port when calls are to be enciphered. Raises SettingsError when there is none.
    """
    chosen: dict[str, str] = {}
    with contextlib.ExitStack() as held:
        for process in processes:
            for purpose in (CALLS, METRICS):
                setting = f"{process.service}{purpose}_listen"
                told = str(getattr(settings, setting))
                if not told and purpose == CALLS and not settings.tls_cert:
                    told = f"{UNIX}{sockets / process.service}.sock"
                if not told or process.number > 1:
                    told = _another(process, told) if told.startswith(UNIX) else _free_address(held, told, setting)
                chosen[f"{process.name}{purpose}"] = told
    return chosen


def _another(process: ServiceProcess, beside: str) -> str:
    return f"{beside.removesuffix('.sock')}-{process.number}.sock"


@contextlib.contextmanager
def sockets_folder(folder: Path, processes: Sequence[ServiceProcess]) -> Iterator[Path]:
    """Give where sockets are made: in the folder, or where their paths would be too long for that, in one that is made.

    That is in the folder of temporary files, and nobody else can open it. It is removed when the block ends. Raises
    SettingsError when paths would be too long there, too.
    """
    names = [*(f"{process.name}.sock" for process in processes), ADMIN_SOCKET]
    if _has_room(folder, names):
        yield folder
        return
    made = Path(tempfile.mkdtemp(prefix="textway-"))
    try:
        if not _has_room(made, names):
            raise SettingsError(
                f"{ENV_PREFIX}DATA_DIR: sockets in {folder} would have longer paths than {MAX_SOCKET_PATH} bytes, and"
                f" in {made.parent} too: choose a shorter folder, or one for TMPDIR"
            )
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _has_room(folder: Path, names: Sequence[str]) -> bool:
    return max(len(str(folder / name).encode()) for name in names) <= MAX_SOCKET_PATH


def _free_address(held: contextlib.ExitStack, beside: str, setting: str) -> str:
    host = beside.rpartition(":")[0] or "127.0.0.1"
    try:
        family, *_, at = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)[0]
        # Held until all are chosen, so that no two get the same.
        probe = held.enter_context(socket.socket(family))
        probe.bind(at)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else "there is no such host"
        raise SettingsError(f"{ENV_PREFIX}{setting.upper()}: {host} can not be listened on ({reason})") from None
    return f"{host}:{probe.getsockname()[1]}"
