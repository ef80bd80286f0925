"""What holds for the repository as a whole, and would otherwise rot in silence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel

from servicekit import migrations
from servicekit.database import Database
from services.delivery import maintenance as delivery
from services.delivery import tables as _tables  # noqa: F401  # the models
from services.delivery import webhook_tables as _webhook_tables  # noqa: F401  # and the other half of them
from services.integrations import maintenance as integrations
from services.integrations import tables as _integrations_tables  # noqa: F401
from services.launcher.parts import PARTS

ROOT = Path(__file__).parents[2]


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def test_generated_files_are_what_make_generate_writes():
    done = subprocess.run(
        [sys.executable, "scripts/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    """The code and its contracts, to plant a fault in."""
    for name in ("services", "servicekit", "pyproject.toml"):
        subprocess.run(["cp", "-r", ROOT / name, tmp_path / name], check=True)
    subprocess.run(["cp", "-r", ROOT / "generated" / "textway", tmp_path / "textway"], check=True)
    return tmp_path


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("forbidden_import", "place"),
    [
        ("import grpc", "services/delivery/domain.py"),
        ("import sqlalchemy", "services/delivery/dispatch.py"),
        ("from services.integrations import domain as planted", "services/ingress/mapping.py"),
        ("from services.delivery import sql_store as planted", "services/delivery/retry_policy.py"),
        ("from services.delivery import settings as planted", "servicekit/ids.py"),
        ("import jsonpath_ng", "services/ingress/mapping.py"),
    ],
)
def test_a_planted_import_breaks_the_contracts(copied_tree, forbidden_import, place):
    planted = copied_tree / place
    first = "from __future__ import annotations\n"
    planted.write_text(planted.read_text().replace(first, f"{first}\n{forbidden_import}\n", 1))

    done = lint_imports(copied_tree)

    assert done.returncode != 0
    assert "BROKEN" in done.stdout, done.stdout + done.stderr


def test_a_stray_module_breaks_the_contracts(copied_tree):
    (copied_tree / "services/delivery/helpers.py").write_text('"""Stray."""\n')

    done = lint_imports(copied_tree)

    assert done.returncode != 0
    assert "helpers" in done.stdout + done.stderr


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
@pytest.mark.parametrize("service", [integrations, delivery], ids=["integrations", "delivery"])
async def test_migrating_equals_the_models(service, engine, request):
    url = "sqlite://" if engine == "sqlite" else request.getfixturevalue("postgres_database")
    database = Database.open(url)
    await migrations.migrate(database, service.MIGRATIONS, service.VERSION_TABLE)
    prefix = service.VERSION_TABLE.partition("_")[0] + "_"
    own = migrations.own_tables(service.VERSION_TABLE)
    models = sa.MetaData()
    for name, table in SQLModel.metadata.tables.items():
        if name.startswith(prefix):
            table.to_metadata(models)

    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, _: kind != "table" or name not in own,
            },
        )
        return list(compare_metadata(context, models))

    # It reads the whole catalog, in Python.
    async with database.read(patience_seconds=60) as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


def test_every_setting_has_a_description():
    for part in PARTS.values():
        for name, field in part.settings_type.model_fields.items():
            assert field.description, name


def test_nothing_is_called_a_helper():
    names = {path.stem for path in python_files("services", "servicekit", "scripts")}

    assert not names & {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


def test_every_file_says_first_what_it_is_for():
    for path in python_files("services", "servicekit", "scripts", "benchmarks"):
        assert path.read_text().startswith('"""'), path


def test_only_the_translator_aborts_a_call():
    for path in python_files("services", "servicekit"):
        if path.name != "error_translation.py":
            assert "context.abort(" not in path.read_text(), path


def test_time_comes_from_the_clock():
    pattern = re.compile(r"datetime\.now\(|time\.time\(|datetime\.utcnow\(")
    for path in python_files("services", "servicekit"):
        if path.name != "clock.py":
            assert not pattern.search(path.read_text()), path


def test_links_in_documents_lead_somewhere():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "gateway/README.md"]
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_make_runs_every_folder_of_tests():
    commands = re.findall(r"^\t\$\(PYTEST\).*$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"tests/(\w+)", "\n".join(commands[:2]))) | {"compose"}  # the last needs a container engine

    assert {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")} == named


def test_lock_files_name_versions_and_hashes_and_no_index():
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        assert "http://" not in text
        assert "https://" not in text
        assert "--index" not in text
        for requirement in text.replace("\\\n", " ").splitlines():
            if requirement.strip():
                assert re.match(r"\S+==\S+.* --hash=sha256:", requirement), requirement[:80]
