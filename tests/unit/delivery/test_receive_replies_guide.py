"""What docs/guides/receive-replies.md tells receivers to write verifies what we send, as it stands there."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import time
from email.message import Message
from pathlib import Path

import pytest

from services.delivery.webhook_signatures import signed_headers

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "receive-replies.md"
BLOCK = re.compile(r"^```(python|javascript)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RECEIVER, LIBRARY, JAVASCRIPT = (code for _, code in BLOCK.findall(GUIDE.read_text()))

BODY = json.dumps(
    {"id": "mo_1", "event": "message.received", "from": "6581230000", "text": "Grüße, 你好", "ref": "4821"},
    ensure_ascii=False,
).encode()
SECRETS = ["whsec_QcEwZXbNeTVEE5BUAD4Nft9bt6mrRH9oGFm76P3LCg4=", "a secret of mine", "naïve sécret ✓"]
JUDGE = """
const cases = JSON.parse(require("node:fs").readFileSync(0));
const judged = cases.map(([secret, headers, body]) => isFromTextway(secret, headers, Buffer.from(body, "base64")));
console.log(JSON.stringify(judged));
"""


def signed(*secrets, age_seconds=0, body=BODY):
    return signed_headers(body, webhook_id="evt_1", timestamp=int(time.time()) - age_seconds, secrets=secrets)


def defined_by(code):
    names = {"__name__": "guide"}
    exec(compile(code, str(GUIDE), "exec"), names)
    return names


def received(headers, body=BODY):
    """Give one request to the guide's receiver, without a network; return the status that it answers."""
    handler_type = defined_by(RECEIVER)["Replies"]
    handler = handler_type.__new__(handler_type)
    handler.headers = Message()
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.headers[name] = value
    handler.rfile, handler.wfile = io.BytesIO(body), io.BytesIO()
    handler.request_version, handler.requestline, handler.command = "HTTP/1.1", "POST / HTTP/1.1", "POST"
    handler.client_address = ("127.0.0.1", 1)
    handler.log_message = lambda *_: None
    handler.do_POST()
    return int(handler.wfile.getvalue().split()[1])


@pytest.mark.parametrize("secret", SECRETS)
def test_the_receiver_takes_what_we_sign(monkeypatch, capsys, secret):
    monkeypatch.setenv("WEBHOOK_SECRET", secret)

    status = received(signed(secret))

    assert status == 204
    assert capsys.readouterr().out == "6581230000 answers 4821 with Grüße, 你好\n"


def test_the_receiver_takes_no_status_for_a_reply(monkeypatch, capsys):
    monkeypatch.setenv("WEBHOOK_SECRET", SECRETS[0])
    event = {"id": "msg_1", "event": "message.delivered", "status": "delivered", "from": "+6598765432"}
    body = json.dumps({**event, "to": "+6581230000", "text": "Order confirmed", "ref": "4821"}).encode()

    status = received(signed(SECRETS[0], body=body), body)

    assert status == 204
    assert capsys.readouterr().out == "msg_1 is delivered\n"


@pytest.mark.parametrize("secret", SECRETS)
def test_the_receiver_refuses_anything_else(monkeypatch, capsys, secret):
    monkeypatch.setenv("WEBHOOK_SECRET", secret)

    assert received(signed(secret), BODY + b" ") == 401
    assert received(signed("another secret")) == 401
    assert received({"webhook-id": "evt_1"}) == 401
    assert received({"webhook-id": "evt_1", "X-MAC-Signature": "sha256=é"}) == 401
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("secret", SECRETS)
def test_the_library_takes_what_we_sign_and_nothing_else(secret):
    event_of = defined_by(LIBRARY)["event_of"]

    assert event_of(secret, signed(secret), BODY) == json.loads(BODY)
    assert event_of(secret, signed("another secret", secret), BODY) == json.loads(BODY)
    assert event_of(secret, signed("another secret"), BODY) is None
    assert event_of(secret, signed(secret), BODY + b" ") is None
    assert event_of(secret, signed(secret, age_seconds=400), BODY) is None
    assert event_of(secret, {**signed(secret), "webhook-signature": "v1,a,b"}, BODY) is None
    assert event_of(secret, {}, BODY) is None


def test_the_javascript_takes_what_we_sign_and_nothing_else():
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    encoded, other_body = _base64(BODY), _base64(BODY + b" ")
    taken = [
        case for secret in SECRETS for case in ((secret, signed(secret)), (secret, signed("another secret", secret)))
    ]
    wrong = [
        (SECRETS[0], headers, encoded)
        for headers in (
            {},
            signed("another secret"),
            signed(),
            signed(SECRETS[0], age_seconds=400),
            signed(SECRETS[0], age_seconds=-400),
            {**signed(SECRETS[0]), "webhook-id": "evt_2"},
            {**signed(SECRETS[0]), "webhook-timestamp": "now"},
            {**signed(SECRETS[0]), "webhook-signature": "v1,"},
            {**signed(SECRETS[0]), "webhook-signature": "v1"},
            {**signed(SECRETS[0]), "webhook-signature": signed(SECRETS[0])["webhook-signature"].replace("v1", "v2")},
        )
    ]
    cases = [(*case, encoded) for case in taken] + [(SECRETS[0], signed(SECRETS[0]), other_body), *wrong]

    done = subprocess.run(
        [node, "-e", JAVASCRIPT + JUDGE],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert json.loads(done.stdout) == [True] * len(taken) + [False] * (1 + len(wrong))


def _base64(body):
    return base64.b64encode(body).decode()
