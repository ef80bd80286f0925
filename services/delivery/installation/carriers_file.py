"""Reads carriers.yaml (docs/guides/routing.md): checks it as a whole, and makes its carriers and routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from servicekit.clock import Clock
from servicekit.errors import Issue
from servicekit.settings import SettingsError
from services.delivery.carriers.base import Carrier
from services.delivery.carriers.http.model import Definition
from services.delivery.carriers.simulator import NAME as SIMULATOR
from services.delivery.carriers.simulator import Simulator
from services.delivery.carriers.yaml_document import Document, YamlError, read_yaml_file
from services.delivery.installation.carrier_entries import CarrierEntry, read_carrier
from services.delivery.installation.carrier_settings import Surroundings
from services.delivery.installation.file_items import CheckedFile
from services.delivery.installation.route_entries import read_routes
from services.delivery.routing import CarrierRules, Route

MAX_CARRIERS: Final = 100


class CarriersFileError(SettingsError):
    """The file can not be used. The message has a line for everything that is wrong: file, line, key, what to do."""


@dataclass(frozen=True, kw_only=True)
class ConfiguredCarriers:
    """The carriers of this installation, ready to be started, and the rules that choose among them."""

    carriers: tuple[Carrier, ...]
    rules: Mapping[str, CarrierRules]  # by the carrier's name
    routes: tuple[Route, ...]  # the last one fits every message
    definitions: Mapping[str, Definition]  # that HTTP carriers follow, by the carrier's name
    warnings: tuple[str, ...] = ()  # what can be used, and may not be what was meant


def load(
    path: Path | None, *, simulator_number: str, public_url: str, environment: Mapping[str, str], clock: Clock
) -> ConfiguredCarriers:
    """Return what the file says; one simulated carrier when there is no file. Nothing is started or connected.

    Raises CarriersFileError that tells everything that is wrong in one go.
    """
    if path is None:
        return ConfiguredCarriers(
            carriers=(Simulator(simulator_number),),
            rules={SIMULATOR: CarrierRules()},
            routes=(Route(name="default", carriers={SIMULATOR: 1}),),
            definitions={},
        )
    try:
        document = read_yaml_file(path)
    except YamlError as error:
        raise CarriersFileError(_lines(error.issues)) from None
    surroundings = Surroundings(
        folder=path.absolute().parent,
        environment=environment,
        public_url=public_url.rstrip("/"),
        simulator_number=simulator_number,
        clock=clock,
    )
    return configured(document, surroundings)


def configured(document: Document, surroundings: Surroundings) -> ConfiguredCarriers:
    """Return what a document says; raise CarriersFileError that tells everything that is wrong in one go."""
    file = CheckedFile(document)
    entries = _read_carriers(file, surroundings)
    routes = read_routes(file, tuple(entries))
    if file.issues:
        raise CarriersFileError(_lines(file.issues))
    _doubt_unused(file, routes)
    made = {name: entry.carrier for name, entry in entries.items() if entry.carrier}
    return ConfiguredCarriers(
        carriers=tuple(made.values()),
        rules={name: entry.rules for name, entry in entries.items()},
        routes=routes,
        definitions={name: entry.definition for name, entry in entries.items() if entry.definition},
        warnings=tuple(f"{issue.path}: {issue.message}" for issue in file.warnings),
    )


def _read_carriers(file: CheckedFile, surroundings: Surroundings) -> dict[str, CarrierEntry]:
    item = file.root.members(("carriers", "routes")).get("carriers")
    if item is None:
        if isinstance(file.root.value, dict):
            file.root.refuse("is missing: name at least one carrier", "carriers")
        return {}
    found = item.members()
    if isinstance(item.value, dict) and not 1 <= len(found) <= MAX_CARRIERS:
        item.refuse(f"has {len(found)} carriers: write 1 to {MAX_CARRIERS}")
    return {name: read_carrier(name, entry, surroundings) for name, entry in found.items()}


def _doubt_unused(file: CheckedFile, routes: tuple[Route, ...]) -> None:
    used = {name for route in routes for name in route.members}
    carriers = file.root.member("carriers")
    for name, item in (carriers.members() if carriers else {}).items():
        if name not in used:
            item.doubt("is in no route: it gets no message")


def _lines(issues: list[Issue] | tuple[Issue, ...]) -> str:
    return "\n".join(f"{issue.path}: {issue.message}" for issue in issues)
