"""`textway up`: the whole product on one machine, each part its own process, until it is told to stop."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from servicekit import wakeups
from servicekit.settings import ENV_PREFIX, SettingsError, load
from services.launcher import gateway_process
from services.launcher.keep import Plan, become_keeper, report
from services.launcher.processes import SERVICES, ServiceProcess, choose_addresses, planned, sockets_folder
from services.launcher.runtime import addresses_file, write_addresses
from services.launcher.settings import LauncherSettings
from services.launcher.supervision import Child, Folders

PYTHON: Final = (sys.executable, "-m", "services")
GREETER: Final = (*PYTHON, "greet")
Result = TypeVar("Result")
# How a command ends that has said which setting can not be used.
SETTING_TOLD: Final = 2
# Open files that the gateway needs for its 4,000 connections, and then some.
OPEN_FILES: Final = 16_384


def run_up(settings: LauncherSettings, *, greeter: Sequence[str] = GREETER, python: Sequence[str] = PYTHON) -> int:
    """Run everything until SIGTERM or SIGINT, from then on as another program in this process (`keep`).

    `greeter` is a command that is started with the product, and says when all is serving. `python` is the command that
    runs a service when `serve <name>` is added. Raises SettingsError when a port or the data folder can not be had, or
    the carriers' file can not be used; returns an exit code when the databases can not be brought up to date.
    """
    data_dir = settings.data_dir.absolute()
    folders = Folders(logs=data_dir / "logs", run=data_dir / "run")
    for folder in (data_dir, folders.logs, folders.run):
        _make(folder)
    services = planned(settings)
    with _only_one(folders.run / "up.lock") as lock, sockets_folder(folders.run, services) as sockets:
        _check_port(settings)
        _raise_open_files()
        wakeups.spare()  # the gateway too, as whatever is started from here
        addresses = choose_addresses(services, settings, sockets)
        os.environ.update(_environment(settings, data_dir, addresses))
        configuration = _aside(_prepare, settings, folders.run / "gateway", sockets, services, addresses)
        if code := subprocess.run([*python, "migrate"], check=False).returncode:
            if code == SETTING_TOLD:
                return code
            report("the databases could not be brought up to date")
            return 1
        gateway = {"gateway": settings.address, "gateway_admin": str(sockets / gateway_process.ADMIN_SOCKET)}
        write_addresses(data_dir, {**addresses, **gateway})
        plan = Plan(
            children=[*(_child(each, addresses, python) for each in services), _gateway(settings, configuration)],
            folders=folders,
            sockets=sockets,
            greeter=greeter,
            addresses=addresses_file(data_dir),
        )
        return become_keeper(plan, lock)


def _aside(step: Callable[..., Result], *arguments: object) -> Result:
    """Run a step in a process of its own, so that all that it imports is gone with it; raise what it raises."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("fork")) as process:
        return process.submit(step, *arguments).result()


def _prepare(
    settings: LauncherSettings,
    folder: Path,
    sockets: Path,
    services: Sequence[ServiceProcess],
    addresses: Mapping[str, str],
) -> Path:
    from services.launcher import carriers_command, gateway, settings_reference
    from services.launcher.parts import PARTS

    for sentence in settings_reference.mistyped(os.environ):
        report(sentence)
    # What is wrong in a setting or in a file is told once, and before anything starts.
    for part in PARTS.values():
        load(part.settings_type)
    carriers_command.read()
    try:
        return gateway.prepare(
            folder,
            listen=f"{settings.http_host}:{settings.http_port}",
            upstreams=gateway.Upstreams(
                integrations=addresses["integrations"],
                ingress=tuple(addresses[each.name] for each in services if each.service == "ingress"),
                delivery=addresses["delivery"],
            ),
            secured=gateway.Tls.of(settings),
            sockets=sockets,
            health_seconds=gateway.HEALTH_SECONDS_OF_ONE,
        )
    except OSError as error:  # a full disk, most likely: these are the first files with anything in them
        raise _not_writable(folder, os.strerror(error.errno or 0)) from None


def _child(process: ServiceProcess, addresses: Mapping[str, str], python: Sequence[str]) -> Child:
    return Child(
        name=process.name,
        command=(*python, *process.arguments),
        environment=process.environment(addresses),
        group=process.service,
    )


def _gateway(settings: LauncherSettings, configuration: Path) -> Child:
    command = gateway_process.command(configuration, workers=settings.gateway_workers)
    return Child(name="gateway", command=command)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError:
        raise _not_writable(folder, "it is a file") from None
    except OSError as error:
        raise _not_writable(folder, os.strerror(error.errno or 0)) from None
    if not os.access(folder, os.W_OK | os.X_OK):  # it was there, and is somebody else's or read-only
        raise _not_writable(folder, os.strerror(errno.EACCES))


def _not_writable(path: Path, why: str) -> SettingsError:
    return SettingsError(f"{ENV_PREFIX}DATA_DIR: {path} can not be written to ({why}): choose another folder")


@contextlib.contextmanager
def _only_one(lock_file: Path) -> Iterator[int]:
    try:
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _not_writable(lock_file, os.strerror(error.errno or 0)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(
            f"{ENV_PREFIX}DATA_DIR: another `textway up` is using {lock_file.parent.parent}: stop it, or choose another"
        ) from None
    else:
        yield descriptor
    finally:
        os.close(descriptor)


def _check_port(settings: LauncherSettings) -> None:
    family = socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.http_host, settings.http_port))
        except OSError as error:
            at_fault = "HOST" if error.errno == errno.EADDRNOTAVAIL else "PORT"
            raise SettingsError(
                f"{ENV_PREFIX}HTTP_{at_fault}: {settings.http_host}:{settings.http_port} can not be listened on"
                f" ({os.strerror(error.errno or 0)}): choose another {at_fault.lower()}"
            ) from None


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _environment(settings: LauncherSettings, data_dir: Path, addresses: Mapping[str, str]) -> dict[str, str]:
    values = {
        "DATA_DIR": str(data_dir),
        "PUBLIC_URL": settings.public_url or settings.address,
        "EGRESS_ALLOW": settings.egress_allow,
    }
    for name in SERVICES:
        values[f"{name.upper()}_ADDRESS"] = addresses[name]
    return {f"{ENV_PREFIX}{name}": value for name, value in values.items()}
