"""Reads what a carrier is reached with: the `settings` of a definition and the fields of `smpp`, secrets resolved."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from servicekit.clock import Clock
from servicekit.errors import ValidationError
from services.delivery.carriers.http.definition import setting_problems
from services.delivery.carriers.http.model import Definition, SettingValues
from services.delivery.carriers.smpp.link import SmppLink
from services.delivery.installation.file_items import Item
from services.delivery.installation.secret_references import UnresolvedReferenceError, resolve

_FLAGS: Final = {"true": True, "false": False}
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
# These two are keys of every carrier, beside `smpp`.
_NOT_BELOW_SMPP: Final = frozenset({"name", "sender"})


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the file is read with."""

    folder: Path  # where relative paths begin
    environment: Mapping[str, str] = field(repr=False)
    public_url: str
    simulator_number: str
    clock: Clock


def definition_settings(carrier: Item, definition: Definition, surroundings: Surroundings) -> SettingValues:
    """Return the values of a carrier's `settings`; what is wrong with them is remembered there."""
    item = carrier.member("settings")
    found = item.members(definition.settings) if item else {}
    values: dict[str, str | tuple[str, ...]] = {}
    unreadable: set[str] = set()
    for name, each in found.items():
        problems = each.count_issues()
        is_list = definition.settings[name].several and isinstance(each.value, list)
        texts = [
            _resolved(one, surroundings, is_secret=definition.settings[name].secret)
            for one in (each.entries() if is_list else [each])
        ]
        values[name] = tuple(texts) if is_list else texts[0]
        if each.count_issues() > problems:
            unreadable.add(name)
    for name, problem in setting_problems(definition, values).items():
        if name not in unreadable:
            carrier.refuse(f"{problem}. {definition.settings[name].description}".strip(), "settings", name)
    return values


def smpp_link(name: str, sender: str, item: Item, surroundings: Surroundings) -> SmppLink | None:
    """Return what `smpp` says; None when something is wrong with it, which is remembered there."""
    problems = item.count_issues()
    values = _fields(item, SmppLink, surroundings)
    if "ca_file" in values:
        values["ca_file"] = str(surroundings.folder / str(values["ca_file"]))
    if item.count_issues() > problems:
        return None
    try:
        return SmppLink(name=name, sender=sender, **values)
    except ValidationError as error:
        item.refuse_members(error.issues)
        return None


def _resolved(item: Item, surroundings: Surroundings, *, is_secret: bool = False) -> str:
    """Return a text with its references replaced; empty when it can not be had."""
    try:
        resolved = resolve(item.text() or "", environment=surroundings.environment, folder=surroundings.folder)
    except UnresolvedReferenceError as error:
        item.refuse(str(error))
        return ""
    if resolved.warning:
        item.doubt(resolved.warning)
    if is_secret and not resolved.is_reference:
        item.doubt("is a secret and stands in this file: name it instead, `${NAME}` or `file:/run/secrets/name`")
    return resolved.value


def _fields(item: Item, made: type, surroundings: Surroundings) -> dict[str, Any]:
    """Return the fields of a dataclass that are given, each as its type; those without a default must be."""
    hints = get_type_hints(made)
    known = {each.name: each for each in dataclasses.fields(made) if each.name not in _NOT_BELOW_SMPP}
    found = item.members(known)
    for name, each in known.items():
        if each.default is each.default_factory is dataclasses.MISSING and name not in found:
            item.refuse("is missing", name)
    return {name: _field(each, hints[name], known[name], surroundings) for name, each in found.items()}


def _field(item: Item, kind: Any, declared: dataclasses.Field[Any], surroundings: Surroundings) -> Any:
    if isinstance(kind, types.UnionType):  # `int | None`: what is given is no None
        kind = next(each for each in get_args(kind) if each is not types.NoneType)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return kind(**_fields(item, kind, surroundings))
    # What must not be printed is a secret.
    text = _resolved(item, surroundings, is_secret=not declared.repr)
    return _converted(item, kind, text) if text else None


def _converted(item: Item, kind: type, text: str) -> Any:
    if issubclass(kind, StrEnum):
        if text not in list(kind):
            item.refuse(f"must be one of {', '.join(kind)}")
            return None
        return kind(text)
    if kind is bool:
        if text not in _FLAGS:
            item.refuse("must be true or false")
        return _FLAGS.get(text)
    for number, form, words in ((int, _WHOLE, "a whole number"), (float, _NUMBER, "a number")):
        if kind is number:
            if not form.fullmatch(text):
                item.refuse(f"must be {words}")
                return None
            return number(text)
    return text
