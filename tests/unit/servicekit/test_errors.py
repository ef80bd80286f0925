"""Errors: each has a kind that callers know and a reason that the contract names, and says which fields are wrong."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import servicekit
import services
from servicekit.errors import (
    InternalError,
    Issue,
    Kind,
    NotFoundError,
    RemoteError,
    ServiceError,
    UnavailableError,
    ValidationError,
)
from textway.errors.v1.error_reason_pb2 import ErrorReason

PREFIX = "ERROR_REASON_"
# In the contract for features that are still to come: take a name out of here with the first error that uses it.
RESERVED_FOR_LATER: set[str] = set()


def every_error() -> set[type[ServiceError]]:
    """Every error class of the product, wherever it is defined."""
    for package in (servicekit, services):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found: set[type[ServiceError]] = set()
    unseen = [ServiceError]
    while unseen:
        error = unseen.pop()
        found.add(error)
        unseen.extend(error.__subclasses__())
    # A remote error has the reason of the error that it passes on.
    return {error for error in found if error.__module__.startswith(("servic",))} - {RemoteError}


def reasons_of_the_contract() -> set[str]:
    return {name.removeprefix(PREFIX) for name in ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118  # no dict


def test_every_error_has_a_reason_that_the_contract_names():
    unknown = {error.__qualname__: error.reason for error in every_error()}

    assert {name: reason for name, reason in unknown.items() if reason not in reasons_of_the_contract()} == {}


def test_every_reason_of_the_contract_is_some_errors():
    used = {error.reason for error in every_error()}

    assert reasons_of_the_contract() - used == RESERVED_FOR_LATER


def test_errors_of_one_reason_are_of_one_kind():
    kinds: dict[str, set[Kind]] = {}
    for error in every_error():
        kinds.setdefault(error.reason, set()).add(error.kind)

    # A name that is taken and a state that does not allow the call are both a conflict to a JSON client.
    assert kinds.pop("CONFLICT") == {Kind.CONFLICT, Kind.ALREADY_EXISTS}
    assert {reason: found for reason, found in kinds.items() if len(found) > 1} == {}


def test_finds_the_errors_of_every_service():
    modules = {error.__module__ for error in every_error()}

    assert {"servicekit.errors", "services.delivery.errors", "services.ingress.errors"} <= modules


@pytest.mark.parametrize(
    ("issues", "message"),
    [
        ([Issue(path="to", message="is required")], "to: is required"),
        ([Issue(path="to", message="is required"), Issue(path="text", message="no")], "to: is required (and 1 more)"),
        ([Issue(path=f"f{number}", message="no") for number in range(9)], "f0: no (and 8 more)"),
    ],
)
def test_a_validation_error_lists_every_wrong_field_and_tells_the_first(issues, message):
    error = ValidationError(issues)

    assert error.message == message
    assert error.issues == tuple(issues)
    assert error.extras == {"issues": [{"path": issue.path, "message": issue.message} for issue in issues]}


def test_what_does_not_exist_and_what_is_somebody_elses_are_refused_alike():
    assert NotFoundError().message == NotFoundError().message
    assert NotFoundError().extras == {}


def test_an_outage_says_when_to_send_again():
    assert UnavailableError("down").retry_after_seconds == 1
    assert UnavailableError("down", retry_after_seconds=60).retry_after_seconds == 60


def test_a_defect_says_nothing_about_itself():
    assert "Textway" in InternalError().message
    assert InternalError().extras == {}


def test_a_remote_error_is_what_it_was_where_it_came_from():
    error = RemoteError(Kind.FORBIDDEN, "TENANT_INACTIVE", "This tenant is suspended.", {"a": 1})

    assert (error.kind, error.reason, error.message) == (Kind.FORBIDDEN, "TENANT_INACTIVE", "This tenant is suspended.")
    assert error.extras == {"a": 1}
    assert (ServiceError.kind, ServiceError.reason) == (Kind.INTERNAL, "INTERNAL")
