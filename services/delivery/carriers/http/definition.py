"""Definitions of HTTP carriers: reading one from YAML, and the ones that are shipped.

Documentation: docs/guides/new-carrier.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from servicekit.errors import Issue
from services.delivery.carriers.base import Capability
from services.delivery.carriers.http.model import (
    Answer,
    Auth,
    Definition,
    InboundCallback,
    Limits,
    LookUp,
    Setting,
    SettingValues,
    StatusCallback,
    TextEncoding,
    Verify,
)
from services.delivery.carriers.http.places import Format
from services.delivery.carriers.http.read_callbacks import read_callback_form, read_verify
from services.delivery.carriers.http.read_places import (
    HTTP_STATUS,
    read_expectations,
    read_places,
    read_receipt,
    read_verdicts,
)
from services.delivery.carriers.http.read_requests import read_request, read_template
from services.delivery.carriers.http.templates import MESSAGE_NAMES
from services.delivery.carriers.yaml_document import Document, YamlError, read_yaml, read_yaml_file
from services.delivery.carriers.yaml_section import Section

__all__ = ["Definition", "Installation", "YamlError", "load_definition", "setting_problems", "shipped"]

FOLDER: Final = Path(__file__).parents[1] / "definitions"
ANSWER_FORMATS: Final = {form.value: form for form in (Format.JSON, Format.TEXT)}
CALLBACK_FORMATS: Final = {form.value: form for form in Format}
TEXT_ENCODINGS: Final = (
    "utf-8", "latin-1", "utf-16-be", "gsm7", "hex-utf-8", "hex-latin-1", "hex-utf-16-be", "hex-gsm7"
)  # fmt: skip  # one line per encoding hides that this is one list
MAX_SEVERAL: Final = 2

_CAPABILITIES: Final[Mapping[str, Capability | None]] = {each.value: each for each in Capability}
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SETTING: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LINK: Final = re.compile(r"https?://\S+|docs/\S+")


@dataclass(frozen=True, kw_only=True)
class Installation:
    """One use of a definition, as `carriers.yaml` has it."""

    name: str
    sender: str = ""
    settings: SettingValues = field(default_factory=dict, repr=False)  # secrets are resolved
    capability: Capability | None = None  # None for the definition's own
    public_url: str = ""  # where carriers reach us, without a trailing slash; empty when they can not


def shipped() -> Mapping[str, Path]:
    """Return the definitions that come with Textway, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_definition(source: str | Path) -> Definition:
    """Return the definition in a file, or in a text; raise YamlError, with the line of everything that is wrong.

    A Path and a text of one line that ends in `.yaml` are a file's path; any other text is YAML.
    """
    if isinstance(source, str) and ("\n" in source or not source.endswith(".yaml")):
        return _definition(read_yaml(source, "definition"), None)
    return _definition(read_yaml_file(Path(source)), Path(source))


def setting_problems(definition: Definition, given: SettingValues) -> Mapping[str, str]:
    """Return what is wrong with the settings of an installation, by name; the sentences hold no values."""
    problems = {
        name: f"is no setting of {definition.name}: {', '.join(definition.settings)} are"
        for name in given
        if name not in definition.settings
    }
    for name, setting in definition.settings.items():
        values = values_of(given.get(name, ""))
        if not any(values):
            if setting.required:
                problems[name] = "is required"
            continue
        if len(values) > (MAX_SEVERAL if setting.several else 1):
            problems[name] = "must be one value" if not setting.several else f"must be at most {MAX_SEVERAL} values"
        elif not all(values):
            problems[name] = "has an empty value"
        elif not all(map(str.isprintable, values)):
            problems[name] = "has a line break or another control character"
        elif setting.choices and any(value not in setting.choices for value in values):
            problems[name] = f"must be one of {', '.join(setting.choices)}"
        elif setting.is_url and not all(map(_is_address, values)):
            problems[name] = "must be an http:// or https:// address without user, password and fragment"
    return problems


def values_of(given: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return a setting's values as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        return False
    is_plain = bool(parts.hostname) and "@" not in parts.netloc and not parts.fragment
    return parts.scheme in {"http", "https"} and is_plain and has_port and not re.search(r"\s", text)


def _definition(document: Document, path: Path | None) -> Definition:
    issues: list[Issue] = []
    top = Section(document, document.value, (), issues)
    name = top.text("name", required=True)
    if name and not _NAME.fullmatch(name):
        top.refuse("must be 1 to 32 small letters, digits and hyphens", "name")
    settings = _settings(top)
    setting_names = frozenset(f"settings.{each}" for each in settings)
    names = MESSAGE_NAMES | setting_names
    inner = top.section("verify")
    verify = read_verify(inner, setting_names) if inner else None
    request = read_request(top.section("request", required=True) or _empty(top), names, default_method="POST")
    definition = Definition(
        name=name,
        title=top.text("title", required=True),
        documentation=_documentation(top),
        capability=_capability(top),
        settings=settings,
        limits=_limits(top),
        request=request,
        answer=_answer(top.section("answer")),
        look_up=_look_up(top, names, request.auth),
        status_callback=_status_callback(top, setting_names, verify),
        inbound_callback=_inbound_callback(top, setting_names, verify),
        path=path,
    )
    can_tell = definition.look_up or definition.status_callback
    if definition.capability is Capability.RECONCILABLE and not can_tell:
        top.refuse("can not be `reconcilable` without `look_up` or `status_callback`", "capability")
    top.close()
    if issues:
        raise YamlError(issues)
    return definition


def _empty(section: Section) -> Section:
    # Stands in for a section that is missing, whose own problems are of no interest then.
    return Section(section.document, {}, section.path, [])


def _documentation(top: Section) -> tuple[str, ...]:
    links = top.texts("documentation", required=True)
    if not all(map(_LINK.fullmatch, links)):
        top.refuse("must be links to the carrier's documentation", "documentation")
    return links


def _capability(top: Section) -> Capability:
    top.get("capability", required=True)
    return top.choice("capability", _CAPABILITIES, None) or Capability.BLIND


def _settings(top: Section) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for name, section in top.sections("settings"):
        if not _SETTING.fullmatch(name):
            section.refuse("must be small letters, digits and underscores, a letter first")
        settings[name] = Setting(
            required=section.flag("required"),
            secret=section.flag("secret"),
            several=section.flag("several"),
            is_url=section.flag("url"),
            choices=section.texts("choices"),
            default=read_template(section, "default", {f"settings.{each}" for each in settings}),
            description=section.text("description"),
        )
        if settings[name].required and settings[name].default:
            section.refuse("can not be required and have a default", "default")
        section.close()
    return settings


def _limits(top: Section) -> Limits:
    section = top.section("limits")
    if section is None:
        return Limits()
    limits = Limits(
        text_characters=section.whole("text_characters", least=1, most=100_000),
        segments=section.whole("segments", least=1, most=255),
        in_flight=section.whole("in_flight", least=1, most=10_000),
        segments_per_second=section.number("segments_per_second", least=0.001, most=100_000),
    )
    section.close()
    return limits


def _answer(section: Section | None) -> Answer:
    if section is None:
        return Answer()
    form = section.choice("format", ANSWER_FORMATS, Format.JSON)
    inner = section.section("taken")
    statuses = inner.texts("statuses") if inner else ()
    for index, status in enumerate(statuses):
        if not HTTP_STATUS.fullmatch(status):
            section.refuse("must be an HTTP status such as 202 or a class such as 2xx", "taken", "statuses", index)
    answer = Answer(
        format=form,
        taken_statuses=statuses or Answer().taken_statuses,
        taken_where=read_expectations(inner, "where", form) if inner else (),
        message_id=read_places(section, "message_id", form),
        code=read_places(section, "code", form),
        detail=read_places(section, "detail", form),
        retry_after=read_places(section, "retry_after", form),
        codes=read_verdicts(section, "codes", of_statuses=False),
        statuses=read_verdicts(section, "statuses", of_statuses=True),
    )
    if answer.codes and not answer.code:
        section.refuse("can not be used without `code`, the place where a code is", "codes")
    if inner:
        inner.close()
    section.close()
    return answer


def _look_up(top: Section, names: Collection[str], auth: Auth | None) -> LookUp | None:
    section = top.section("look_up")
    if section is None:
        return None
    form = section.choice("format", ANSWER_FORMATS, Format.JSON)
    receipt = read_receipt(section, form)
    if receipt.message_id:
        section.refuse("is not read here: the message is the one that was asked for", "message_id")
    request = read_request(section, names, default_method="GET", auth=auth)
    return LookUp(request=request, format=form, receipt=receipt)


def _status_callback(top: Section, names: Collection[str], verify: Verify | None) -> StatusCallback | None:
    section = top.section("status_callback")
    if section is None:
        return None
    form = _callback_format(section)
    callback = StatusCallback(
        form=read_callback_form(section, names, verify, form=form), receipt=read_receipt(section, form)
    )
    if not callback.receipt.message_id and not callback.receipt.carrier_message_id:
        section.refuse("needs `message_id` or `carrier_message_id`: of which message is it?")
    section.close()
    return callback


def _inbound_callback(top: Section, names: Collection[str], verify: Verify | None) -> InboundCallback | None:
    section = top.section("inbound_callback")
    if section is None:
        return None
    form = _callback_format(section)
    callback = InboundCallback(
        form=read_callback_form(section, names, verify, form=form),
        id=read_places(section, "id", form),
        sender=read_places(section, "from", form, required=True),
        recipient=read_places(section, "to", form, required=True),
        text=read_places(section, "text", form, required=True),
        region=read_template(section, "region", names),
        encoding=_text_encoding(section, form),
    )
    if callback.form.verify.scheme == "message_key":
        section.refuse("can not be verified by message_key: an inbound SMS belongs to no message of ours", "verify")
    section.close()
    return callback


def _callback_format(section: Section) -> Format:
    section.get("format", required=True)
    return section.choice("format", CALLBACK_FORMATS, Format.FORM)


def _text_encoding(section: Section, form: Format) -> TextEncoding:
    table = {each: each for each in TEXT_ENCODINGS}
    if not isinstance(section.get("text_encoding"), dict):
        return TextEncoding(otherwise=section.choice("text_encoding", table, "utf-8"))
    inner = section.section("text_encoding") or _empty(section)
    values = inner.section("values", required=True)
    encoding = TextEncoding(
        otherwise=inner.choice("otherwise", table, "utf-8"),
        by=read_places(inner, "by", form, required=True),
        values={word: values.choice(word, table, "utf-8") for word in values.names()} if values else {},
    )
    inner.close()
    return encoding
