"""What `textway backup` and `textway restore` say where files can not be read or written."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from servicekit.settings import SettingsError
from services.launcher.backup import BackupError, back_up, restore
from services.launcher.places import NotThereError

# Modes of files do not count for root, who runs tests in containers: what is in the way here is of the wrong kind.


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("delivery.db", "integrations.db", "key-ring"):
        (folder / name).touch()
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(folder))
    return folder


@pytest.mark.parametrize("setting", ["TEXTWAY_DATA_DIR", "TEXTWAY_DELIVERY_DATABASE_URL", "TEXTWAY_KEY_RING_FILE"])
def test_names_the_setting_of_a_file_that_can_not_be_read(data_dir, tmp_path, monkeypatch, setting):
    folder = tmp_path / "folder"
    folder.mkdir()
    told = {"TEXTWAY_DATA_DIR": data_dir / "integrations.db", "TEXTWAY_DELIVERY_DATABASE_URL": f"sqlite:///{folder}"}
    monkeypatch.setenv(setting, str(told.get(setting, folder)))

    with pytest.raises(SettingsError, match=f"^{setting}: .* can not be read \\((Not|Is) a directory\\)$"):
        back_up(tmp_path / "monday")

    assert not list(tmp_path.glob("monday*"))


@pytest.mark.parametrize("name", ["delivery.db", "integrations.db", "key-ring"])
def test_makes_nothing_when_something_is_not_there(data_dir, tmp_path, name):
    (data_dir / name).unlink()

    with pytest.raises(NotThereError, match=f"{name} is not there"):
        back_up(tmp_path / "monday")

    assert not list(tmp_path.glob("monday*"))


def test_says_why_a_backup_can_not_be_written(data_dir):
    target = data_dir / "key-ring" / "monday"

    with pytest.raises(SettingsError, match=f"^{target} can not be written \\(Not a directory\\)$"):
        back_up(target)


def test_says_why_a_backup_can_not_be_restored(data_dir, tmp_path, monkeypatch):
    back_up(tmp_path / "monday")
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(data_dir / "key-ring" / "data"))

    with pytest.raises(
        SettingsError, match=r"^TEXTWAY_DATA_DIR: .*delivery.db can not be restored \(Not a directory\)$"
    ):
        restore(tmp_path / "monday")


def test_leaves_nothing_behind_when_the_last_file_can_not_be_restored(data_dir, tmp_path, monkeypatch):
    back_up(tmp_path / "monday")
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(tmp_path / "new"))
    monkeypatch.setenv("TEXTWAY_KEY_RING_FILE", str(data_dir / "key-ring" / "ring"))

    with pytest.raises(SettingsError, match="ring can not be restored"):
        restore(tmp_path / "monday")

    assert not list((tmp_path / "new").iterdir())


def test_leaves_no_half_of_a_file_behind_when_the_disk_is_full(data_dir, tmp_path, monkeypatch):
    back_up(tmp_path / "monday")
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(tmp_path / "new"))

    def fill_the_disk(_source: object, _target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", fill_the_disk)

    with pytest.raises(SettingsError, match=r"delivery.db can not be restored \(No space left on device\)$"):
        restore(tmp_path / "monday")

    assert not list((tmp_path / "new").iterdir())


def test_says_that_a_database_is_damaged(data_dir, tmp_path):
    (data_dir / "delivery.db").write_text("no database")

    with pytest.raises(
        BackupError, match=r"delivery.db can not be copied into .*monday \(SQLite: file is not a database\)$"
    ):
        back_up(tmp_path / "monday")


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), KeyboardInterrupt()])
def test_leaves_no_half_of_a_backup_behind(data_dir, tmp_path, monkeypatch, error):
    class Database(sqlite3.Connection):
        def backup(self, *_: object, **__: object) -> None:
            raise error

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Database))

    with pytest.raises((BackupError, KeyboardInterrupt)):
        back_up(tmp_path / "monday")

    assert not list(tmp_path.glob("monday*"))


@pytest.mark.parametrize("name", ["delivery.db", "integrations.db", "key-ring"])
def test_restores_nothing_of_a_backup_that_lacks_a_file(data_dir, tmp_path, monkeypatch, name):
    back_up(tmp_path / "monday")
    (tmp_path / "monday" / name).unlink()
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(tmp_path / "new"))

    with pytest.raises(BackupError, match=f"monday is not whole: there is no {name} in it$"):
        restore(tmp_path / "monday")

    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("delivery.db", b"no database", r"delivery.db can not be restored \(SQLite: file is not a database\)$"),
        ("delivery.db", b"SHORTENED", r"delivery.db (is damaged: |can not be restored \(SQLite: database disk image)"),
        ("backup.json", b"{", "backup.json is damaged: restore another backup$"),
        ("backup.json", b"[]", "backup.json is damaged: restore another backup$"),
    ],
)
def test_restores_nothing_of_a_backup_that_is_damaged(data_dir, tmp_path, monkeypatch, name, content, said):
    with contextlib.closing(sqlite3.connect(data_dir / "delivery.db")) as database:
        database.execute("CREATE TABLE messages AS SELECT zeroblob(20000) AS text")
        database.commit()
    back_up(tmp_path / "monday")
    file = tmp_path / "monday" / name
    file.write_bytes(file.read_bytes()[:8192] if content == b"SHORTENED" else content)
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(tmp_path / "new"))

    with pytest.raises(BackupError, match=said):
        restore(tmp_path / "monday")

    assert not (tmp_path / "new").exists()


def test_restores_no_part_of_a_backup_where_the_settings_know_no_place_for_the_rest(data_dir, tmp_path, monkeypatch):
    back_up(tmp_path / "monday")
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(tmp_path / "new"))
    monkeypatch.setenv("TEXTWAY_DELIVERY_DATABASE_URL", "postgresql://textway@127.0.0.1/textway")

    with pytest.raises(BackupError, match=r"holds delivery.db, and TEXTWAY_DELIVERY_DATABASE_URL names a server"):
        restore(tmp_path / "monday")

    assert not (tmp_path / "new").exists()


def test_does_not_let_up_begin_anew_what_was_on_a_server(data_dir, tmp_path, monkeypatch):
    with monkeypatch.context() as then:
        then.setenv("TEXTWAY_DELIVERY_DATABASE_URL", "postgresql://textway@127.0.0.1/textway")
        back_up(tmp_path / "monday")
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(tmp_path / "new"))

    with pytest.raises(BackupError, match=r"holds no delivery.db: set TEXTWAY_DELIVERY_DATABASE_URL to the server"):
        restore(tmp_path / "monday")

    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("ending", ["-wal", "-journal"])
def test_restores_nothing_beside_commits_that_another_database_has_left(data_dir, tmp_path, monkeypatch, ending):
    back_up(tmp_path / "monday")
    left_by_a_crash = tmp_path / "new" / f"integrations.db{ending}"
    left_by_a_crash.parent.mkdir()
    left_by_a_crash.write_text("commits")
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(tmp_path / "new"))

    with pytest.raises(BackupError, match=f"^{left_by_a_crash} is there already: stop the product"):
        restore(tmp_path / "monday")

    assert list((tmp_path / "new").iterdir()) == [left_by_a_crash]
