"""One message, one trace: from the sender's request to the carrier, back with the reply, and out to the webhook."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Product, eventually
from tests.fakes.collector import Collector, running_collector
from tests.kit.receivers import Receiver

ANSWERS_YES = "+6581230005"
TEXT = "A word for nobody's trace"
INGEST = "textway.ingress.v1.IngressService/Ingest"
WHOLE_LIFE = {
    ("textway-ingress", INGEST),
    ("textway-delivery", "store message"),
    ("textway-delivery", "call carrier"),
    ("textway-delivery", "receipt"),
    ("textway-delivery", "reply"),
    ("textway-delivery", "call webhook message.received"),
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(new_product: Callable[[], Product], collector: Collector) -> Iterator[Product]:
    product = new_product()
    product.start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.address, OTEL_BSP_SCHEDULE_DELAY="100")
    yield product
    product.stop()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def new_traceparent() -> tuple[str, str, str]:
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace_id}-{span_id}-01", trace_id, span_id


@pytest.fixture
def post(traced: Product, receiver: Receiver, request) -> Iterator[Callable[..., httpx.Response]]:
    """Post a payload whose recipient answers; the reply goes to the receiver."""
    with traced.client() as api:
        url = receiver.url(f"/{request.node.name}")
        made = api.post("/v1/ingress", json={"name": "Traced", "outboundUrl": url}).json()

        def send(**headers: str) -> httpx.Response:
            payload = {"to": ANSWERS_YES, "text": TEXT}
            answer = httpx.post(f"{traced.address}/v1/ingress/{made['ingressKey']}", json=payload, headers=headers)
            assert answer.status_code == 202, answer.text
            return answer

        yield send


def lines_with(word: str, log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if word in line]


def test_the_whole_life_of_a_message_is_one_tree_below_the_senders_span(post, collector, receiver, request, traced):
    traceparent, trace_id, senders_span = new_traceparent()

    answer = post(traceparent=traceparent)
    eventually(lambda: {(span.service, span.name) for span in collector.of_trace(trace_id)}, WHOLE_LIFE, seconds=30)

    spans = collector.of_trace(trace_id)
    (root,) = [span for span in spans if span.parent_id == senders_span]
    assert (root.service, root.name) == ("textway-ingress", INGEST)
    assert {span.parent_id for span in spans if span is not root} <= {span.span_id for span in spans}
    (call,) = receiver.calls_to(f"/{request.node.name}")
    (webhook,) = [span for span in spans if span.name.startswith("call webhook")]
    assert call.headers["traceparent"] == f"00-{trace_id}-{webhook.span_id}-01"
    # The call to Delivery carries many messages, so that it is in nobody's trace and has a link to each.
    eventually(lambda: [span.name for span in collector.spans if root.span_id in span.linked], ["submit batch"])
    # One grep for the request's id shows its way through the product, and every line names the trace.
    request_id = answer.headers["x-request-id"]
    for name in ("gateway.out.log", "ingress.log", "delivery.log"):
        log = traced.data_dir / "logs" / name
        eventually(lambda log=log: len(lines_with(request_id, log)), 1, seconds=20)
        (line,) = lines_with(request_id, log)
        assert (line["request_id"], line["trace_id"]) == (request_id, trace_id)
        assert {"timestamp", "level", "event", "service", "replica"} <= set(line)
    shown = " ".join(span.whole for span in collector.spans)
    assert ANSWERS_YES[1:] not in shown
    assert TEXT not in shown


def test_a_request_without_a_trace_begins_one(post, collector):
    known = {span.span_id for span in collector.spans}

    post()

    def parents() -> list[str]:
        fresh = [span for span in collector.spans if span.name == INGEST and span.span_id not in known]
        return [span.parent_id for span in fresh]

    eventually(parents, [""], seconds=30)


def test_what_a_sender_does_not_sample_is_not_sampled_and_yet_named(post, collector, receiver, request):
    traceparent, trace_id, _ = new_traceparent()

    post(traceparent=f"{traceparent.removesuffix('01')}00")
    eventually(lambda: len(receiver.calls_to(f"/{request.node.name}")), 1, seconds=30)

    (call,) = receiver.calls_to(f"/{request.node.name}")
    assert call.headers["traceparent"].startswith(f"00-{trace_id}-")
    assert collector.of_trace(trace_id) == []
