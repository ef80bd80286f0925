"""Settings from the environment: typed, checked before anything starts, and never printed with their secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX: Final = "TEXTWAY_"
MAX_PORT: Final = 65_535
UNIX: Final = "unix:"  # before the path of a socket
# A Unix socket's path has at most 107 bytes on Linux and 103 on macOS.
MAX_SOCKET_PATH: Final = 100


def reads_as(form: str, pattern: str) -> AfterValidator:
    """Demand the pattern of a value; `form` says it in words to whoever wrote another."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {form}")
        return value

    return AfterValidator(check)


def _has_a_port(address: str) -> str:
    # gRPC cuts a greater number to 16 bits and serves on another port, without a word.
    if int(address.rpartition(":")[2]) > MAX_PORT:
        raise ValueError(f"has a port above {MAX_PORT}")
    return address


def _names_a_host_and_port(url: str) -> str:
    try:
        host, _port = urlsplit(url).hostname, urlsplit(url).port  # both are read, and judged, when they are asked for
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from None
    if not host:
        raise ValueError("is no URL: it names no host")
    return url


def _can_be_served(address: str) -> str:
    if not address.startswith(UNIX):
        return _has_a_port(address)
    path = address.removeprefix(UNIX)
    if not path.startswith("/") or not 1 < len(path.encode()) <= MAX_SOCKET_PATH:
        raise ValueError(f"has a socket whose path is not absolute, or longer than {MAX_SOCKET_PATH} bytes")
    return address


def _is_a_database(url: SecretStr) -> SecretStr:
    if said := url.get_secret_value():
        # An installation on SQLite has none to look at, and need not wait for what reads one.
        from servicekit.database import parse_url  # noqa: PLC0415

        try:
            kind = parse_url(said).get_backend_name()
        except SettingsError:
            kind = ""
        if kind not in {"postgresql", "sqlite"}:
            raise ValueError(
                "must be postgresql://user:password@host/name, with %40 for @ and the like in a password,"
                " or sqlite:////folder/file.db"
            )
    return url


_HOST_AND_PORT: Final = r"\[?[A-Za-z0-9_.:-]+\]?:[0-9]{1,5}"
Address = Annotated[
    str, reads_as("a host and a port, as in 127.0.0.1:7101", _HOST_AND_PORT), AfterValidator(_has_a_port)
]
# Where a service is: `host:port`, or a socket of this machine, `unix:/path`. What passes there is not enciphered: its
# folder says who may call.
ServiceAddress = Annotated[
    str,
    reads_as("a host and a port, as in 127.0.0.1:7101, or unix:/path", f"{UNIX}.*|{_HOST_AND_PORT}"),
    AfterValidator(_can_be_served),
]
PublicUrl = Annotated[
    str,
    reads_as("an http or https URL without a query, such as https://sms.example.com", r"https?://[^\s/?#@]+[^\s?#]*"),
    AfterValidator(_names_a_host_and_port),
]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_is_a_database)]
# An empty variable is one that is not set: files of settings and containers write it so.
File = Annotated[Path | None, BeforeValidator(lambda path: path or None)]
SettingsType = TypeVar("SettingsType", bound=BaseSettings)
# How pydantic begins what it says, and how all else here does.
_BEGINNINGS: Final[Mapping[str, str]] = {"Value error, ": "", "Input should": "must", "String should": "must"}


class SettingsError(Exception):
    """One or more settings can not be used; the message names each and says why."""


class ProcessSettings(BaseSettings):
    """What every Textway process reads."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True)

    data_dir: Path = Field(Path("data"), description="Folder of the SQLite files, the key ring and the logs.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe line that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`json`, `console`, or `auto`: columns on a terminal, JSON elsewhere."
    )
    grpc_reflection: bool = Field(default=False, description="Let gRPC clients list the services of a process.")
    notice_seconds: float = Field(
        0.2,
        ge=0,
        le=4,
        description="How long a stopping process says that it is not serving, so that callers go elsewhere, before it"
        " takes no more calls. Where there are replicas it must be longer than callers take to notice.",
    )
    drain_seconds: float = Field(
        20.0, ge=0, le=20, description="How long a stopping process finishes what it has begun."
    )
    tls_cert: File = Field(
        None,
        description="File of the certificate, with its chain, that this process shows to the others"
        " (docs/guides/secure.md); calls between processes are plaintext when this and the next two are unset.",
    )
    tls_key: File = Field(None, description="File of the private key of that certificate, without a password.")
    tls_ca: File = Field(
        None, description="File of the authority that signs this installation's certificates; no other is believed."
    )


def load(settings_type: type[SettingsType]) -> SettingsType:
    """Read one settings class from the environment; raise SettingsError naming every bad setting."""
    try:
        return settings_type()
    except ValidationError as error:
        # A setting that may have one of several forms has a problem with each of them; the first is the one to tell.
        problems: dict[str, str] = {}
        for problem in error.errors(include_url=False, include_input=False):
            problems.setdefault(str(problem["loc"][0]).upper(), _worded(problem["msg"]))
        lines = [f"{ENV_PREFIX}{name}: {told}" for name, told in problems.items()]
        raise SettingsError("\n".join(lines)) from None


def _worded(problem: str) -> str:
    for theirs, ours in _BEGINNINGS.items():
        if problem.startswith(theirs):
            return ours + problem.removeprefix(theirs)
    return problem
