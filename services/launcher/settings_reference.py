"""The settings as a page and as an example file, both made from the settings classes, so that they can not drift."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from servicekit.settings import ENV_PREFIX, ProcessSettings
from services.launcher.parts import PARTS
from services.launcher.settings import GatewayFilesSettings, LauncherSettings, StatusSettings

# Read by commands and by those who test and measure, not by a process that serves.
_OTHERS: Final = frozenset({f"{ENV_PREFIX}API_KEY", f"{ENV_PREFIX}IMAGE"})
_OTHERS_BEGIN: Final = (f"{ENV_PREFIX}TEST_", f"{ENV_PREFIX}FAULT_", f"{ENV_PREFIX}FULL_", f"{ENV_PREFIX}BENCH_")
_HEADING: Final = (
    "Settings come from environment variables. A setting that can not be used stops the start and is named."
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of the reference."""

    name: str
    default: str
    meaning: str


def groups() -> Iterator[tuple[str, list[Setting]]]:
    """Yield each process's settings under its name; what every process reads comes first and once."""
    shared = set(ProcessSettings.model_fields)
    yield "every process", [_setting(name, field) for name, field in ProcessSettings.model_fields.items()]
    types: list[tuple[str, type[ProcessSettings]]] = [
        ("`textway up`", LauncherSettings),
        ("`textway prepare-containers`", GatewayFilesSettings),
    ]
    types += [(name.capitalize(), part.settings_type) for name, part in PARTS.items()]
    types.append(("`textway status`", StatusSettings))
    for title, settings_type in types:
        own = {name: field for name, field in settings_type.model_fields.items() if name not in shared}
        yield title, [_setting(name, field) for name, field in own.items()]


def configuration_page() -> str:
    """Return docs/configuration.md."""
    lines = ["# Settings", "", "<!-- Written by `make generate` from the settings classes. -->", "", _HEADING, ""]
    for title, settings in groups():
        lines += [f"## Read by {title}", "", "| setting | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{each.name}` | {f'`{each.default}`' if each.default else ''} | {each.meaning} |" for each in settings
        ]
        lines.append("")
    return "\n".join(lines)


def env_example() -> str:
    """Return .env.example: every setting, commented out, with its default."""
    lines = ["# Written by `make generate`: every setting with its default. Uncomment what you change."]
    seen: set[str] = set()
    for title, settings in groups():
        fresh = [each for each in settings if each.name not in seen]
        seen |= {each.name for each in fresh}
        lines += ["", f"# --- read by {title}"]
        for each in fresh:
            lines += [f"# {each.meaning}", f"# {each.name}={each.default}"]
    return "\n".join(lines) + "\n"


def mistyped(names: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each name that looks like a setting, and that nothing reads."""
    known = {each.name for _, settings in groups() for each in settings}
    for name in sorted(names):
        if not name.startswith(ENV_PREFIX) or name in known | _OTHERS or name.startswith(_OTHERS_BEGIN):
            continue
        similar = get_close_matches(name, known, n=1, cutoff=0.85)
        hint = f"is {similar[0]} meant?" if similar else "docs/configuration.md lists them all"
        yield f"{name} is no setting and changes nothing: {hint}"


def _setting(name: str, field: FieldInfo) -> Setting:
    default = field.default
    shown = "" if default is None or default is PydanticUndefined else str(default)
    return Setting(name=f"{ENV_PREFIX}{name.upper()}", default=shown, meaning=field.description or "")
