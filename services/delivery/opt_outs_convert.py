"""Opt-outs, as protobuf."""

from __future__ import annotations

from collections.abc import Sequence

from servicekit.paging import PageRequest, page_of, page_request
from services.delivery.convert import filter_text, timestamp
from services.delivery.replies import OptOut, comparable_number
from textway.delivery.v1 import opt_outs_service_pb2


def list_request(request: opt_outs_service_pb2.ListOptOutsRequest) -> tuple[str | None, PageRequest]:
    """Return whose opt-outs to list, None for everybody's; raise ValidationError naming what can not be used."""
    page = page_request(request.page_size if request.HasField("page_size") else None, request.page_token)
    number = filter_text("number", request.number)
    return comparable_number(number) if number else None, page


def list_response(found: Sequence[OptOut], page: PageRequest) -> opt_outs_service_pb2.ListOptOutsResponse:
    """Return one page, with the token of the next if more was found than the page holds."""
    shown, token = page_of(found, page, show=_opt_out, place=lambda each: (each.created_at, each.id))
    return opt_outs_service_pb2.ListOptOutsResponse(opt_outs=shown, next_page_token=token)


def _opt_out(found: OptOut) -> opt_outs_service_pb2.OptOut:
    return opt_outs_service_pb2.OptOut(
        id=found.id,
        number=found.theirs,
        our_number=found.ours,
        source=found.source,
        word=found.word,
        reply_id=found.reply_id,
        created_at=timestamp(found.created_at),
    )
