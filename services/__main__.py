"""`textway`: the one command of the product.

A command imports what it runs, so that a service's process holds what that service needs and no more.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from servicekit import lean_imports as _lean_imports  # noqa: F401  # before all that it is to keep out
from servicekit import logs, tracing, wakeups
from servicekit.clock import SystemClock
from servicekit.errors import ServiceError
from servicekit.settings import ProcessSettings, SettingsError, load
from services.launcher.parts import PARTS

Result = TypeVar("Result")

PART_NAMES = click.Choice(list(PARTS))
TEST_TEXT = "Textway test message"
# So many new objects are looked at together for circles; Python's own 700 are those of two or three messages.
LOOK_FOR_CIRCLES_AFTER = (10_000, 20, 20)
# A thread that works for SQLite gives Python's lock away at each row, and waits at most so long for it when the loop is
# busy: in Python's own 5 ms there are twenty messages, and a transaction has a hundred rows.
LOCK_IS_GIVEN_AFTER_SECONDS = 0.0005


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="textway")
def cli() -> None:
    """Any system that can POST JSON can send an SMS, and hear the reply.

    Settings come from the environment (TEXTWAY_...); docs/configuration.md lists them.
    """
    gc.set_threshold(*LOOK_FOR_CIRCLES_AFTER)  # before most of the imports, which make many objects and few circles
    logs.configure(service="textway", level="warning")


@cli.command()
def up() -> None:
    """Run the whole product in the foreground: gateway, services, SQLite files, simulated carrier."""
    try:
        from services.launcher import laptop
    except ModuleNotFoundError as error:  # its supervisor is not in a container
        raise SettingsError(f"`textway up` needs the package {error.name}: install `textway[laptop]`") from None
    from services.launcher.settings import LauncherSettings

    sys.exit(laptop.run_up(load(LauncherSettings)))


@cli.command(hidden=True)
def greet() -> None:
    """Say what `up` says once all is serving. A process of its own, whose libraries go with it."""
    from services.launcher import greeting
    from services.launcher.settings import LauncherSettings

    def announce(address: str) -> None:
        from services.launcher import operating

        operating.announce(address)

    greeting.greet(load(LauncherSettings), announce=announce)


@cli.command()
@click.argument("names", nargs=-1, required=True, type=PART_NAMES)
@click.option(
    "--number", default=1, type=click.IntRange(1), help="Which of several on this machine, in logs and traces."
)
def serve(names: tuple[str, ...], number: int) -> None:
    """Serve any of the services in this process, until SIGTERM."""
    wakeups.spare()
    from servicekit import tls

    # The first process of a container ignores a signal that it does not handle, and starting may take a minute.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    settings = load(ProcessSettings)
    tls.identity(settings)  # before anything is built that would have to be closed
    service, replica = "+".join(names), logs.REPLICA if number == 1 else f"{logs.REPLICA}-{number}"
    logs.configure(service=service, replica=replica, level=settings.log_level, log_format=settings.log_format)
    tracing.configure(service=service, replica=replica)
    _run(_serve(names, settings))


async def _serve(names: tuple[str, ...], settings: ProcessSettings) -> None:
    from servicekit.server import serve_until_signal

    services = [await part.build(SystemClock()) for name, part in PARTS.items() if name in names]
    # What is there by now stays: whoever looks for circles need not pass through it each time.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(LOCK_IS_GIVEN_AFTER_SECONDS)
    await serve_until_signal(services, settings)


@cli.command()
@click.argument("names", nargs=-1, type=PART_NAMES)
def migrate(names: tuple[str, ...]) -> None:
    """Bring the databases of the named services, or of all, to the newest schema."""
    for name in names or PARTS:
        _run(PARTS[name].migrate())


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print what a machine reads.")
def status(*, as_json: bool) -> None:
    """Show every replica, the queue, the webhooks and the carriers; exit with 1 when something is not ready."""
    from services.launcher import status_command

    logs.configure(service="textway", level="critical")  # the report has it all
    report = _run(status_command.ask())
    click.echo(status_command.as_json(report) if as_json else status_command.as_text(report))
    sys.exit(0 if report.is_ready else 1)


@cli.command()
@click.argument("names", nargs=-1, type=PART_NAMES)
def healthy(names: tuple[str, ...]) -> None:
    """Exit with 0 when each of the named services on this machine, or each that listens, says that it is serving."""
    from services.launcher import health

    sys.exit(health.check(names))


@cli.command("prepare-containers")
@click.option("--gateway", required=True, type=click.Path(path_type=Path), help="Folder for the gateway's files.")
@click.option("--login", required=True, type=click.Path(path_type=Path), help="File for PostgreSQL's password.")
def prepare_containers(gateway: Path, login: Path) -> None:
    """Write what must be there before the containers start: the gateway's files and, once, a password."""
    from services.launcher import containers
    from services.launcher.settings import GatewayFilesSettings

    containers.prepare(load(GatewayFilesSettings), gateway_folder=gateway, login=login)


@cli.command()
@click.argument("to")
@click.argument("text")
def send(to: str, text: str) -> None:
    """Send one message through the gateway, with the API key in TEXTWAY_API_KEY, and tell what became of it.

    Exits with 1 when it has failed within the few seconds for which it is followed.
    """
    from services.launcher import sending

    sys.exit(0 if sending.send(to, text) else 1)


@cli.group()
def carriers() -> None:
    """Check the carriers' file, try a carrier, and show how the running ones are."""


@carriers.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check_carriers(file: Path | None) -> None:
    """Check FILE, or the one that TEXTWAY_CARRIERS names: every error in one go, and never a secret."""
    from services.delivery.installation.carriers_file import CarriersFileError
    from services.launcher import carriers_command

    try:
        click.echo(carriers_command.check(file))
    except CarriersFileError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


@carriers.command("test")
@click.argument("name")
@click.option("--live", metavar="NUMBER", help="Send one real message to this number through the carrier NAME.")
@click.option("--text", default=TEST_TEXT, show_default=True, help="What the real message says.")
def test_carrier(name: str, live: str | None, text: str) -> None:
    """Try a definition, or the one that a carrier of the file follows, against the answers in its fixtures."""
    from services.launcher import carriers_command

    report = _run(carriers_command.send_one(name, live, text) if live else carriers_command.try_fixtures(name))
    click.echo(report.text)
    sys.exit(0 if report.is_good else 1)


@carriers.command("list")
def list_carriers() -> None:
    """Show how the carriers of the running product are, with the API key in TEXTWAY_API_KEY."""
    from services.launcher import carriers_command

    click.echo(carriers_command.running())


@cli.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command("create")
@click.option("--tenant", default="", help="Id or name; the default tenant when left out.")
@click.option("--name", default="", help="What the key is for.")
def create_key(tenant: str, name: str) -> None:
    """Make a key and show it, this once."""
    from services.launcher import operating

    click.echo(_run(operating.create_key(tenant, name)))


@keys.command("list")
@click.option("--tenant", default="", help="Id or name; the default tenant when left out.")
def list_keys(tenant: str) -> None:
    """List a tenant's keys, without their secrets."""
    from services.launcher import operating

    click.echo(_run(operating.list_keys(tenant)))


@keys.command("revoke")
@click.argument("key_id")
def revoke_key(key_id: str) -> None:
    """Make a key useless at once."""
    from services.launcher import operating

    click.echo(_run(operating.revoke_key(key_id)))


@cli.group()
def tenants() -> None:
    """Make, list, suspend and resume tenants: whose the integrations and messages are."""


@tenants.command("create")
@click.argument("name")
def create_tenant(name: str) -> None:
    """Make a tenant."""
    from services.launcher import operating

    click.echo(_run(operating.create_tenant(name)))


@tenants.command("list")
def list_tenants() -> None:
    """List all tenants."""
    from services.launcher import operating

    click.echo(_run(operating.list_tenants()))


@tenants.command("suspend")
@click.argument("tenant")
def suspend_tenant(tenant: str) -> None:
    """Refuse a tenant's calls and payloads."""
    from services.launcher import operating

    click.echo(_run(operating.set_tenant_active(tenant, active=False)))


@tenants.command("resume")
@click.argument("tenant")
def resume_tenant(tenant: str) -> None:
    """Let a suspended tenant work again."""
    from services.launcher import operating

    click.echo(_run(operating.set_tenant_active(tenant, active=True)))


@cli.command("certificates")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", "names", multiple=True, help="A further name or address of the processes; may be repeated.")
def make_certificates(folder: Path, names: tuple[str, ...]) -> None:
    """Make a private authority in FOLDER and a certificate for each process, or renew them (docs/guides/secure.md)."""
    from services.launcher import certificates

    for file in certificates.write(folder, names):
        click.echo(file)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
def backup(folder: Path) -> None:
    """Copy the SQLite databases and the key ring into the new FOLDER, while the product runs."""
    from services.launcher import backup as backups

    click.echo(backups.back_up(folder))


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--hold", is_flag=True, help="Hold what waited to be sent: it may have been sent since the backup.")
def restore(folder: Path, *, hold: bool) -> None:
    """Copy the backup in FOLDER to where the settings say. Nothing that is there is overwritten."""
    from services.launcher import backup as backups

    click.echo(backups.restore(folder))
    if hold:
        click.echo(_run(backups.hold_queue()))


@cli.command("hold-queue")
def hold_queue() -> None:
    """Make every message that waits or is being sent `unknown`, for a person to decide. Delivery must be stopped."""
    from services.launcher import backup as backups

    click.echo(_run(backups.hold_queue()))


@cli.command("rotate-key-ring")
def rotate_key_ring() -> None:
    """Encrypt every secret at rest with a new key. Integrations must be stopped."""
    from services.launcher import operating

    _run(operating.rotate_key_ring())
    click.echo("every secret is encrypted with the new key")


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    import uvloop

    return uvloop.run(work)


def main() -> None:
    """Run the command line; a failure is one sentence and a non-zero exit."""
    try:
        cli(prog_name="textway")
    except SettingsError as error:
        click.echo(f"textway: {error}", err=True)
        sys.exit(2)
    except ServiceError as error:
        click.echo(f"textway: {error.message}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
