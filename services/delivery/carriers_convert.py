"""What is known of carriers, as protobuf."""

from __future__ import annotations

from collections.abc import Sequence

from services.delivery.carrier_states import CarrierOverview
from services.delivery.convert import timestamp
from textway.delivery.v1 import carriers_service_pb2


def list_response(found: Sequence[CarrierOverview]) -> carriers_service_pb2.ListCarriersResponse:
    """Return the answer to ListCarriers."""
    return carriers_service_pb2.ListCarriersResponse(carriers=[_carrier(each) for each in found])


def _carrier(found: CarrierOverview) -> carriers_service_pb2.Carrier:
    shown = carriers_service_pb2.Carrier(
        name=found.name,
        kind=found.kind,
        definition=found.definition,
        capability=found.capability.value,
        state=found.state,
        state_until=timestamp(found.state_until) if found.state_until else None,
        limit_segments_per_second=found.limit_segments_per_second or 0.0,
        current_segments_per_second=found.current_segments_per_second or 0.0,
        sent_last_minute=found.sent_last_minute,
        failed_last_minute=found.failed_last_minute,
        in_flight=found.in_flight,
        **{"from": found.sender},  # type: ignore[arg-type]  # a keyword in Python, and the contract's word
    )
    if found.last_error:
        shown.last_error.at.CopyFrom(timestamp(found.last_error.at))
        shown.last_error.code = found.last_error.code
        shown.last_error.message = found.last_error.message
    return shown
