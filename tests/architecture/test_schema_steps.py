"""Schema steps only add, or say which code can live with what they take away (decision 24)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.operations import AbstractOperations, ops
from alembic.script import Script
from sqlmodel import SQLModel

from servicekit import migrations
from servicekit.database import Database
from services.delivery import maintenance as delivery
from services.integrations import maintenance as integrations

# What was there before the rule. Nothing runs on a schema from before these.
BASELINES = {"delivery": "0005", "integrations": "0004"}
SERVICES = [integrations, delivery]


async def test_steps_add_and_nothing_else_or_say_which_code_can_live_with_them():
    for service in SERVICES:
        found = await problems(service.MIGRATIONS, BASELINES[service.VERSION_TABLE.partition("_")[0]])

        assert found == [], service.__name__


async def problems(folder: Path, baseline: str) -> list[str]:
    """Run the steps after a baseline one by one, and return what each does that old code may not survive."""
    steps = migrations.steps(folder)
    revisions = [step.revision for step in steps]
    found = []
    for step in steps[revisions.index(baseline) + 1 :]:
        operations = await operations_of(folder, step)
        usable_from = getattr(step.module, "usable_from", None)
        if usable_from is None:
            found += [f"{step.revision}: {problem}" for problem in breaks(operations)]
        elif usable_from not in revisions[: revisions.index(step.revision)]:
            found.append(f"{step.revision}: usable_from must name a step before it, or a rolling upgrade can not be")
    return found


async def operations_of(folder: Path, step: Script) -> list[ops.MigrateOperation]:
    async with Database.open("sqlite://") as database:
        await migrations.migrate(database, folder, "schema_version", to=step.down_revision)
        with recorded() as operations, contextlib.suppress(NotImplementedError):  # SQLite can not do all that is wrong
            await migrations.migrate(database, folder, "schema_version", to=step.revision)
        return operations


@contextlib.contextmanager
def recorded() -> Iterator[list[ops.MigrateOperation]]:
    done: list[ops.MigrateOperation] = []
    invoke = AbstractOperations.invoke

    def record(self: AbstractOperations, operation: ops.MigrateOperation) -> object:
        done.append(operation)
        return invoke(self, operation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AbstractOperations, "invoke", record)
        yield done


def breaks(operations: list[ops.MigrateOperation]) -> Iterator[str]:
    new_tables: set[str] = set()
    for operation in operations:
        match operation:
            case ops.CreateTableOp():
                new_tables.add(operation.table_name)
            case ops.BulkInsertOp() if operation.table.name in new_tables:
                pass
            case ops.ExecuteSQLOp() if inserts_into(operation.sqltext) in new_tables:
                pass
            case ops.CreateIndexOp() if operation.table_name in new_tables:
                pass
            case ops.CreateIndexOp():
                yield f"{operation.index_name} would be built under a lock, or refuse old rows: use later_indexes"
            case ops.AddColumnOp():
                yield from breaks_of_column(operation.table_name, operation.column)
            case _:
                yield f"{type(operation).__name__} is no addition"


def inserts_into(statement: object) -> str:
    found = re.match(r"INSERT INTO (\w+)", str(statement))
    return found[1] if found else ""


def breaks_of_column(table: str, column: sa.Column) -> Iterator[str]:
    if not column.nullable and column.server_default is None:
        yield f"{table}.{column.name} is NOT NULL without a default: old code inserts rows without it"
    if column.unique or column.foreign_keys or column.primary_key or column.constraints:
        yield f"{table}.{column.name} has a rule that old code's rows may break"


# The test itself is tried on steps that break the rule.

ENVIRONMENT = "from servicekit.migrations import run_environment\n\nrun_environment()\n"
FIRST = "op.create_table('old', sa.Column('id', sa.Integer(), primary_key=True), sa.Column('body', sa.Text()))"


def write_step(folder: Path, revision: str, before: str | None, body: str, usable_from: str | None = None) -> None:
    lines = ["import sqlalchemy as sa", "from alembic import op", f"revision = {revision!r}"]
    lines += [f"down_revision = {before!r}", f"usable_from = {usable_from!r}" if usable_from else ""]
    lines += ["def upgrade():", *(f"    {line}" for line in body.split("\n"))]
    (folder / "versions" / f"{revision}.py").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENVIRONMENT)
    write_step(tmp_path, "0001", None, FIRST)
    return tmp_path


@pytest.mark.parametrize(
    "body",
    [
        "op.drop_column('old', 'body')",
        "op.drop_table('old')",
        "op.rename_table('old', 'new')",
        "op.execute('ALTER TABLE old RENAME COLUMN body TO text')",
        "op.execute('UPDATE old SET body = 1')",
        "op.add_column('old', sa.Column('author', sa.Integer(), sa.ForeignKey('old.id')))",
        "op.create_index('old_once', 'old', ['body'], unique=True)",
        "op.create_index('old_by_body', 'old', ['body'])",
        "with op.batch_alter_table('old') as old:\n    old.alter_column('body', nullable=False)",
        "with op.batch_alter_table('old') as old:\n    old.create_check_constraint('short', 'length(body) < 9')",
        "with op.batch_alter_table('old') as old:\n    old.add_column(sa.Column('author', sa.Text(), nullable=False))",
    ],
)
async def test_a_planted_step_that_breaks_old_code_is_found(folder, body):
    write_step(folder, "0002", "0001", body.strip())

    found = await problems(folder, "0001")

    assert found
    assert found[0].startswith("0002: ")


async def test_a_step_that_adds_is_no_problem(folder):
    body = [
        "op.add_column('old', sa.Column('author', sa.Text(), nullable=False, server_default=''))",
        "op.add_column('old', sa.Column('seen_at_ms', sa.BigInteger(), nullable=True))",
        "op.create_table('new', sa.Column('id', sa.Integer(), primary_key=True), sa.Column('body', sa.Text()))",
        "op.create_index('new_once', 'new', ['body'], unique=True)",
        "op.execute('INSERT INTO new SELECT id, body FROM old')",
    ]
    write_step(folder, "0002", "0001", "\n".join(body))

    assert await problems(folder, "0001") == []


async def test_a_step_that_takes_away_must_say_that_the_release_before_can_live_with_it(folder):
    write_step(folder, "0002", "0001", "op.drop_column('old', 'body')", usable_from="0001")
    write_step(folder, "0003", "0002", "op.drop_table('old')", usable_from="0003")

    (found,) = await problems(folder, "0001")

    assert found.startswith("0003: usable_from must name a step before it")


# What docs/guides/run-at-scale.md says of a distributed PostgreSQL.

WEBHOOK_TABLES = (
    "delivery_webhooks",
    "delivery_webhook_attempts",
    "delivery_webhook_due",
    "delivery_webhook_endpoints",
)
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "run-at-scale.md"


def test_the_tables_that_are_to_be_sharded_permit_it():
    sharded = re.findall(r"create_distributed_table\('(\w+)', +'shard'", GUIDE.read_text())
    carriers_of_shard = {name for name, table in SQLModel.metadata.tables.items() if "shard" in table.columns}
    assert set(sharded) == carriers_of_shard

    for name in sharded:
        table = SQLModel.metadata.tables[name]
        assert next(iter(table.primary_key)).name == "shard"
        assert not table.foreign_keys
        assert all("shard" in index.columns for index in table.indexes if index.unique)


def test_the_guide_names_every_table_of_delivery():
    told = GUIDE.read_text().replace("delivery_webhook*", " ".join(WEBHOOK_TABLES))

    assert {name for name in SQLModel.metadata.tables if name.startswith("delivery_") and name not in told} == set()
