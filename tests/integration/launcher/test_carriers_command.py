"""`textway carriers`, as an operator types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from servicekit import logs
from services.__main__ import cli
from services.delivery.carriers.http.definition import shipped
from services.launcher import carriers_command
from tests.kit.carrier import ScriptedCarrier
from tests.kit.carriers import carriers_file
from tests.kit.ports import free_port

SECRET = "s3cret-that-nobody-may-see"
GOOD = f"""\
carriers:
  main:
    definition: twilio
    from: "+15005550006"
    settings: {{account_sid: AC1, auth_token: {SECRET}}}
    limits: {{segments_per_second: 2.5}}
  play: {{simulator: {{}}}}
  spare: {{simulator: {{}}}}
routes:
  - {{name: trial, tags: [trial], to: {{countries: [SG], prefixes: ["+65"]}}, carriers: [play]}}
  - {{name: rest, carriers: {{main: 80, play: 20}}, sender: ACME}}
"""
WRONG = f"""\
carriers:
  main: {{definition: twilio, settings: {{account_sid: AC1, auth_token: "{SECRET}${{NOWHERE}}"}}}}
  play: {{simulator: {{}}, limits: {{in_flight: 0}}}}
"""
PLAY = "carriers: {play: {simulator: {}}, spare: {simulator: {}, from: ACME}}\n"
TAKEN, REFUSED, FAILING, HANGING = "+6581230000", "+6581230001", "+6581230002", "+6581230003"

Run = Callable[..., Result]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "carriers.yaml"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, file: Path) -> Run:
    """Run `textway carriers ...` with TEXTWAY_CARRIERS set to the file."""
    monkeypatch.setenv("TEXTWAY_CARRIERS", str(file))
    # The process that is set up here is the tests' own, and other tests read its logs.
    monkeypatch.setattr(logs, "configure", lambda **_settings: None)
    return lambda *arguments: CliRunner().invoke(cli, ["carriers", *arguments])


def test_check_prints_carriers_and_routes_and_what_is_doubtful(run: Run, file: Path) -> None:
    file.write_text(GOOD)

    done = run("check")

    assert done.exit_code == 0, done.output
    assert SECRET not in done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert "main http (twilio) +15005550006 blind 2.5 segments/s" in lines
    assert "trial to +65 SG, tags trial play - -" in lines
    assert "rest every message main 80, play 20 - ACME" in lines
    assert "warning: carriers.yaml:5: carriers.main.settings.auth_token: is a secret" in done.output
    assert "warning: carriers.yaml:8: carriers.spare: is in no route" in done.output


def test_check_takes_a_file_before_the_one_in_the_settings(run: Run, file: Path, tmp_path: Path) -> None:
    file.write_text(WRONG)
    other = tmp_path / "other.yaml"
    other.write_text(PLAY)

    assert run("check", str(other)).exit_code == 0


def test_check_tells_every_error_and_fails(run: Run, file: Path) -> None:
    file.write_text(WRONG)

    done = run("check")

    assert done.exit_code == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("carriers.yaml:2: carriers.main.settings.auth_token: ${NOWHERE} is not set")
    assert second.startswith("carriers.yaml:3: carriers.play.limits.in_flight: must be a whole number")
    assert SECRET not in done.output


def test_test_plays_the_fixtures_of_a_shipped_definition(run: Run, file: Path) -> None:
    file.write_text(PLAY)

    done = run("test", "own-gateway")

    assert done.exit_code == 0, done.output
    assert "ok      send: taken\n" in done.output
    assert done.output.endswith("cases, 0 failed\n")


def test_test_plays_the_fixtures_of_the_definition_that_a_carrier_follows(run: Run, file: Path) -> None:
    carriers_file(file.parent, "http://127.0.0.1:9/messages", name="ours")

    done = run("test", "ours")

    assert done.exit_code == 0, done.output
    assert "own-gateway: " in done.output


def test_test_says_which_case_failed_and_why(run: Run, file: Path) -> None:
    source = shipped()["own-gateway"]
    own = file.parent / "mine.yaml"
    own.write_text(source.read_text().replace('Idempotency-Key: "{message_id}"', 'Idempotency-Key: "{to}"'))
    fixtures = source.parent / "fixtures" / source.name
    (file.parent / "fixtures").mkdir()
    (file.parent / "fixtures" / own.name).write_text(fixtures.read_text())

    done = run("test", str(own))

    assert done.exit_code == 1
    assert "FAILED  send: taken\n        request.headers.Idempotency-Key is '+65" in done.output


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("play", "play follows no definition"),
        ("twillio", "there is no carrier and no definition `twillio`: did you mean `twilio`?"),
    ],
)
def test_test_says_what_there_is_to_try(run: Run, file: Path, name: str, problem: str) -> None:
    file.write_text(PLAY)

    done = run("test", name)

    assert problem in str(done.exception)


def test_test_tells_all_that_is_wrong_with_a_definition(run: Run, file: Path) -> None:
    own = file.parent / "mine.yaml"
    own.write_text("name: mine\ntitle: Mine\ncapability: bland\n")

    done = run("test", str(own))

    assert done.exit_code == 1
    assert "mine.yaml:3: capability: " in done.output
    assert "request: is required" in done.output


@pytest.mark.parametrize(
    ("number", "exit_code", "said"),
    [
        (TAKEN, 0, "taken by play as sim-msg_"),
        (REFUSED, 1, "refused by play: invalid_number (The carrier says that the number does not exist"),
        (FAILING, 1, "not taken by play just now: carrier_unavailable (The carrier can not take messages just now.)"),
    ],
)
def test_live_says_what_the_carrier_answered(run: Run, file: Path, number: str, exit_code: int, said: str) -> None:
    file.write_text(PLAY)

    done = run("test", "play", "--live", number)

    assert done.exit_code == exit_code, done.output
    assert done.output.startswith(said)


def test_live_says_that_a_carrier_which_never_answers_may_have_the_message(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(PLAY)
    monkeypatch.setattr(carriers_command, "SEND_SECONDS", 0.05)

    done = run("test", "play", "--live", HANGING)

    assert done.exit_code == 1
    assert done.output == "play may have it, or not: no answer within 0.05 s\n"


def test_live_sends_one_message_from_the_carriers_own_number(run: Run, file: Path) -> None:
    with ScriptedCarrier(file.parent) as carrier:
        carrier.settings()

        done = run("test", "gateway", "--live", "+65 8123 0000", "--text", "Hello from the command line")

        assert done.exit_code == 0, done.output
        (sent,) = [json.loads(line) for line in carrier.log.read_text().splitlines()]
    assert (sent["to"], sent["from"], sent["text"]) == (TAKEN, "+6598765432", "Hello from the command line")


@pytest.mark.parametrize(
    ("name", "number", "problem"),
    [
        ("main", TAKEN, "there is no carrier `main` to send with: there are play, spare"),
        ("play", "12", "nothing was sent: 12 can not be used, because it has no plus sign"),
    ],
)
def test_live_sends_nothing_when_it_does_not_know_where(
    run: Run, file: Path, name: str, number: str, problem: str
) -> None:
    file.write_text(PLAY)

    done = run("test", name, "--live", number)

    assert problem in str(done.exception)


@pytest.fixture
def running_product(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A gateway that knows three carriers."""
    carriers = [
        {"name": "main", "kind": "http", "definition": "twilio", "state": "open", "stateUntil": "2026-06-12T14:32:00Z"}
        | {"failedLastMinute": 12, "limitSegmentsPerSecond": 50, "currentSegmentsPerSecond": 25, "inFlight": 3}
        | {"lastError": {"at": "2026-06-12T14:31:00Z", "code": "carrier_unavailable", "message": "HTTP 503"}},
        {"name": "smsc", "kind": "smpp", "state": "healthy", "limitSegmentsPerSecond": 9, "sentLastMinute": 4}
        | {"currentSegmentsPerSecond": 9},
        {"name": "play", "kind": "simulator", "state": "healthy"},
    ]

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_right = self.path == "/v1/carriers" and self.headers["Authorization"] == "Bearer sk_live_x"
            self.send_response(200 if is_right else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"carriers": carriers} if is_right else {"message": "nothing here"}).encode())

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("TEXTWAY_PUBLIC_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("TEXTWAY_API_KEY", "sk_live_x")
        yield
        server.shutdown()


def test_list_shows_the_carriers_of_the_running_product(run: Run, running_product: None) -> None:
    done = run("list")

    assert done.exit_code == 0, done.output
    _, main, smsc, play = (" ".join(line.split()) for line in done.output.splitlines())
    assert main == (
        "main http (twilio) open until 2026-06-12T14:32:00Z 0 12 3 25 of 50/s"
        " 2026-06-12T14:31:00Z carrier_unavailable: HTTP 503"
    )
    assert smsc == "smsc smpp healthy 4 0 0 9/s -"
    assert play == "play simulator healthy 0 0 0 - -"


def test_up_does_not_start_anything_with_a_wrong_file(file: Path, tmp_path: Path) -> None:
    file.write_text(WRONG)
    settings = {
        "TEXTWAY_CARRIERS": str(file),
        "TEXTWAY_DATA_DIR": str(tmp_path / "data"),
        "TEXTWAY_HTTP_PORT": str(free_port()),
    }

    done = subprocess.run(
        [sys.executable, "-m", "services", "up"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("textway: carriers.yaml:2: carriers.main.settings.auth_token: ${NOWHERE} is not set")
    assert SECRET not in done.stderr
    assert not list((tmp_path / "data").rglob("*.db"))
