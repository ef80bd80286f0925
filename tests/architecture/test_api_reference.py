"""What docs/api.md says of the API is all that there is of it, and nothing else."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, MethodDescriptor

from servicekit.error_translation import _BY_KIND
from servicekit.errors import ServiceError
from services.delivery.domain import FailureReason, Status
from services.launcher import gateway
from textway.errors.v1.error_reason_pb2 import ErrorReason

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "api.md").read_text()
GATEWAY = (ROOT / "gateway" / "README.md").read_text()

# What stands in the place of an id, in the gateway's words and in the reference's.
VARIABLE = re.compile(r"\{\w+\}|\b(?:wkh|ig|msg|whd|opt)_…|<name>")
IN_THE_PATH = {"id", "integrationId", "ingressKey", "carrier"}
ROUTE = re.compile(r"`((?:GET|HEAD|POST|PUT|PATCH|DELETE) /[^`]+)`")
SERVED_BY = re.compile(r"^\| `(\w+ /\S+)` \| `([\w.]+)/(\w+)` \|$", re.MULTILINE)
TABLE = re.compile(r"^\| `?(\w+)[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", re.MULTILINE)
WORD = re.compile(r"`(\w+)`")
ERRORS = re.compile(r"^\| ([45][0-9]{2}) \| `(\w+)` \|", re.MULTILINE)


def plain(route: str) -> str:
    return VARIABLE.sub("*", route)


def chapters() -> Mapping[str, str]:
    """The reference's chapters by their headings."""
    return {part.partition("\n")[0]: part for part in REFERENCE.split("\n## ")[1:]}


def first_cells(chapter: str, *heads: str) -> str:
    """What the tables of a chapter that begin with one of these words have in their first column."""
    rows = [row for head, table in TABLE.findall(chapter) if head in heads for row in table.splitlines()]
    return "\n".join(row.split(" | ")[0] for row in rows)


def chapter_of() -> Mapping[str, str]:
    """The chapter that has a call in its table, by the call's route."""
    return {
        plain(route): chapter
        for chapter in chapters().values()
        for route in ROUTE.findall(first_cells(chapter, "call"))
    }


def methods() -> Mapping[str, MethodDescriptor]:
    """Every public call by its route."""
    pool = descriptor_pool.DescriptorPool()
    for file in gateway.descriptor_set().file:
        pool.Add(file)
    return {
        plain(route): pool.FindServiceByName(service).methods_by_name[name]
        for route, service, name in SERVED_BY.findall(GATEWAY)
    }


def fields(message: Descriptor) -> Iterator[str]:
    """The names of a message's fields in JSON, and of all that is in them."""
    if message.full_name in ("google.api.HttpBody", "google.protobuf.Timestamp"):
        return
    for field in message.fields:
        yield field.json_name
        if field.message_type and not field.message_type.GetOptions().map_entry:
            yield from fields(field.message_type)


def test_tells_of_every_call_and_of_no_other():
    assert set(chapter_of()) == set(methods())


@pytest.mark.parametrize("route", methods())
def test_tells_of_every_field_of_a_call_where_it_tells_of_the_call(route):
    told = set(WORD.findall(chapter_of()[route])) | set(WORD.findall(chapters()["Lists"]))
    asked, answered = set(fields(methods()[route].input_type)), set(fields(methods()[route].output_type))
    if "*" in route:
        asked -= IN_THE_PATH

    assert (asked | answered) - {"payload"} <= told


@pytest.mark.parametrize("heading", chapters())
def test_every_name_in_a_table_of_fields_is_that_of_a_field(heading):
    chapter = chapters()[heading]
    known = {"pageSize", "pageToken"}
    for route, called in methods().items():
        if chapter_of().get(route) == chapter:
            known |= {*fields(called.input_type), *fields(called.output_type)}

    assert set(WORD.findall(first_cells(chapter, "field", "parameter"))) <= known


def test_tells_of_every_status_and_of_every_reason_not_to_be_delivered():
    chapter = chapters()["Messages"]

    assert set(WORD.findall(first_cells(chapter, "status"))) == {status.value for status in Status}
    assert {reason.code for reason in FailureReason} <= set(WORD.findall(chapter))


def error_types(base: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    for each in base.__subclasses__():
        if each.__module__.startswith(("services.", "servicekit.")):
            yield each
            yield from error_types(each)


def test_tells_of_every_error_with_its_status_and_of_no_other():
    for service in ("integrations", "ingress", "delivery"):
        importlib.import_module(f"services.{service}.errors")
    of_services = {(str(_BY_KIND[each.kind][1]), each.reason.lower()) for each in error_types()}
    answered_by_envoy = set(ERRORS.findall(GATEWAY))

    told = set(ERRORS.findall(REFERENCE))

    assert told == of_services | answered_by_envoy
    names = [name.removeprefix("ERROR_REASON_").lower() for name, _ in ErrorReason.items()]
    assert {error for _, error in told} == set(names) - {"unspecified"}
