"""Logs: one line is one JSON object whatever is in it, and no line shows more than it should."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import subprocess
import sys

import pytest
import structlog

from servicekit import logs
from servicekit.log_lines import GATHERED_CHARACTERS

HOSTILE_VALUES = [
    "two\nlines",
    "carriage\rreturn",
    "\x1b[31mred\x1b[0m",
    "line\u2028separator",
    "paragraph\u2029separator",
    "next\x85line",
    "null\x00byte",
    'quote " and backslash \\',
    '"}\n{"level":"error","event":"forged',
    "\u202eright to left",
    "\ud800",
    "😀 é",
]


@pytest.mark.parametrize("value", HOSTILE_VALUES)
def test_writes_one_json_object_per_line_whatever_a_value_holds(capsys, value):
    logs.configure(service="probe", log_format="json")

    structlog.get_logger("probe").info("message sent", detail=value)

    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert line.isascii()
    assert json.loads(line)["detail"] == value


def test_a_line_says_when_how_bad_which_service_and_what(capsys):
    logs.configure(service="probe", log_format="json")

    structlog.get_logger("probe").warning("database unavailable", attempt=2)

    line = json.loads(capsys.readouterr().err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "service": "probe",
        "replica": socket.gethostname(),
        "level": "warning",
        "event": "database unavailable",
        "attempt": 2,
    }


def test_leaves_out_ids_that_there_are_not(capsys):
    logs.configure(service="probe", log_format="json")

    structlog.get_logger("probe").info("done", request_id="", trace_id="", message_id="msg_1")

    line = json.loads(capsys.readouterr().err)
    assert line["message_id"] == "msg_1"
    assert not {"request_id", "trace_id"} & set(line)


def test_a_librarys_line_has_the_same_form(monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logs.configure(service="probe", log_format="json")
    (handler,) = logging.getLogger().handlers

    line = json.loads(handler.format(logging.LogRecord("grpc", logging.WARNING, "", 1, "it %s", ("broke",), None)))

    assert (line["event"], line["logger"], line["level"]) == ("it broke", "grpc", "warning")
    assert (line["service"], line["replica"]) == ("probe", socket.gethostname())


def test_grpc_says_nothing_of_a_header_that_is_no_text_and_all_else_that_it_has_to_say(caplog):
    logs.configure(service="probe", log_format="json")
    grpc_log = logging.getLogger("grpc._cython.cygrpc")

    for error in (UnicodeDecodeError("utf-8", b"sk_live_1\xa0", 9, 10, "invalid start byte"), RuntimeError("broke")):
        grpc_log.error("it went wrong on %s", error.args[1:2], exc_info=error)
    grpc_log.error("it went wrong")

    assert "sk_live_1" not in caplog.text
    assert [str(record.exc_info and record.exc_info[1]) for record in caplog.records] == ["broke", "None"]


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), ValueError("x"), float("nan")])
def test_writes_a_line_for_values_that_json_does_not_know(capsys, value):
    logs.configure(service="probe", log_format="json")

    structlog.get_logger("probe").info("done", value=value)

    assert json.loads(capsys.readouterr().err)["event"] == "done"


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_leaves_out_what_is_less_severe_than_asked_for(capsys, level, expected):
    logs.configure(service="probe", level=level, log_format="json")
    log = structlog.get_logger("probe")

    for method in (log.debug, log.info, log.warning, log.error):
        method("said")

    assert len(capsys.readouterr().err.splitlines()) == expected


def test_writes_json_to_what_is_no_terminal(capsys):
    logs.configure(service="probe")

    structlog.get_logger("probe").info("said")

    assert json.loads(capsys.readouterr().err)["event"] == "said"


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_shows_no_local_variables(capsys, log_format):
    logs.configure(service="probe", log_format=log_format)

    def fail(password: str) -> None:
        raise RuntimeError("the defect")

    try:
        fail("hunter2" * 3)
    except RuntimeError as error:
        structlog.get_logger("probe").error("call failed", exc_info=error)

    written = capsys.readouterr().err
    assert "the defect" in written
    assert "Traceback" in written
    assert "hunter2hunter2" not in written


def test_a_traceback_in_json_stays_on_its_line(capsys):
    logs.configure(service="probe", log_format="json")

    structlog.get_logger("probe").error("call failed", exc_info=RuntimeError("first\nsecond"))

    (line,) = capsys.readouterr().err.splitlines()
    assert "first\nsecond" in json.loads(line)["exception"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("+6581230000", "*******0000"),
        ("+12025550123", "********0123"),
        ("12345", "*2345"),
        ("1234", "1234"),
        ("", ""),
    ],
)
def test_masks_all_but_the_last_four_digits(number, expected):
    assert logs.masked_number(number) == expected


async def test_writes_the_lines_of_a_moment_together_and_in_their_order(monkeypatch):
    written: list[str] = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", lambda text: written.append(text) or len(text))
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure(service="probe", log_format="json")
    log = structlog.get_logger("probe")

    for number in range(100):
        log.info("message sent", number=number)
    while not written:
        await asyncio.sleep(0.01)

    assert len(written) == 1
    assert [json.loads(line)["number"] for line in written[0].splitlines()] == list(range(100))


async def test_lets_no_more_lines_wait_than_a_few(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure(service="probe", log_format="json")

    structlog.get_logger("probe").info("message sent", detail="x" * GATHERED_CHARACTERS)

    assert stream.getvalue()


def test_waits_for_no_moment_of_a_loop_that_is_closed(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure(service="probe", log_format="json")
    log = structlog.get_logger("probe")

    async def say() -> None:
        log.info("within")

    asyncio.run(say())
    log.info("afterwards")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["within", "afterwards"]


def test_a_process_that_ends_by_an_error_has_written_what_it_said():
    program = (
        "import asyncio, structlog\n"
        "from servicekit import logs\n"
        "async def main():\n"
        "    logs.configure(service='probe', log_format='json')\n"
        "    structlog.get_logger().error('the last word')\n"
        "    raise SystemExit(3)\n"
        "asyncio.run(main())\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 3
    assert json.loads(done.stderr)["event"] == "the last word"
