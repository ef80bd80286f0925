"""A carrier's callback: verified first, and then read by its definition.

Documentation: docs/guides/new-carrier.md, "status_callback", "inbound_callback" and "verify".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Final

from servicekit.ids import is_id
from servicekit.phone_numbers import NotAPhoneNumberError, normalise
from servicekit.sms_text import gsm7_text
from services.delivery.carriers.base import (
    Callback,
    CallbackAnswer,
    CallbackKind,
    CallbackUnauthenticatedError,
    CallbackUnreadableError,
    CarrierReceipt,
    CarrierReply,
    Failure,
    ReadCallback,
)
from services.delivery.carriers.http.answers import clean, read_receipt
from services.delivery.carriers.http.callback_signatures import SCHEMES, Proof
from services.delivery.carriers.http.model import (
    CallbackForm,
    Definition,
    InboundCallback,
    StatusCallback,
    TextEncoding,
    Verify,
)
from services.delivery.carriers.http.places import (
    Content,
    Fit,
    Format,
    body_of,
    find_first,
    fit,
    members_of,
)

MAX_ADDRESS_LENGTH: Final = 64

_DIGITS: Final = re.compile(r"\+?[0-9]{3,20}")


class CallbackReader:
    """Reads the callbacks of one carrier."""

    def __init__(self, definition: Definition, settings: Sequence[Mapping[str, str]]) -> None:
        """Take the resolved settings, once for each secret that is accepted while it is rotated."""
        status, inbound = definition.status_callback, definition.inbound_callback
        self._status = (status, _proofs(status.form.verify, settings)) if status else None
        self._inbound = (inbound, _proofs(inbound.form.verify, settings)) if inbound else None
        self._settings = settings[0]

    def read(self, callback: Callback) -> ReadCallback:
        """Return what a callback says.

        Raises CallbackUnauthenticatedError, also when the carrier has no such callback, and CallbackUnreadableError.
        """
        if callback.kind is CallbackKind.STATUS and self._status:
            status, proofs = self._status
            contents = _verified(status.form, proofs, callback)
            receipts = tuple(receipt for each in contents if (receipt := _receipt(status, each)))
            return ReadCallback(answer=_answer(status.form), receipts=receipts)
        if callback.kind is CallbackKind.INBOUND and self._inbound:
            inbound, proofs = self._inbound
            contents = _verified(inbound.form, proofs, callback)
            region = (inbound.region.text(self._settings) or "") if inbound.region else ""
            replies = tuple(
                _reply(inbound, each, region, _digest(callback, index)) for index, each in enumerate(contents)
            )
            return ReadCallback(answer=_answer(inbound.form), replies=replies)
        raise CallbackUnauthenticatedError


def _proofs(verify: Verify, settings: Sequence[Mapping[str, str]]) -> tuple[Proof, ...]:
    proofs = []
    for values in settings:
        texts = {name: template.text(values) or "" for name, template in verify.texts.items()}
        claims = {name: template.text(values) or "" for name, template in verify.claims.items()}
        given = {**texts, **verify.words, **verify.numbers, **({"claims": claims} if claims else {})}
        proofs.append(SCHEMES[verify.scheme](**given))
    return tuple(proofs)


def _verified(form: CallbackForm, proofs: Sequence[Proof], callback: Callback) -> list[Content]:
    """Return the parts of a callback that say something of interest."""
    # All are tried, so that the time tells nothing about which secret is in use.
    if not any([proof.proves(callback) for proof in proofs]):  # noqa: C419  # a generator would stop at the first
        raise CallbackUnauthenticatedError
    if callback.method not in form.methods:
        raise CallbackUnreadableError(f"The callback is a {callback.method}: {' or '.join(form.methods)} is expected.")
    query = members_of(callback.query)
    is_in_query = form.format is Format.QUERY or (form.format is Format.FORM and callback.method == "GET")
    body = query if is_in_query else body_of(callback.body, form.format)
    if body is None:
        raise CallbackUnreadableError("The body is no JSON document.")
    whole = Content(body=body, query=query, headers=callback.headers)
    items = [whole.within(value) for place in form.each for value in place.values(whole)] if form.each else [whole]
    return [item for item in items if fit(form.only, item) is Fit.ALL]


def _receipt(callback: StatusCallback, content: Content) -> CarrierReceipt | None:
    places = callback.receipt
    if not find_first(places.status, content):
        raise CallbackUnreadableError("The callback has no status where the definition looks for it.")
    told = read_receipt(places, content)
    if told is None:
        return None
    status, failure, detail = told
    reference = clean(find_first(places.message_id, content))
    carrier_message_id = clean(find_first(places.carrier_message_id, content))
    if not reference and not carrier_message_id:
        raise CallbackUnreadableError("The callback names no message where the definition looks for it.")
    # Another program may send by the same account, with references of its own.
    message_id = reference if is_id(reference, "msg") else ""
    if not message_id and not carrier_message_id:
        return None
    return CarrierReceipt(
        status=status,
        failure=failure,
        detail=_told(clean(find_first(places.status, content)), failure, detail),
        message_id=message_id,
        carrier_message_id=carrier_message_id,
    )


def _told(word: str, failure: Failure | None, detail: str) -> str:
    code = failure.carrier_code if failure else ""
    return ": ".join(filter(None, (f"{word} {code}".strip(), detail)))


def _reply(callback: InboundCallback, content: Content, region: str, digest: str) -> CarrierReply:
    sender = find_first(callback.sender, content)
    if not sender:
        raise CallbackUnreadableError("The callback has no sender where the definition looks for it.")
    own_id = clean(find_first(callback.id, content))
    return CarrierReply(
        carrier_reply_id=own_id or digest,
        has_own_id=bool(own_id),
        sender=address_of(sender, region),
        recipient=address_of(find_first(callback.recipient, content), region),
        text=_decoded(find_first(callback.text, content), _encoding(callback.encoding, content)),
    )


def address_of(text: str, region: str = "") -> str:
    """Return a number in E.164 if it is one; short codes and names as they are.

    A number without a plus sign is read as of `region` if there is one, or else as international.
    """
    address = clean(text, MAX_ADDRESS_LENGTH)
    digits = re.sub(r"[ ().-]", "", address)
    if not _DIGITS.fullmatch(digits):
        return address
    candidate = f"+{digits[2:]}" if digits.startswith("00") else digits
    try:
        return normalise(candidate if region else f"+{candidate.removeprefix('+')}", region)
    except NotAPhoneNumberError:
        return address


def _encoding(encoding: TextEncoding, content: Content) -> str:
    return encoding.values.get(find_first(encoding.by, content), encoding.otherwise)


def _decoded(text: str, encoding: str) -> str:
    # A form's bytes that are no UTF-8 are kept as lone surrogates, so that they can be had again here.
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        content = text.encode("utf-8", "replace")
    if encoding.startswith("hex-"):
        try:
            content = bytes.fromhex(text)
        except ValueError:
            raise CallbackUnreadableError("The text is not in hexadecimal digits.") from None
    codec = encoding.removeprefix("hex-")
    decoded = gsm7_text(content) if codec == "gsm7" else content.decode(codec, "replace")
    return decoded.replace("\x00", "")


def _digest(callback: Callback, index: int) -> str:
    """Return an id for an inbound SMS that has none: the same when the same callback comes again."""
    digest = hashlib.sha256(callback.query.encode("utf-8", "surrogateescape"))
    digest.update(b"\n" + callback.body + b"\n" + str(index).encode())
    return digest.hexdigest()


def _answer(form: CallbackForm) -> CallbackAnswer:
    answer = form.answer
    return CallbackAnswer(status=answer.status, content_type=answer.content_type, body=answer.body.encode())
