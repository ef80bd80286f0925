"""How a payload becomes a message: one pure step whose trace tells every answer, the dry run's included."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, NamedTuple

from servicekit.errors import Issue, ServiceError, ValidationError
from servicekit.json_paths import CompiledPath, compile_path
from servicekit.phone_numbers import NotAPhoneNumberError, normalise
from servicekit.sms_fitting import DoesNotFitError, TextChange, fit
from servicekit.sms_text import MAX_TEXT_LENGTH, is_blank
from services.ingress.domain import (
    MAX_DEDUPE_CHARACTERS,
    MAX_REF_CHARACTERS,
    NO_LIMIT,
    MappingPaths,
    TextLimit,
)
from services.ingress.errors import InvalidRecipientError, MissingFieldsError, TextTooLongError, TooManySegmentsError
from services.ingress.strict_json import JsonNumber, render
from services.ingress.turns import Pause, no_pause

RECIPIENT_SHOWN: Final = 64

_WHOLE_NUMBER: Final = re.compile(r"[0-9]+")
_NOTHING_THERE: Final = "there is nothing at this path"
_NO_REPEAT_KNOWN: Final = "so that the payload is taken for a new one"


class RoomError(Exception):
    """There are more recipients than there is room for."""


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """An integration's paths, ready to be used."""

    to: CompiledPath
    text: CompiledPath
    ref: CompiledPath | None
    dedupe: CompiledPath | None
    for_each: CompiledPath | None
    default_region: str


@dataclass(frozen=True, kw_only=True)
class FieldTrace:
    """One path: how much it found, one value of that, at which place, and what became of it."""

    field: str
    path: str
    matches: int
    place: int = 0
    found: object = None
    result: str | None = None
    problem: str | None = None
    error: ServiceError | None = None
    text_changed: TextChange | None = None

    @property
    def is_missing(self) -> bool:
        """Whether the path led to nothing: no value, null, or a text of blanks only."""
        return _is_nothing(self.found)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """All that was tried, and the verdict: `error` is what the sender is told, None when there is a message."""

    fields: tuple[FieldTrace, ...] = ()
    error: ServiceError | None = None

    @property
    def recipient_place(self) -> int:
        """The place of its recipient among all that the path to recipients found."""
        return next((trace.place for trace in self.fields if trace.field == "to"), 0)

    def result_of(self, field: str) -> str:
        """Return what a field became; empty when it became nothing."""
        for trace in self.fields:
            if trace.field == field:
                return trace.result or ""
        return ""

    @property
    def text_changed(self) -> TextChange | None:
        """What was done to the text to make it fit; None when it is as the payload has it."""
        for trace in self.fields:
            if trace.text_changed:
                return trace.text_changed
        return None


# A mapping is compiled once and not once for each message; the paths' own cache makes even a forgotten one cheap.
@lru_cache(maxsize=16_384)
def compile_mapping(paths: MappingPaths) -> Mapping:
    """Return paths that can be used; raise servicekit.json_paths.PathError when one of them can not."""
    return Mapping(
        to=compile_path(paths.to),
        text=compile_path(paths.text),
        ref=compile_path(paths.ref) if paths.ref else None,
        dedupe=compile_path(paths.dedupe) if paths.dedupe else None,
        for_each=compile_path(paths.for_each) if paths.for_each else None,
        default_region=paths.default_region,
    )


async def map_item(
    mapping: Mapping, document: object, limit: TextLimit = NO_LIMIT, *, room: int = 1, pause: Pause = no_pause
) -> list[Trace]:
    """Look for recipients, text, reference and dedupe value in a strict JSON document, or in an item of one.

    Each of several different recipients has a trace of its own. Raises RoomError when these are more than `room`.
    """
    recipients = await _map_recipients(mapping, document, room, pause)
    text = _map_text(mapping.text, document, limit)
    ref = () if mapping.ref is None else (_map_ref(mapping.ref, document),)
    dedupe = None if mapping.dedupe is None else _map_dedupe(mapping.dedupe, document)
    traces = []
    for to in recipients:
        fields = (to, text, *ref, *(() if dedupe is None else (_dedupe_for(mapping, to, dedupe),)))
        traces.append(Trace(fields=fields, error=_verdict(to, text, fields)))
    return traces


def _verdict(to: FieldTrace, text: FieldTrace, fields: tuple[FieldTrace, ...]) -> ServiceError | None:
    """Return the one error that is told: what is missing comes first, then what is wrong in the order of the fields.

    Values of the wrong form are told together.
    """
    missing = [trace.field for trace in (to, text) if trace.is_missing]
    if missing:
        return MissingFieldsError(missing=missing, tried={trace.field: [trace.path] for trace in (to, text)})
    errors = [trace.error for trace in fields if trace.error]
    if errors and isinstance(errors[0], ValidationError):
        return ValidationError(
            [issue for error in errors if isinstance(error, ValidationError) for issue in error.issues]
        )
    return errors[0] if errors else None


async def _map_recipients(mapping: Mapping, document: object, room: int, pause: Pause) -> list[FieldTrace]:
    """Return one trace for each number, and one for each value that is none."""
    values = mapping.to.find(document)
    if room < 1:
        raise RoomError
    if len(values) <= 1:
        return [_map_recipient(mapping, values, len(values))]
    traces: dict[object, FieldTrace] = {}
    for identity, place in _first_places(values, room).items():
        trace = replace(_map_recipient(mapping, [values[place]], len(values)), place=place)
        traces.setdefault(trace.result or (identity,), trace)
        await pause()
    return list(traces.values())


def _first_places(values: list[object], room: int) -> dict[object, int]:
    """Return the different values, each with the first place at which it stands, in their order."""
    places: dict[object, int] = {}
    for place, value in enumerate(values):
        places.setdefault(value if isinstance(value, str) else (repr(value),), place)
    if len(places) > room:
        raise RoomError
    return places


def _map_recipient(mapping: Mapping, values: list[object], matches: int) -> FieldTrace:
    look = _Look("to", mapping.to.text, matches, values[0] if values else None)
    if _is_nothing(look.found):
        return _missing(look)
    try:
        number = normalise(_as_number_text(look.found), mapping.default_region)
    except NotAPhoneNumberError as error:
        return _refused(look, str(error), InvalidRecipientError(to=_shown(look.found), problem=str(error)))
    return _became(look, number)


def _as_number_text(value: object) -> str:
    if not isinstance(value, str):
        raise NotAPhoneNumberError(f"it is {_kind_of(value)} where a string or a number is wanted")
    # The phone number library drops signs and points, which would text somebody else.
    if isinstance(value, JsonNumber) and not _WHOLE_NUMBER.fullmatch(value):
        raise NotAPhoneNumberError("it is a number that is not written with digits only")
    return str(value)


def _shown(value: object) -> str:
    return value[:RECIPIENT_SHOWN] if isinstance(value, str) else render(value, RECIPIENT_SHOWN)


def _map_text(path: CompiledPath, document: object, limit: TextLimit) -> FieldTrace:
    look = _look("text", path, path.find(document))
    if _is_nothing(look.found):
        return _missing(look)
    if not isinstance(look.found, str):
        return _wrong_type(look)
    if len(look.found) > MAX_TEXT_LENGTH and not limit.truncates:
        return _too_many_characters(look, len(look.found))
    try:
        fitted = fit(
            str(look.found),
            max_segments=limit.max_segments,
            max_characters=MAX_TEXT_LENGTH,
            on_overflow=limit.on_overflow,
        )
    except DoesNotFitError as error:
        if not limit.max_segments:
            return _too_many_characters(look, len(look.found))
        return _refused(look, str(error), TooManySegmentsError(limit=error.limit, segments=error.segments))
    return _became(look, fitted.text, text_changed=fitted.change, problem=_passed_over(look))


def _too_many_characters(look: _Look, length: int) -> FieldTrace:
    error = TextTooLongError(limit=MAX_TEXT_LENGTH, length=length)
    return _refused(look, f"it has {length} characters, at most {MAX_TEXT_LENGTH} can be sent", error)


def _map_ref(path: CompiledPath, document: object) -> FieldTrace:
    values = path.find(document)
    look = _look("ref", path, values)
    if look.found is None:
        return FieldTrace(field="ref", path=path.text, matches=len(values), problem=_passed_over(look))
    if not isinstance(look.found, str):
        return _wrong_type(look)
    if len(look.found) > MAX_REF_CHARACTERS:
        problem = f"it has {len(look.found)} characters, at most {MAX_REF_CHARACTERS} are kept"
        return _refused(look, problem, ValidationError([Issue(path=path.text, message=f"The reference: {problem}.")]))
    return _became(look, str(look.found), problem=_passed_over(look))


def _passed_over(look: _Look) -> str | None:
    """Return what is odd about a path that finds more than is used: each recipient may be meant to get its own."""
    return f"it finds {look.matches} values, of which only the first is taken" if look.matches > 1 else None


def _map_dedupe(path: CompiledPath, document: object) -> FieldTrace:
    """Return the value by which a repeat is known. What can not be used as one refuses no payload: it may be new."""
    values = path.find(document)
    look = _look("dedupe", path, values)
    if _is_nothing(look.found):
        return _refused(look, f"{_why_missing(look)}, {_NO_REPEAT_KNOWN}", None)
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values):
        odd = next(value for value in values if not isinstance(value, str))
        kind = "null" if odd is None else _kind_of(odd)
        return _refused(look, f"it is {kind} where a string or a number is wanted, {_NO_REPEAT_KNOWN}", None)
    # All of several values count: payloads that agree in the first only would be taken for one.
    value = str(texts[0]) if len(texts) == 1 else json.dumps(texts, ensure_ascii=False)
    if len(value) > MAX_DEDUPE_CHARACTERS:
        value = f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return _became(look, value)


def _dedupe_for(mapping: Mapping, to: FieldTrace, dedupe: FieldTrace) -> FieldTrace:
    """Return what makes a repeat known to one of the recipients, where there may be several."""
    if not (mapping.to.finds_many and to.result and dedupe.result):
        return dedupe
    return replace(dedupe, result=f"{dedupe.result} to {to.result}")


class _Look(NamedTuple):
    """What a path found, before anything is made of it."""

    field: str
    path: str
    matches: int
    found: object


def _look(field: str, path: CompiledPath, values: list[object]) -> _Look:
    return _Look(field, path.text, len(values), values[0] if values else None)


def _is_nothing(found: object) -> bool:
    return found is None or (isinstance(found, str) and is_blank(found))


def _missing(look: _Look) -> FieldTrace:
    return _refused(look, _why_missing(look), None)


def _why_missing(look: _Look) -> str:
    return _NOTHING_THERE if not look.matches else "it is null" if look.found is None else "it is blank"


def _wrong_type(look: _Look) -> FieldTrace:
    problem = f"it is {_kind_of(look.found)} where a string or a number is wanted"
    issue = Issue(path=look.path, message=f"The value for `{look.field}` can not be used: {problem}.")
    return _refused(look, problem, ValidationError([issue]))


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "an object" if isinstance(value, dict) else "an array"


def _became(
    look: _Look, result: str, *, text_changed: TextChange | None = None, problem: str | None = None
) -> FieldTrace:
    return FieldTrace(
        field=look.field,
        path=look.path,
        matches=look.matches,
        found=look.found,
        result=result,
        problem=problem,
        text_changed=text_changed,
    )


def _refused(look: _Look, problem: str, error: ServiceError | None) -> FieldTrace:
    return FieldTrace(
        field=look.field, path=look.path, matches=look.matches, found=look.found, problem=problem, error=error
    )
