"""What is said of a PostgreSQL that can not be had, by whoever needs it."""

from __future__ import annotations

import socket

import pytest
import structlog
from sqlalchemy.engine import make_url

from servicekit import postgres
from servicekit.settings import SettingsError
from services.launcher import databases
from tests.kit.ports import free_address

SETTING = "TEXTWAY_DELIVERY_DATABASE_URL"


async def test_says_once_which_database_can_not_be_had_and_in_the_end_which_setting(monkeypatch, capsys):
    at = free_address()
    monkeypatch.setenv(SETTING, f"postgresql://anna:hunter2@{at}/messages")

    with structlog.testing.capture_logs() as lines, pytest.raises(SettingsError) as refusal:
        await databases.reach("delivery", seconds=1.2)

    assert capsys.readouterr().err.splitlines() == [
        f"textway: the database of Delivery at {at} can not be had (Connection refused); it is tried again for 1.2 s"
    ]
    assert str(refusal.value).startswith(f"{SETTING}: the database at {at} can not be had (Connection refused): start")
    assert "anna" not in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
    assert lines == []


async def test_goes_on_when_the_database_is_back(monkeypatch, capsys, postgres_database):
    monkeypatch.setenv(SETTING, postgres_database)
    answers = [
        "it is starting or stopping",
        "it is starting or stopping",
        await postgres.problem(make_url(postgres_database)),
    ]

    async def problem(_url: object) -> str:
        return answers.pop(0)

    monkeypatch.setattr(postgres, "problem", problem)

    await databases.reach("delivery")

    assert capsys.readouterr().err.count("\n") == 1
    assert answers == []


async def test_says_nothing_of_sqlite(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TEXTWAY_DATA_DIR", str(tmp_path))

    await databases.reach("delivery")

    assert capsys.readouterr().err == ""


async def test_says_why_without_a_user_or_a_password(postgres_database):
    url = make_url(postgres_database)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        told = {
            "it has no database of that name": url.set(database="hunter2"),
            "it refuses the user or the password": url.set(username="anna", password="hunter2"),
            "no answer": make_url(f"postgresql://anna:hunter2@127.0.0.1:{port}/x"),
        }

        assert {await postgres.problem(url): url for url in told.values()} == told
