"""The requests of a definition from their sections: templates, members, authentication.

Nothing here raises: what is wrong is told to the section, and something harmless stands in for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from services.delivery.carriers.http.model import Auth, BasicAuth, HeaderAuth, QueryAuth, Request
from services.delivery.carriers.http.templates import (
    Choice,
    Condition,
    Constant,
    Group,
    Member,
    Template,
    TemplateError,
    parse_condition,
    parse_template,
)
from services.delivery.carriers.yaml_section import Section

SEND_METHODS: Final = {method: method for method in ("POST", "GET", "PUT")}
EMPTY: Final = Template(pieces=())

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def read_template(section: Section, key: str, names: Collection[str], *, required: bool = False) -> Template | None:
    """Return the template in a member; None when it is absent."""
    text = section.text(key, required=required)
    return _template(section, text, names, key) if text else None


def _template(section: Section, text: str, names: Collection[str], *path: str | int) -> Template:
    try:
        return parse_template(text, names)
    except TemplateError as error:
        section.refuse(str(error), *path)
        return EMPTY


def read_members(section: Section | None, names: Collection[str]) -> dict[str, Member]:
    """Return the members of a form, a query or the headers: texts, constants and choices."""
    if section is None:
        return {}
    members: dict[str, Member] = {}
    for key in section.names():
        value = section.get(key)
        if isinstance(value, list) or (isinstance(value, dict) and "when" not in value):
            section.refuse("must be a text, or a choice such as {when: ucs2, is: 2}", key)
            continue
        members[key] = read_member(section, value, names, key)
    return members


def read_member(section: Section, value: object, names: Collection[str], *path: str | int) -> Member:
    """Return a JSON member of any shape."""
    if isinstance(value, str):
        return _template(section, value, names, *path)
    if isinstance(value, list):
        return Group(members=tuple(read_member(section, each, names, *path, index) for index, each in enumerate(value)))
    if not isinstance(value, dict):
        return Constant(value=value)
    if "when" in value:
        return _choice(section, value, names, *path)
    return Group(members={key: read_member(section, each, names, *path, key) for key, each in value.items()})


def _choice(section: Section, value: Mapping[str, object], names: Collection[str], *path: str | int) -> Choice:
    for key in value:
        if key not in {"when", "is", "else"}:
            section.refuse("is not known here: when, is, else are", *path, key)
    if "is" not in value:
        section.refuse("needs `is`: what it is when the condition holds", *path)
    try:
        when = parse_condition(str(value["when"]), names)
    except TemplateError as error:
        section.refuse(str(error), *path, "when")
        when = Condition(name="ucs2", negated=False)
    return Choice(
        when=when,
        then=read_member(section, value.get("is"), names, *path, "is"),
        otherwise=read_member(section, value["else"], names, *path, "else") if "else" in value else None,
    )


def read_request(section: Section, names: Collection[str], *, default_method: str, auth: Auth | None = None) -> Request:
    """Return a request; `auth` is used when the section has none of its own."""
    form, json = section.section("form"), section.get("json")
    if form is not None and json is not None:
        section.refuse("can not stand beside `form`: a request has one body", "json")
    headers = section.section("headers")
    for name in headers.names() if headers else ():
        if not _HEADER.fullmatch(name):
            section.refuse("is no header's name", "headers", name)
    request = Request(
        method=section.choice("method", SEND_METHODS, default_method),
        url=read_template(section, "url", names, required=True) or EMPTY,
        # A text may have several lines, and a header may not.
        headers=read_members(headers, frozenset(names) - {"text"}),
        auth=_auth(section, names, auth),
        query=read_members(section.section("query"), names),
        form=read_members(form, names) if form else None,
        json=read_member(section, json, names, "json") if json is not None else None,
    )
    section.close()
    return request


def _auth(section: Section, names: Collection[str], inherited: Auth | None) -> Auth | None:
    if section.get("auth") is None:
        return inherited
    if section.get("auth") == "none":
        return None
    inner = section.section("auth")
    kinds = {"basic": _basic, "bearer": _bearer, "header": _header_auth, "query": _query_auth}
    given = inner.names() if inner else ()
    if inner is None or len(given) != 1 or given[0] not in kinds:
        section.refuse(f"must be `none` or one of {', '.join(kinds)}", "auth")
        return None
    return kinds[given[0]](inner, names)


def _basic(section: Section, names: Collection[str]) -> Auth | None:
    inner = section.section("basic")
    if inner is None:
        return None
    user = read_template(inner, "user", names, required=True)
    password = read_template(inner, "password", names, required=True)
    inner.close()
    return BasicAuth(user=user or EMPTY, password=password or EMPTY)


def _bearer(section: Section, names: Collection[str]) -> Auth | None:
    value = read_template(section, "bearer", names, required=True) or EMPTY
    return HeaderAuth(name="Authorization", value=Template(pieces=("Bearer ", *value.pieces)))


def _header_auth(section: Section, names: Collection[str]) -> Auth | None:
    return HeaderAuth(**_named(section, "header", names))


def _query_auth(section: Section, names: Collection[str]) -> Auth | None:
    return QueryAuth(**_named(section, "query", names))


def _named(section: Section, key: str, names: Collection[str]) -> dict[str, Any]:  # Any: a name and a template
    inner = section.section(key)
    if inner is None:
        return {"name": "", "value": EMPTY}
    name, value = inner.text("name", required=True), read_template(inner, "value", names, required=True)
    if key == "header" and name and not _HEADER.fullmatch(name):
        inner.refuse("is no header's name", "name")
    inner.close()
    return {"name": name, "value": value or EMPTY}
