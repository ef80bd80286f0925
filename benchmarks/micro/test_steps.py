"""The steps that need no database: what Ingress does with a payload, and what signs a webhook."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from typing import cast

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.payloads import PATHS, Payloads
from servicekit.phone_numbers import normalise
from servicekit.sms_text import measure
from services.delivery.webhook_signatures import signed_headers
from services.ingress import signatures, strict_json
from services.ingress.domain import MappingPaths
from services.ingress.mapping import compile_mapping
from services.ingress.payload_items import PayloadTrace, map_payload

SECRET = "s" * 48
BODY = next(Payloads(path="/", secret="", items=1, first_number=0, port=80)).partition(b"\r\n\r\n")[2]
SIGNATURE = f"sha256={hmac.digest(SECRET.encode(), BODY, hashlib.sha256).hex()}"
MAPPING = MappingPaths(to=PATHS["toPath"], text=PATHS["textPath"], ref=PATHS["refPath"])
TEXT = "Your order INV-000004821 is on its way, and will be with you on Friday between 9 and 12."


def test_verify_a_signature(benchmark: BenchmarkFixture) -> None:
    benchmark(signatures.verify, (SECRET,), (SIGNATURE,), BODY)


def test_parse_a_payload(benchmark: BenchmarkFixture) -> None:
    document = benchmark(strict_json.decode, BODY)

    assert isinstance(document, dict)
    assert document.keys() == json.loads(BODY).keys()


def test_map_a_payload(benchmark: BenchmarkFixture) -> None:
    # Each to another number, as in life: what is kept of a number that was seen before is no help.
    mapping = compile_mapping(MAPPING)
    document = strict_json.decode(BODY)
    assert isinstance(document, dict)
    documents = (
        {**document, "customer": {**document["customer"], "phone": f"+{14_152_000_000 + number}"}}
        for number in itertools.count()
    )

    def map_next() -> PayloadTrace:
        # Without a loop, which takes longer than all of this: a small payload waits for nothing.
        try:
            map_payload(mapping, next(documents), max_messages=1).send(None)
        except StopIteration as end:
            return cast("PayloadTrace", end.value)
        raise AssertionError("a small payload has waited")

    trace = benchmark(map_next)

    assert trace.error is None


def test_normalise_a_number(benchmark: BenchmarkFixture) -> None:
    numbers = (f"+1 415 {2_000_000 + number % 8_000_000}" for number in itertools.count())

    assert benchmark(lambda: normalise(next(numbers))).startswith("+1415")


def test_count_segments(benchmark: BenchmarkFixture) -> None:
    assert benchmark(measure, TEXT).segments == 1


def test_count_segments_of_a_long_text_beyond_gsm(benchmark: BenchmarkFixture) -> None:
    assert benchmark(measure, TEXT * 4 + "“”").segments > 1


def test_sign_a_webhook(benchmark: BenchmarkFixture) -> None:
    headers = benchmark(signed_headers, BODY, webhook_id="evt_1", timestamp=1_781_274_720, secrets=[SECRET])

    assert headers["webhook-signature"].startswith("v1,")
