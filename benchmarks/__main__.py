"""`make bench`: measure the product as a user runs it, beside the ceiling of what it is built on."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from benchmarks import campaign, databases, least, long_runs, machine, plot, profiles, report
from benchmarks.long_runs import Finding
from benchmarks.stage import Stage, staged
from tests.fakes.postgres import PostgresServer

RESULTS: Final = Path(__file__).resolve().parent / "results"
BULK_ITEMS: Final = 100
_WARM_UP_SECONDS: Final = 2.0

engines_option = click.option(
    "--engine", "engines", multiple=True, type=click.Choice(databases.ENGINES), help="Both when left out."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure the product. README.md explains each figure."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything that was started is stopped


@main.command("campaign")
@engines_option
@click.option("--repeats", default=3, show_default=True)
@click.option("--seconds", default=6.0, show_default=True, help="How long each load lasts.")
@click.option("--short", is_flag=True, help="One repeat, 64 connections and 1,000/s: under a minute for an engine.")
def run_campaign(engines: Sequence[str], repeats: int, seconds: float, *, short: bool) -> None:
    """Everything but the long runs: the ceiling, saturation, fixed rates, on each engine."""
    plan = campaign.Plan(
        engines=_chosen(engines),
        repeats=1 if short else repeats,
        seconds=seconds,
        connections=(campaign.SATURATED,) if short else campaign.ALL_CONNECTIONS,
        rates=(1000.0,) if short else campaign.ALL_RATES,
    )
    _run_and_report(plan, "campaign")


@main.command()
@engines_option
@click.option("--repeats", default=3, show_default=True)
@click.option("--seconds", default=6.0, show_default=True, help="How long each load lasts.")
def bulk(engines: Sequence[str], repeats: int, seconds: float) -> None:
    """Post a hundred messages in one request."""
    plan = campaign.Plan(
        engines=_chosen(engines),
        repeats=repeats,
        seconds=seconds,
        connections=(campaign.SATURATED,),
        rates=(),
        items=BULK_ITEMS,
    )
    _run_and_report(plan, "bulk")


@main.command("least")
@engines_option
@click.option("--repeats", default=3, show_default=True)
@click.option("--seconds", default=6.0, show_default=True, help="How long each load lasts.")
def run_least(engines: Sequence[str], repeats: int, seconds: float) -> None:
    """Measure the product beside the least that could be called it, and beside the ceiling."""
    compared: list[least.Compared] = []
    with databases.temporary_folder() as folder:
        facts = machine.describe(folder)
        with databases.running_postgres(folder, wanted=True) as server:
            if not isinstance(server, PostgresServer):
                raise click.ClickException(f"{databases.URL_SETTING} must be unset: the server's CPU is counted here")
            for _ in range(repeats):
                compared += least.compare(folder, server, _chosen(engines), seconds, click.echo)
    path = _write(facts, "least", {"machine": asdict(facts), "compared": [asdict(each) for each in compared]})
    click.echo(f"\n{least.text(compared)}\n\n{path}")


@main.command()
@engines_option
@click.option("--seconds", default=10.0, show_default=True)
def profile(engines: Sequence[str], seconds: float) -> None:
    """Sample Ingress and Delivery at saturation; the stacks go to a folder for `flamegraph.pl` or speedscope."""
    with databases.temporary_folder() as folder:
        for engine in _chosen(engines):
            with _staged(folder, engine) as stage:
                for each in profiles.record(stage, RESULTS / f"profile-{engine}", seconds, click.echo):
                    click.echo(f"\n{engine}, {profiles.text(each)}\n\n{each.stacks}")


def _long_run(name: str, help_text: str, run: Callable[[long_runs.Bench], list[Finding]]) -> None:
    @main.command(name, help=help_text)
    @engines_option
    def command(engines: Sequence[str]) -> None:
        found: dict[str, list[Finding]] = {}
        with databases.temporary_folder() as folder:
            facts = machine.describe(folder)
            with databases.running_postgres(folder, wanted=databases.POSTGRESQL in _chosen(engines)) as server:
                for engine in _chosen(engines):
                    with long_runs.bench(folder, engine, server, click.echo) as here:
                        found[engine] = run(here)
                    click.echo(f"\n{engine}, {name}\n{report.findings(found[engine])}\n")
        content = {engine: [asdict(each) for each in findings] for engine, findings in found.items()}
        click.echo(_write(facts, name, {"machine": asdict(facts), "findings": content}))


_long_run("soak", "A minute at saturation.", long_runs.soak)
_long_run("idle", "What it uses when there is nothing to do.", long_runs.idle)
_long_run("backlog", "200,000 messages queued while the carrier is away.", long_runs.backlog)
_long_run("aged", "A million finished messages in the database.", long_runs.aged)


def _chosen(engines: Sequence[str]) -> Sequence[str]:
    return engines or databases.ENGINES


def _run_and_report(plan: campaign.Plan, name: str) -> None:
    with databases.temporary_folder() as folder:
        facts = machine.describe(folder)
        results = campaign.run(plan, folder, click.echo)
    path = _write(facts, name, report.as_json(facts, results))
    plot.draw(results.runs, path.with_suffix(".png"), f"{facts.commit}, {facts.cores} cores, {facts.cpu}")
    click.echo(f"\n{report.text(facts, results)}\n\n{path}\n{path.with_suffix('.png')}")


def _write(facts: machine.Machine, name: str, content: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{facts.at[:19].replace(':', '')}-{facts.commit}-{name}.json"
    path.write_text(json.dumps(content, indent=1))
    return path


@contextlib.contextmanager
def _staged(folder: Path, engine: str) -> Iterator[Stage]:
    with (
        databases.running_postgres(folder, wanted=engine == databases.POSTGRESQL) as server,
        staged(folder, engine, server) as stage,
    ):
        stage.warm_up(_WARM_UP_SECONDS)
        yield stage


if __name__ == "__main__":
    main(prog_name="make bench")
