"""A disk that forgets what was not synced, for SQLite: the message store's own commits, replayed and cut off anywhere.

The store runs once on a real file while its statements are recorded. They are then replayed over this disk with the
product's own PRAGMAs until the power goes. Sources: sqlite.org/vfs.html, sqlite.org/atomiccommit.html.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from servicekit.sqlite import _WRITER_PRAGMAS
from tests.kit.statements import watched

SECTOR_BYTES = 512
DATABASE = "delivery.db"
FULL, NORMAL = 2, 1  # PRAGMA synchronous

Statement = tuple[str, Any, bool]  # SQL, parameters, whether there is a row of parameters for each of many runs


class PowerCut(Exception):  # noqa: N818  # it is an event, not an error
    """The power is gone."""


class DiskFile:
    """A file as programs see it, and as it is on the platter."""

    def __init__(self, content: bytes = b"") -> None:
        self.seen = bytearray(content)
        self._kept = bytearray(content)
        self._dirty: set[int] = set()

    def write(self, data: bytes, offset: int) -> None:
        if len(self.seen) < offset:
            self.seen.extend(bytes(offset - len(self.seen)))
        self.seen[offset : offset + len(data)] = data
        self._dirty.update(range(offset // SECTOR_BYTES, (offset + len(data) - 1) // SECTOR_BYTES + 1))

    def truncate(self, size: int) -> None:
        del self.seen[size:]

    def sync(self) -> None:
        self._keep(self._dirty)
        del self._kept[len(self.seen) :]
        self._dirty.clear()

    def lose_power(self, chance: random.Random | None) -> bytes:
        """What is found afterwards: all that was synced, and by `chance` any of the sectors that were not."""
        if chance:
            self._keep({sector for sector in sorted(self._dirty) if chance.random() < 0.5})
        return bytes(self._kept)

    def _keep(self, sectors: set[int]) -> None:
        for sector in sorted(sectors):
            start = sector * SECTOR_BYTES
            data = self.seen[start : start + SECTOR_BYTES]
            if len(self._kept) < start:
                self._kept.extend(bytes(start - len(self._kept)))
            self._kept[start : start + len(data)] = data


@dataclass
class Disk:
    """All files, and the number of writes and syncs after which the power goes (None: never)."""

    files: dict[str, DiskFile] = field(default_factory=dict)
    power_until: int | None = None
    operations: int = 0

    def operate(self) -> None:
        self.operations += 1
        self.need_power()

    def need_power(self) -> None:
        if self.power_until is not None and self.operations > self.power_until:
            raise PowerCut


class _OpenFile:
    """What SQLite calls; the names are its own."""

    def __init__(self, disk: Disk, file: DiskFile) -> None:
        self._disk = disk
        self._file = file

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.need_power()
        return bytes(self._file.seen[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.operate()
        self._file.write(bytes(data), offset)

    def xTruncate(self, size: int) -> None:
        self._disk.operate()
        self._file.truncate(size)

    def xSync(self, _flags: int) -> None:
        self._disk.operate()
        self._file.sync()

    def xFileSize(self) -> int:
        return len(self._file.seen)

    def xClose(self) -> None: ...

    def xLock(self, _level: int) -> None: ...

    def xUnlock(self, _level: int) -> None: ...

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, _operation: int, _pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:
        return 0


class _DiskSystem(apsw.VFS):
    def __init__(self, name: str, disk: Disk) -> None:
        self._disk = disk
        super().__init__(name, "")

    def xOpen(self, name: Any, _flags: list[int]) -> _OpenFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        return _OpenFile(self._disk, self._disk.files.setdefault(Path(path).name, DiskFile()))

    def xDelete(self, path: str, _sync_folder: bool) -> None:
        self._disk.operate()
        self._disk.files.pop(Path(path).name, None)

    def xAccess(self, path: str, _flags: int) -> bool:
        return Path(path).name in self._disk.files

    def xFullPathname(self, path: str) -> str:
        return path


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the store wrote: a database to begin with, its transactions, and the state after none, one, two of them."""

    base: bytes
    transactions: Sequence[Sequence[Statement]]
    states: Sequence[str]

    @classmethod
    def of(cls, base: bytes, transactions: Sequence[Sequence[Statement]], folder: Path) -> Workload:
        (folder / DATABASE).write_bytes(base)
        with contextlib.closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=0")
            states = [_state(connection)]
            for transaction in transactions:
                connection.execute("BEGIN")
                for sql, parameters, many in transaction:
                    (connection.executemany if many else connection.execute)(sql, parameters)
                connection.execute("COMMIT")
                states.append(_state(connection))
        return cls(base=base, transactions=transactions, states=states)


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What a cut left. Transactions are counted from the start."""

    acknowledged: int  # transactions whose commit had returned
    kept: int | None  # transactions that are found; None for a state that never was
    integrity: str

    @property
    def lost(self) -> int:
        return self.acknowledged if self.kept is None else max(0, self.acknowledged - self.kept)


@contextlib.contextmanager
def recorded() -> Iterator[list[list[Statement]]]:
    """Collect every committed transaction of every engine of this process, without its reads."""
    transactions: list[list[Statement]] = []
    begun: dict[object, list[Statement]] = {}

    def execute(connection: object, sql: str, parameters: Any, many: bool) -> None:
        if sql.startswith("BEGIN"):
            begun[connection] = []
        elif not sql.startswith("SELECT"):
            begun[connection].append((sql, parameters, many))

    def commit(connection: object) -> None:
        if statements := begun.pop(connection, []):
            transactions.append(statements)

    with watched(execute, commit):
        yield transactions


def replay(workload: Workload, disk: Disk, *, synchronous: int) -> int:
    """Commit transaction after transaction until the power goes; return how many commits have returned."""
    disk.files[DATABASE] = DiskFile(workload.base)
    system = _DiskSystem(f"disk-{id(disk)}", disk)
    done = 0
    connection = apsw.Connection(DATABASE, vfs=f"disk-{id(disk)}")
    try:
        # Without shared memory under it, SQLite keeps the log's index in its own; the file operations are the same.
        connection.execute("PRAGMA locking_mode=exclusive")
        for name, value in {**_WRITER_PRAGMAS, "synchronous": synchronous}.items():
            connection.execute(f"PRAGMA {name}={value}").fetchall()
        for transaction in workload.transactions:
            connection.execute("BEGIN IMMEDIATE")
            for sql, parameters, many in transaction:
                (connection.executemany if many else connection.execute)(sql, parameters).fetchall()
            connection.execute("COMMIT")
            done += 1
    except (PowerCut, apsw.Error):
        if disk.power_until is None:
            raise
    finally:
        with contextlib.suppress(PowerCut, apsw.Error):
            connection.close(True)
        system.unregister()
    return done


def cut_power(workload: Workload, folder: Path, *, operations: int, seed: int, synchronous: int = FULL) -> Aftermath:
    """Replay, cut the power at a point among `operations` that the seed picks, and look at what is left.

    Even seeds keep nothing that was not synced; odd ones keep a random half of its sectors.
    """
    chance = random.Random(seed)
    disk = Disk(power_until=chance.randrange(operations))
    acknowledged = replay(workload, disk, synchronous=synchronous)
    for name, file in disk.files.items():
        (folder / name).write_bytes(file.lose_power(chance if seed % 2 else None))
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
        integrity = str(connection.execute("PRAGMA integrity_check").fetchone()[0])
        found = _state(connection)
    kept = workload.states.index(found) if found in workload.states else None
    return Aftermath(acknowledged=acknowledged, kept=kept, integrity=integrity)


def _state(connection: sqlite3.Connection) -> str:
    digest = hashlib.sha256()
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
    for (table,) in tables:
        for row in connection.execute(f'SELECT * FROM "{table}"'):
            digest.update(repr(row).encode())
    return digest.hexdigest()
