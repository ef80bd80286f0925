"""What an installation in containers needs before it starts, and a laptop gets from `textway up`."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Final

from servicekit.file_refusals import refusal_told
from services.launcher import gateway
from services.launcher.settings import GatewayFilesSettings

# Within its container alone: bash, which is all that Envoy's image has, can not speak to a Unix socket.
ADMIN: Final = "127.0.0.1:9901"
RUN: Final = "run-in-container.sh"
# Host, port, database and user as docker-compose.yml has them.
_LOGIN: Final = "postgres:5432:textway:textway"
_PASSWORD_BYTES: Final = 24


def prepare(settings: GatewayFilesSettings, *, gateway_folder: Path, login: Path) -> None:
    """Write the gateway's files, and a login with a new password where there is none.

    The login is a password file as libpq and asyncpg read it (PGPASSFILE). It is never written over: PostgreSQL was
    set up with what is in it. Raises SettingsError when a folder can not be written to.
    """
    with refusal_told(f"{gateway_folder} can not be written to"):
        _write_gateway(settings, gateway_folder)
    with refusal_told(f"{login} can not be written"):
        _write_login(login)


def _write_gateway(settings: GatewayFilesSettings, folder: Path) -> None:
    # By a copy, since the gateway runs from another image.
    answers = folder / gateway.ANSWERS.name
    gateway.prepare(
        folder,
        listen=settings.gateway_listen,
        upstreams=gateway.Upstreams(
            integrations=settings.integrations_address,
            ingress=(settings.ingress_address,),
            delivery=settings.delivery_address,
        ),
        secured=gateway.Tls.of(settings),
        admin_listen=ADMIN,
        answers=answers,
    )
    shutil.copyfile(gateway.ANSWERS, answers)
    shutil.copyfile(gateway.FOLDER / RUN, folder / RUN)


def _write_login(file: Path) -> None:
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f".{file.name}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as output:
        output.write(f"{_LOGIN}:{secrets.token_hex(_PASSWORD_BYTES)}\n")
        output.flush()
        os.fsync(output.fileno())
    temporary.replace(file)
