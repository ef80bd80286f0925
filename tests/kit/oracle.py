"""The oracle: what senders were told and what the carrier took, compared with the word of the product's own API."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from tests.kit.carrier import ScriptedCarrier
from tests.kit.pages import every

UNDER_WAY = ("queued", "sending")
WITH_CARRIER = frozenset({"sent", "delivered"})
HELD = "unknown"
ENDED_OTHERWISE = frozenset({"undelivered", "failed", "expired", "canceled", "suppressed"})


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a campaign has shown. Sets hold message ids."""

    acknowledged: int
    lost: frozenset[str]  # acknowledged, and unknown to the API, or said to be with the carrier, which never took it
    stuck: frozenset[str]  # acknowledged, and still under way
    ended_otherwise: frozenset[str]  # acknowledged, and failed, expired or such like
    held: frozenset[str]
    duplicates: int  # how many more SMS went out than messages that did
    doubled: frozenset[str]  # the messages that went out more than once
    unmarked: frozenset[str]  # of those, the ones with fewer marked attempts than SMS
    tried_again: int  # messages with more than one attempt

    def __str__(self) -> str:
        return (
            f"acknowledged={self.acknowledged} lost={len(self.lost)} stuck={len(self.stuck)}"
            f" ended_otherwise={len(self.ended_otherwise)} held={len(self.held)} duplicates={self.duplicates}"
            f" marked={len(self.doubled) - len(self.unmarked)}/{len(self.doubled)} tried_again={self.tried_again}"
        )


@dataclass(kw_only=True)
class Oracle:
    """Keeps what senders were told in a file of its own, and judges. It never reads the product's database."""

    ledger: Path
    carrier: ScriptedCarrier
    _ids: dict[str, str] = field(default_factory=dict)

    def acknowledge(self, ref: str, message_id: str) -> None:
        """A sender holds the whole 202 for this payload."""
        assert self._ids.get(ref, message_id) == message_id, f"payload {ref} was acknowledged with two ids"
        self._ids[ref] = message_id
        with self.ledger.open("a") as file:
            file.write(json.dumps({"ref": ref, "id": message_id, "at": time.time()}) + "\n")

    @property
    def acknowledged(self) -> int:
        """How many payloads so far."""
        return len(self._ids)

    def settled(self, api: httpx.Client, *, within_seconds: float) -> Verdict:
        """Wait until nothing is under way, at most so long; then judge."""
        deadline = time.monotonic() + within_seconds
        while time.monotonic() < deadline and any(
            _patiently(api, "/v1/messages", params={"status": status}).json()["messages"] for status in UNDER_WAY
        ):
            time.sleep(0.5)
        return self.verdict(api)

    def verdict(self, api: httpx.Client) -> Verdict:
        """Compare what was acknowledged, what was taken, and what the API says."""
        listed = every(partial(_patiently, api), "/v1/messages", "messages")
        told = {message["id"]: message for message in listed}
        taken = self.carrier.taken()
        ids = frozenset(self._ids.values())
        missing = ids - told.keys()
        status = {message_id: told[message_id]["status"] for message_id in ids & told.keys()}
        invented = {each for each, word in status.items() if word in WITH_CARRIER and not taken[each]}
        doubled = frozenset(each for each, count in taken.items() if count > 1)
        return Verdict(
            acknowledged=len(ids),
            lost=frozenset(missing | invented),
            stuck=frozenset(each for each, word in status.items() if word in UNDER_WAY),
            ended_otherwise=frozenset(each for each, word in status.items() if word in ENDED_OTHERWISE),
            held=frozenset(each for each, word in status.items() if word == HELD),
            duplicates=sum(count - 1 for count in taken.values()),
            doubled=doubled,
            unmarked=frozenset(each for each in doubled if _marked_attempts(api, each) < taken[each]),
            tried_again=sum(message["attempts"] > 1 for message in told.values()),
        )


def _marked_attempts(api: httpx.Client, message_id: str) -> int:
    timeline = api.get(f"/v1/messages/{message_id}/timeline").json()
    marks: Counter[int] = Counter()
    for step in timeline["entries"]:
        if step.get("possibleDuplicate"):
            marks[step["attempt"]] += 1
    return len(marks)


def _patiently(api: httpx.Client, path: str, *, params: Mapping[str, str | int]) -> httpx.Response:
    # The product may just be coming back, which this reader waits for as any caller would.
    deadline = time.monotonic() + 30
    while True:
        try:
            answer = api.get(path, params=params)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code == httpx.codes.OK:
            return answer
        assert time.monotonic() < deadline, answer and answer.text
        time.sleep(0.2)
