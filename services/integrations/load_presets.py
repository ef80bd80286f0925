"""Reads the presets: one TOML file each, whose name is the preset's, with the fields that it gives defaults to."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from services.integrations.domain import Preset

DEFAULT_PRESET: Final = "generic"
FOLDER: Final = Path(__file__).parent / "presets"


@cache
def presets(folder: Path = FOLDER) -> Mapping[str, Preset]:
    """Return every preset by its name. A file with a field missing or too many raises: it is a defect of ours."""
    return {path.stem: _preset(path) for path in sorted(folder.glob("*.toml"))}


def _preset(path: Path) -> Preset:
    fields = tomllib.loads(path.read_text(encoding="utf-8"))
    preset = Preset(
        name=path.stem,
        to_path=fields.pop("toPath"),
        text_path=fields.pop("textPath"),
        ref_path=fields.pop("refPath"),
        signing_header=fields.pop("signingHeader"),
        priority=fields.pop("priority"),
        on_unknown=fields.pop("onUnknown"),
    )
    if fields:
        raise ValueError(f"{path.name}: no preset has {', '.join(sorted(fields))}")
    return preset
