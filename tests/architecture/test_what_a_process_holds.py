"""What a process must not import: each library is megabytes in every process, from its start to its end."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Alembic is for `migrate`; asyncpg for PostgreSQL; cryptography for certificates and sealed secrets; aiohttp for the
# first webhook; smpp34 for an SMPP carrier; rich and pygments for nobody.
UNUSED = {
    "integrations": {"alembic", "mako", "asyncpg", "aiohttp", "smpp34", "rich", "pygments"},
    "ingress": {"alembic", "mako", "asyncpg", "aiohttp", "smpp34", "rich", "pygments", "cryptography", "sqlalchemy"},
    "delivery": {"alembic", "mako", "asyncpg", "aiohttp", "smpp34", "rich", "pygments", "cryptography"},
}


@pytest.mark.parametrize("name", UNUSED)
def test_a_service_on_sqlite_imports_nothing_that_it_does_not_need(tmp_path, name):
    program = (
        "import asyncio, os, sys\n"
        "from services.__main__ import PARTS\n"
        "from servicekit import server\n"
        "from servicekit.clock import SystemClock\n"
        "if os.environ.get('MIGRATE'):\n"
        f"    asyncio.run(PARTS[{name!r}].migrate())\n"
        "else:\n"
        f"    asyncio.run(PARTS[{name!r}].build(SystemClock()))\n"
        "    print(*{each.partition('.')[0] for each, module in sys.modules.items() if module is not None})\n"
    )
    environment = {"TEXTWAY_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    subprocess.run(command, env={**environment, "MIGRATE": "1"}, check=True, timeout=60)

    done = subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True, text=True)

    assert set(done.stdout.split()) & UNUSED[name] == set()


def test_what_keeps_the_children_running_imports_nothing_of_theirs():
    program = "import sys; from services.launcher import keep; print(*{each.partition('.')[0] for each in sys.modules})"

    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)

    assert set(done.stdout.split()) & {"click", "grpc", "pydantic", "servicekit", "structlog", "textway"} == set()


@pytest.mark.parametrize("name", ["integrations", "delivery"])
def test_who_brings_a_database_up_to_date_imports_nothing_that_serves(tmp_path, name):
    program = (
        "import asyncio, sys\n"
        "from services.__main__ import PARTS\n"
        f"asyncio.run(PARTS[{name!r}].migrate())\n"
        "print(*{each.partition('.')[0] for each, module in sys.modules.items() if module is not None})\n"
    )
    command = [sys.executable, "-c", program]

    done = subprocess.run(
        command, env={"TEXTWAY_DATA_DIR": str(tmp_path)}, check=True, timeout=60, capture_output=True, text=True
    )

    # Each start of `textway up` waits for this.
    assert set(done.stdout.split()) & {"textway", "asyncpg", "aiohttp", "phonenumbers", "smpp34", "yaml"} == set()


def test_who_asks_a_running_integrations_imports_nothing_of_its_own():
    program = (
        "import sys; from services.launcher import operating; print(*{each.partition('.')[0] for each in sys.modules})"
    )

    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)

    # `textway up` is ready when its greeting has asked.
    assert set(done.stdout.split()) & {"sqlalchemy", "sqlmodel", "cryptography", "asyncpg"} == set()
