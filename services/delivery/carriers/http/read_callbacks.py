"""The callbacks of a definition from their sections: what is verified, and what is answered.

Nothing here raises: what is wrong is told to the section, and something harmless stands in for it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Any, Final

from services.delivery.carriers.http.callback_signatures import SCHEMES, SIGNED_NAMES, signed_names
from services.delivery.carriers.http.model import AnswerTemplate, CallbackForm, Verify
from services.delivery.carriers.http.places import Format, Places
from services.delivery.carriers.http.read_places import read_expectations, read_places
from services.delivery.carriers.http.read_requests import read_template
from services.delivery.carriers.http.templates import Template
from services.delivery.carriers.yaml_section import Section

CALLBACK_METHODS: Final = ("POST", "GET")
LONGEST_TOLERANCE_SECONDS: Final = 86_400

_SETTING: Final = re.compile(r"\{settings\.")


def read_callback_form(
    section: Section, names: Collection[str], verify: Verify | None, *, form: Format
) -> CallbackForm:
    """Return what receipts and inbound SMS have in common. The section is left open for its other members."""
    methods = section.texts("methods") or ("POST",)
    for index, method in enumerate(methods):
        if method not in CALLBACK_METHODS:
            section.refuse(f"must be one of {', '.join(CALLBACK_METHODS)}", "methods", index)
    inner = section.section("verify")
    own = read_verify(inner, names) if inner else verify
    if own is None:
        section.refuse("is required, here or at the top level: what is not verified is not believed", "verify")
    return CallbackForm(
        methods=methods,
        format=form,
        verify=own or Verify(scheme="header"),
        only=read_expectations(section, "only", form),
        each=read_places(section, "each", form) if form is Format.JSON else _no_each(section),
        answer=_answer(section.section("answer")),
    )


def _no_each(section: Section) -> Places:
    if section.get("each") is not None:
        section.refuse("is for format json only", "each")
    return ()


def _answer(section: Section | None) -> AnswerTemplate:
    if section is None:
        return AnswerTemplate()
    answer = AnswerTemplate(
        status=section.whole("status", least=200, most=299) or AnswerTemplate.status,
        content_type=section.text("content_type"),
        body=section.text("body"),
    )
    if answer.body and answer.status == AnswerTemplate.status:
        section.refuse("can not go with status 204: write `status: 200`", "body")
    section.close()
    return answer


def read_verify(section: Section, names: Collection[str]) -> Verify:
    """Return how a callback is verified; the parameters are those of the scheme's class."""
    scheme = section.text("scheme", required=True)
    kind = SCHEMES.get(scheme)
    if kind is None:
        if scheme:
            section.refuse(f"must be one of {', '.join(SCHEMES)}", "scheme")
        section.names()
        return Verify(scheme="header")
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]  # all are dataclasses
    verify = Verify(
        scheme=scheme,
        texts={
            name: template
            for name, each in fields.items()
            if each.type == "str" and not _is_word(each) and (template := _parameter(section, each, names)) is not None
        },
        words={
            name: word
            for name, each in fields.items()
            # An empty text counts where it is written: `prefix: ""` for a token that stands alone.
            if _is_word(each) and ((word := _word(section, each)) or section.get(name) == "")
        },
        numbers={
            name: number
            for name, each in fields.items()
            if each.type == "int"
            and (number := section.whole(name, least=1, most=LONGEST_TOLERANCE_SECONDS)) is not None
        },
        claims=_claims(section, names) if "claims" in fields else {},
    )
    _check_signed(section, verify)
    section.close()
    return verify


_Field = dataclasses.Field[Any]  # Any: a field of any type
# These are taken as they are written: `signed` has braces of its own.
_LITERALS: Final = frozenset({"signed", "prefix", "separator"})


def _is_word(each: _Field) -> bool:
    return bool(each.metadata.get("choices")) or each.name in _LITERALS


def _parameter(section: Section, each: _Field, names: Collection[str]) -> Template | None:
    is_required = each.default is dataclasses.MISSING
    return read_template(section, each.name, names, required=is_required)


def _word(section: Section, each: _Field) -> str:
    choices: tuple[str, ...] = each.metadata.get("choices", ())
    if choices:
        return section.choice(each.name, {choice: choice for choice in choices}, "")
    word = section.text(each.name)
    if _SETTING.search(word):
        section.refuse("can not name a setting", each.name)
    return word


def _claims(section: Section, names: Collection[str]) -> dict[str, Template]:
    inner = section.section("claims")
    found = {name: read_template(inner, name, names, required=True) for name in inner.names()} if inner else {}
    return {name: template for name, template in found.items() if template}


def _check_signed(section: Section, verify: Verify) -> None:
    signed = verify.words.get("signed", "{body}" if verify.scheme == "hmac" else "")
    named = signed_names(signed)
    for name in sorted(named - SIGNED_NAMES):
        section.refuse(f"names `{{{name}}}`: {', '.join(sorted(SIGNED_NAMES))} are known here", "signed")
    for name in ("timestamp", "nonce", "id"):
        has_header = f"{name}_header" in verify.texts
        if verify.scheme == "hmac" and (name in named) != has_header:
            wanted = f"`{{{name}}}` in `signed` and `{name}_header` go together"
            section.refuse(f"must be used with the other: {wanted}", "signed" if name in named else f"{name}_header")
