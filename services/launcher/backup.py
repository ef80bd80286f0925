"""`textway backup` and `textway restore`: the SQLite files and the key ring, copied while the product runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from servicekit.clock import SystemClock
from servicekit.errors import ServiceError
from servicekit.file_refusals import refusal_told
from servicekit.settings import ENV_PREFIX, load
from services.delivery import maintenance
from services.delivery.settings import DeliverySettings
from services.launcher import databases
from services.launcher.places import KEY_RING, Places, places

MANIFEST: Final = "backup.json"
LOCK_SECONDS: Final = 30.0
# What SQLite takes for the newest commits of the database beside it, whichever that is by now.
_BESIDE: Final = ("-wal", "-journal")


class BackupError(ServiceError):
    """A backup can not be made or restored; the message says why."""


def back_up(folder: Path) -> str:
    """Copy everything into a new folder; return the words to print. Messages go on being taken meanwhile."""
    found = places()
    for place in (*found.databases, found.key_ring):
        place.require()
    with refusal_told(f"{folder} can not be written"):
        if folder.exists():
            raise BackupError(f"{folder} exists already: name a new folder, so that no older backup is lost")
        _copy_all(found, folder)
        return "\n".join([*_lines(folder, found), *(_left_out(name) for name in found.on_servers)])


def _copy_all(found: Places, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    taken_at = SystemClock().now().isoformat()
    with contextlib.ExitStack() as undo:
        # Half a backup is of no use, and may be what has filled the disk.
        undo.callback(shutil.rmtree, partial, ignore_errors=True)
        for place in found.databases:
            with _sqlite_told(f"{place.path} can not be copied into {folder}"):
                _copy_database(place.path, partial / place.name)
        _copy_file(found.key_ring.path, partial / KEY_RING)
        _write(
            partial / MANIFEST,
            json.dumps({"takenAt": taken_at, "files": sorted(each.name for each in found.databases)}),
        )
        # Only what is whole and on disk gets the name that was asked for.
        _sync(partial)
        partial.rename(folder)
        undo.pop_all()
    _sync(folder.parent)


def restore(folder: Path) -> str:
    """Copy a backup to where the settings say; return the words to print. Nothing that is there is overwritten."""
    found = places()
    with refusal_told(f"{folder} can not be read"):
        _require_whole(folder, found)
    there = (*found.databases, found.key_ring)
    for place in there:
        with refusal_told(f"{place.setting}: {place.path} can not be read"):
            _require_free(place.path)
    # All or nothing: `up` would go on with a part of it as if that were the whole.
    with contextlib.ExitStack() as undo:
        for place in there:
            with refusal_told(f"{place.setting}: {place.path} can not be restored"):
                place.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _copy_file(folder / place.name, place.path)
                undo.callback(place.path.unlink)
                _sync(place.path.parent)
        undo.pop_all()
    return "\n".join(f"{place.path} is restored" for place in there)


def _require_whole(folder: Path, found: Places) -> None:
    if not (folder / MANIFEST).is_file():
        raise BackupError(f"{folder} is no finished backup: there is no {MANIFEST} in it")
    copied, wanted = _copied_databases(folder), {place.name for place in found.databases}
    for name in sorted(copied ^ wanted):
        setting = f"{ENV_PREFIX}{Path(name).stem.upper()}_DATABASE_URL"
        if name in copied:
            raise BackupError(f"{folder} holds {name}, and {setting} names a server: unset it to restore this backup")
        raise BackupError(f"{folder} holds no {name}: set {setting} to the server that it was on")
    for name in (*sorted(copied), KEY_RING):
        if not (folder / name).is_file():
            raise BackupError(f"{folder} is not whole: there is no {name} in it")
    for name in sorted(copied):
        _require_sound(folder / name)


def _copied_databases(folder: Path) -> set[str]:
    try:
        return {str(name) for name in json.loads((folder / MANIFEST).read_text())["files"]}
    except (ValueError, KeyError, TypeError):
        raise BackupError(f"{folder / MANIFEST} is damaged: restore another backup") from None


def _require_sound(database: Path) -> None:
    with _sqlite_told(f"{database} can not be restored"), _opened(f"{database.absolute().as_uri()}?mode=ro") as copy:
        problem = _problem(copy)
    if problem:
        raise BackupError(f"{database} is damaged: {problem}")


def _require_free(path: Path) -> None:
    for each in (path, *(path.with_name(f"{path.name}{ending}") for ending in _BESIDE)):
        if each.exists():
            raise BackupError(f"{each} is there already: stop the product, move what is there away, and try again")


async def hold_queue() -> str:
    """Hold all messages that Delivery's database says are to be sent; return the words to print."""
    await databases.require("delivery")
    settings = load(DeliverySettings)
    await maintenance.migrate(settings)
    held = await maintenance.hold_queue(settings, SystemClock())
    return f"{held:,} messages are held as `unknown`: docs/guides/backup-and-restore.md tells how to send or end them"


def _copy_database(source: Path, target: Path) -> None:
    _write(target, "")
    with _opened(f"{source.absolute().as_uri()}?mode=ro") as original, _opened(target.absolute().as_uri()) as copy:
        # In one step, so that it is one moment's state, however much is written meanwhile; writers do not wait for it.
        original.backup(copy, pages=-1)
        # A copy in one file, which needs nothing beside it.
        copy.execute("PRAGMA journal_mode=delete")
        problem = _problem(copy)
    if problem:
        raise BackupError(f"the copy of {source} is damaged: {problem}")
    _sync(target)


def _problem(database: sqlite3.Connection) -> str:
    said = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    return "" if said == "ok" else " ".join(said.split())


def _opened(uri: str) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None))


@contextlib.contextmanager
def _sqlite_told(what: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise BackupError(f"{what} (SQLite: {error})") from None


def _copy_file(source: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as copy, source.open("rb") as original:
            shutil.copyfileobj(original, copy)
            copy.flush()
            os.fsync(copy.fileno())
    except BaseException:
        target.unlink()
        raise


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lines(folder: Path, found: Places) -> list[str]:
    sizes: Mapping[str, int] = {place.name: (folder / place.name).stat().st_size for place in found.databases}
    lines = [f"{folder / name}  {size:,} bytes" for name, size in sizes.items()]
    return [*lines, f"{folder / KEY_RING}  opens the secrets in it: keep it as safe as they are"]


def _left_out(name: str) -> str:
    return f"{name.capitalize()} is on PostgreSQL, which has its own tools: see docs/guides/backup-and-restore.md"
