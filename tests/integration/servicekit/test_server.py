"""A served process: what of a failure reaches a client, what a call carries with it, and how a process stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from servicekit import calls, clients, logs
from servicekit.errors import InternalError, Issue, NotFoundError, ServiceError, UnavailableError, ValidationError
from servicekit.server import RunningServer
from servicekit.settings import ProcessSettings, SettingsError
from tests.fakes.http2 import call_with_header
from tests.kit.ports import free_address
from textway.ingress.v1 import health_service_pb2 as health_v1
from textway.ingress.v1.health_service_pb2_grpc import (
    HealthServiceServicer,
    HealthServiceStub,
    add_HealthServiceServicer_to_server,
)
from textway.integrations.v1.registry_service_pb2 import WatchIntegrationsRequest, WatchIntegrationsResponse
from textway.integrations.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)

SECRET = "password=hunter2"
# What is said of a call that was sent before its server was known to stop, and of one that did not end in time.
WHILE_STOPPING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
CHECK_LIVE = "textway.ingress.v1.HealthService/CheckLive"
Context = grpc.aio.ServicerContext[Any, Any]


class Probe(HealthServiceServicer, RegistryServiceServicer):
    """A service that does in its calls what a test tells it, and writes down what is done with it."""

    grpc_services = ("textway.ingress.v1.HealthService", "textway.integrations.v1.RegistryService")

    metrics_listen = ""

    def __init__(self, name: str = "probe", listen: str = "127.0.0.1:0", told: list[str] | None = None) -> None:
        self.name = name
        self.listen = listen
        self.told = [] if told is None else told
        self.answer: Callable[[Context], Awaitable[str]] | None = None
        self.start_failure = ""

    async def CheckLive(self, request, context):  # the contract's name
        assert self.answer
        return health_v1.CheckLiveResponse(status=await self.answer(context))

    async def WatchIntegrations(self, request_iterator, context):  # the contract's name
        assert self.answer
        yield WatchIntegrationsResponse(revision=1)
        await self.answer(context)

    def add_to(self, server: grpc.aio.Server) -> None:
        add_HealthServiceServicer_to_server(self, server)
        add_RegistryServiceServicer_to_server(self, server)

    async def start(self) -> None:
        if self.start_failure:
            raise SettingsError(self.start_failure)
        self.told.append(f"start {self.name}")

    async def stop(self) -> None:
        self.told.append(f"stop {self.name}")

    def end_streams(self) -> None:
        self.told.append(f"end streams of {self.name}")

    def raises(self, error: Exception) -> None:
        async def fail(_: Context) -> str:
            raise error

        self.answer = fail


@pytest.fixture(autouse=True)
async def _abandoned_servers_are_gone() -> AsyncIterator[None]:
    # A server that could not be started is stopped by nobody but its finaliser, which needs this loop.
    yield
    gc.collect()
    await asyncio.sleep(0.01)


@pytest.fixture
def notice_seconds() -> float:
    return 0


@pytest.fixture
def settings(tmp_path, notice_seconds) -> ProcessSettings:
    return ProcessSettings(data_dir=tmp_path, notice_seconds=notice_seconds)


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
async def running(probe, settings) -> AsyncIterator[RunningServer]:
    running = await RunningServer.start([probe], settings)
    yield running
    if "stop probe" not in probe.told:
        await running.stop(0)


@pytest.fixture
async def channel(running) -> AsyncIterator[grpc.aio.Channel]:
    async with clients.open_channel(running.addresses["probe"]) as channel:
        yield channel


@pytest.fixture
def client(channel) -> HealthServiceStub:
    return HealthServiceStub(channel)


async def live(_: Context) -> str:
    return "live"


async def call(client: HealthServiceStub, metadata: tuple[tuple[str, str], ...] = ()) -> str:
    response = await client.CheckLive(health_v1.CheckLiveRequest(), metadata=metadata, timeout=10)
    return response.status


async def refusal(client: HealthServiceStub, metadata: tuple[tuple[str, str], ...] = ()) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(client, metadata)
    return refused.value


def told(error: grpc.aio.AioRpcError) -> str:
    """Everything that a client can find in a refusal."""
    return f"{error.details()} {error.debug_error_string()} {dict(error.trailing_metadata())}"


@pytest.mark.parametrize(
    "defect",
    [
        RuntimeError(SECRET),
        KeyError(SECRET),
        AssertionError(SECRET),
        TimeoutError(SECRET),
        ValueError(f"\ud800\n\x00{SECRET}"),
        ExceptionGroup(SECRET, [RuntimeError(SECRET)]),
        StopAsyncIteration(SECRET),
    ],
    ids=lambda defect: type(defect).__name__,
)
async def test_a_defects_text_reaches_the_log_and_never_the_client(probe, client, defect):
    probe.raises(defect)

    with structlog.testing.capture_logs() as lines:
        error = await refusal(client)

    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == InternalError().message
    assert SECRET not in told(error)
    (line,) = [line for line in lines if line["log_level"] == "error"]
    assert line["exc_info"] is defect
    assert line["rpc"] == CHECK_LIVE


async def test_a_defect_in_a_stream_reaches_the_log_and_never_the_client(probe, channel):
    probe.raises(RuntimeError(SECRET))

    stream = RegistryServiceStub(channel).WatchIntegrations(iter([WatchIntegrationsRequest()]), timeout=10)
    with structlog.testing.capture_logs() as lines, pytest.raises(grpc.aio.AioRpcError) as refused:
        revisions = [response.revision async for response in stream]  # noqa: F841  # the stream ends in the error

    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert SECRET not in told(refused.value)
    assert any(SECRET in str(line.get("exc_info")) for line in lines)


async def test_an_error_arrives_with_its_code_its_reason_and_the_gateways_answer(probe, client):
    probe.raises(ValidationError([Issue(path="to", message="is required"), Issue(path="text", message="is, too 😀")]))
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()

    error = await refusal(client, (("x-request-id", "req-1"),))

    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == status.message == "to: is required (and 1 more)"
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("textway", "VALIDATION_ERROR")
    assert status.details[1].Unpack(bad_request)
    assert [violation.field for violation in bad_request.field_violations] == ["to", "text"]
    assert trailers["x-http-status"] == "400"
    assert json.loads(trailers["x-error-body"]) == {
        "error": "validation_error",
        "message": "to: is required (and 1 more)",
        "requestId": "req-1",
        "issues": [{"path": "to", "message": "is required"}, {"path": "text", "message": "is, too 😀"}],
    }
    assert "retry-after" not in trailers


@pytest.mark.parametrize("message", ["two\r\nlines\x00", "100 % 😀", "\u2028\u202e"])
async def test_an_errors_hostile_message_arrives_as_it_was_said(probe, client, message):
    probe.raises(ServiceError(message, to=message))

    error = await refusal(client)

    body = json.loads(dict(error.trailing_metadata())["x-error-body"])
    assert error.details() == body["message"] == body["to"] == message


async def test_an_error_with_half_a_character_still_has_its_code_and_body(probe, client):
    probe.raises(NotFoundError("\ud800"))

    error = await refusal(client)

    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert json.loads(dict(error.trailing_metadata())["x-error-body"])["error"] == "not_found"


@pytest.mark.parametrize("name", [b"authorization", b"x-shop-signature"])
async def test_a_header_that_is_no_text_arrives_and_is_never_logged(*, probe, running, caplog, capfd, name):
    logs.leave_out_header_values()
    received = []

    async def read(context: Context) -> str:
        received.extend(value for key, value in context.invocation_metadata() if key == name.decode())
        return "read"

    probe.answer = read

    await call_with_header(running.addresses["probe"], f"/{CHECK_LIVE}", name, SECRET.encode() + b"\xa0")

    assert received == [f"{SECRET}\xa0"]
    assert caplog.text == ""
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize("seconds", [1, 60])
async def test_an_outage_tells_when_to_send_again(probe, client, seconds):
    probe.raises(UnavailableError("down", retry_after_seconds=seconds))

    error = await refusal(client)

    trailers = dict(error.trailing_metadata())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert (trailers["retry-after"], trailers["x-http-status"]) == (str(seconds), "503")


async def test_an_abort_on_purpose_passes_as_it_is(probe, client):
    async def abort(context: Context) -> str:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "on purpose", (("x-own", "1"),))
        return ""

    probe.answer = abort

    with structlog.testing.capture_logs() as lines:
        error = await refusal(client)

    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "on purpose")
    assert dict(error.trailing_metadata()) == {"x-own": "1"}
    assert lines == []


def test_shows_the_defects_of_a_method_that_nobody_has_called(running):
    method = "textway.ingress.v1.HealthService/CheckReady"

    shown = REGISTRY.get_sample_value("textway_grpc_requests_total", {"method": method, "code": "INTERNAL"})

    assert shown == 0


def counted(code: str) -> float:
    return REGISTRY.get_sample_value("textway_grpc_requests_total", {"method": CHECK_LIVE, "code": code}) or 0.0


@pytest.mark.parametrize(
    ("failure", "code"),
    [(None, "OK"), (NotFoundError(), "NOT_FOUND"), (RuntimeError(SECRET), "INTERNAL"), ("abort", "DATA_LOSS")],
)
async def test_counts_each_call_by_the_code_that_its_caller_gets(probe, client, failure, code):
    async def answer(context: Context) -> str:
        if failure == "abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "on purpose")
        if isinstance(failure, Exception):
            raise failure
        return "live"

    probe.answer = answer
    before = counted(code)

    with contextlib.suppress(grpc.aio.AioRpcError):
        await client.CheckLive(health_v1.CheckLiveRequest())

    assert counted(code) == before + 1


async def test_counts_a_call_whose_caller_went_away_as_cancelled(probe, client):
    begun = asyncio.Event()

    async def answer(_: Context) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    probe.answer = answer
    before = counted("CANCELLED")

    call = client.CheckLive(health_v1.CheckLiveRequest())
    await asyncio.wait_for(begun.wait(), 10)
    call.cancel()

    async with asyncio.timeout(10):
        while counted("CANCELLED") == before:
            await asyncio.sleep(0.001)


async def test_the_interceptor_has_no_word_about_a_method_that_does_not_exist(channel):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary("/textway.ingress.v1.HealthService/Nothing")(b"", timeout=10)

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_knows_its_request_id_and_no_other_calls(probe, client):
    async def name(_: Context) -> str:
        await asyncio.sleep(0)
        logged = logs.bound().get("request_id", "")
        return f"{calls.request_id()}|{logged}"

    probe.answer = name

    answers = await asyncio.gather(*(call(client, (("x-request-id", f"req-{number}"),)) for number in range(20)))
    without = await call(client)

    assert answers == [f"req-{number}|req-{number}" for number in range(20)]
    assert without == "|"


async def test_a_call_takes_its_request_id_along_to_the_next_service(probe, client):
    async def ask_itself(context: Context) -> str:
        if calls.headers(context, "x-hop"):
            request, live = health_v1.CheckLiveRequest(), client.CheckLive
            return (await clients.call(live, request, part="Probe", timeout_seconds=5)).status
        return calls.request_id()

    probe.answer = ask_itself

    assert await call(client, (("x-request-id", "req-1"), ("x-hop", "1"))) == "req-1"


async def test_gives_the_gateway_the_status_of_a_success(probe, client):
    async def accept(context: Context) -> str:
        await calls.answer_with(context, 202)
        return "accepted"

    probe.answer = accept
    made = client.CheckLive(health_v1.CheckLiveRequest())

    await made

    assert dict(await made.initial_metadata())["x-http-status"] == "202"


async def test_lets_sixty_kilobytes_of_metadata_through_both_ways(probe, client):
    async def echo(context: Context) -> str:
        (value,) = calls.headers(context, "x-big")
        context.set_trailing_metadata((("x-big", value),))
        return str(len(value))

    probe.answer = echo
    made = client.CheckLive(health_v1.CheckLiveRequest(), metadata=(("x-big", "a" * 60_000),), timeout=10)

    response = await made

    assert response.status == "60000"
    assert len(dict(await made.trailing_metadata())["x-big"]) == 60_000


async def health_of(channel: grpc.aio.Channel, name: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    return (await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)).status


async def test_says_that_it_serves_as_a_whole_and_service_by_service(channel, probe):
    for name in ("", *probe.grpc_services):
        assert await health_of(channel, name) == health_pb2.HealthCheckResponse.SERVING


async def test_does_not_say_that_it_serves_before_its_services_have_started(probe, settings):
    with socket.create_server(("127.0.0.1", 0)) as free:
        probe.listen = f"127.0.0.1:{free.getsockname()[1]}"
    beginning, may_begin = asyncio.Event(), asyncio.Event()

    async def begin() -> None:
        beginning.set()
        await may_begin.wait()

    probe.start = begin
    starting = asyncio.create_task(RunningServer.start([probe], settings))
    await beginning.wait()

    async with clients.open_channel(probe.listen) as channel:
        early = await health_of(channel)
        may_begin.set()
        running = await starting
        late = await health_of(channel)
    await running.stop(0)

    assert early == health_pb2.HealthCheckResponse.NOT_SERVING
    assert late == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("notice_seconds", [0.2])
async def test_stops_by_saying_so_then_finishing_the_call_in_hand(probe, running, channel, client):
    taken, may_answer = asyncio.Event(), asyncio.Event()

    async def linger(_: Context) -> str:
        taken.set()
        await may_answer.wait()
        return "finished"

    probe.answer = linger
    in_hand = asyncio.create_task(call(client))
    await taken.wait()

    stopping = asyncio.create_task(running.stop(5))
    async with asyncio.timeout(0.2):
        while await health_of(channel) != health_pb2.HealthCheckResponse.NOT_SERVING:
            await asyncio.sleep(0.005)
    assert "stop probe" not in probe.told
    async with asyncio.timeout(5):
        while "end streams of probe" not in probe.told:
            await asyncio.sleep(0.005)
    late = await refusal(client)
    may_answer.set()

    assert await in_hand == "finished"
    await stopping
    assert late.code() in WHILE_STOPPING
    assert probe.told == ["start probe", "end streams of probe", "stop probe"]


@pytest.mark.parametrize("notice_seconds", [1])
async def test_takes_calls_for_as_long_as_callers_may_not_know_that_it_stops(probe, running, channel, client):
    async def serve(_: Context) -> str:
        return "served"

    probe.answer = serve

    stopping = asyncio.create_task(running.stop(5))
    while await health_of(channel) != health_pb2.HealthCheckResponse.NOT_SERVING:
        await asyncio.sleep(0.005)

    answer = await call(client)
    is_closing = "end streams of probe" in probe.told

    assert (answer, is_closing) == ("served", False)
    await stopping


async def test_cuts_a_call_that_does_not_end_in_time(probe, running, client):
    taken = asyncio.Event()

    async def hang(_: Context) -> str:
        taken.set()
        await asyncio.Event().wait()
        return ""

    probe.answer = hang
    in_hand = asyncio.create_task(refusal(client))
    await taken.wait()

    async with asyncio.timeout(3):
        await running.stop(0.05)

    assert (await in_hand).code() in WHILE_STOPPING


async def test_stops_services_in_the_reverse_order_of_their_start(settings):
    told: list[str] = []
    running = await RunningServer.start([Probe("first", told=told)], settings)
    both = await RunningServer.start([Second("second", told=told), Third("third", told=told)], settings)

    await both.stop(0)
    await running.stop(0)

    assert [line for line in told if "streams" not in line] == [
        *("start first", "start second", "start third"),
        *("stop third", "stop second", "stop first"),
    ]


class Second(Probe):
    """A service that shares its server with another, so that each registers one servicer."""

    grpc_services = ("textway.ingress.v1.HealthService",)

    def add_to(self, server: grpc.aio.Server) -> None:
        add_HealthServiceServicer_to_server(self, server)


class Third(Probe):
    """The other."""

    grpc_services = ("textway.integrations.v1.RegistryService",)

    def add_to(self, server: grpc.aio.Server) -> None:
        add_RegistryServiceServicer_to_server(self, server)


async def test_two_servers_can_not_share_a_port(running, settings):
    taken = running.addresses["probe"]

    with pytest.raises(SettingsError, match=f"^{taken} can not be listened on"):
        await RunningServer.start([Probe(listen=taken)], settings)


async def test_refuses_a_port_that_another_program_has(settings):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"

        with pytest.raises(SettingsError, match=f"^{taken} can not be listened on"):
            await RunningServer.start([Probe(listen=taken)], settings)


async def test_serves_at_a_socket_and_takes_over_one_that_was_left_behind(settings, tmp_path):
    listen = f"unix:{tmp_path}/probe.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/probe.sock")
    probe = Probe(listen=listen)
    probe.answer = live
    running = await RunningServer.start([probe], settings)

    async with clients.open_channel(running.addresses["probe"]) as channel:
        assert await call(HealthServiceStub(channel)) == "live"

    assert running.addresses["probe"] == listen
    await running.stop(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["no-such-folder", "x" * 120])
async def test_refuses_a_socket_that_can_not_be(settings, tmp_path, folder):
    listen = f"unix:{tmp_path}/{folder}/probe.sock"

    with pytest.raises(SettingsError, match=f"^{listen} can not be listened on: is its folder there"):
        await RunningServer.start([Probe(listen=listen)], settings)


async def test_refuses_a_port_beyond_the_last(settings):
    try:
        running = await RunningServer.start([Probe(listen="127.0.0.1:99999")], settings)
    except SettingsError:
        served_on = ""
    else:
        served_on = running.addresses["probe"]
        await running.stop(0)

    assert served_on == ""


@pytest.mark.parametrize("listen", ["no.such.host.invalid:7101", "203.0.113.1:7101"])
async def test_refuses_an_address_that_is_not_this_machines(settings, listen):
    with pytest.raises(SettingsError, match=f"^{listen} can not be listened on"):
        await RunningServer.start([Probe(listen=listen)], settings)


async def test_stops_what_has_started_when_a_service_can_not_start(settings):
    told: list[str] = []
    failing = Third("third", told=told)
    failing.start_failure = "no"

    with pytest.raises(SettingsError, match="no"):
        await RunningServer.start([Second("second", told=told), failing], settings)

    assert told == ["start second", "stop second"]


async def test_frees_its_port_when_a_service_can_not_start(settings):
    listen = free_address()
    failing = Probe(listen=listen)
    failing.start_failure = "no"
    with pytest.raises(SettingsError) as refused:
        await RunningServer.start([failing], settings)
    said = str(refused.value)
    failing.start_failure = ""
    try:
        second = await RunningServer.start([failing], settings)
    except SettingsError as error:
        problem = str(error)
    else:
        problem = ""
        await second.stop(0)

    assert said == "no"
    del refused  # its traceback would keep the server beyond this loop
    assert problem == ""


async def test_lists_its_services_only_when_told_to(settings, tmp_path):
    listing = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    codes = []
    for reflection in (False, True):
        allowed = ProcessSettings(data_dir=tmp_path, notice_seconds=0, grpc_reflection=reflection)
        running = await RunningServer.start([Probe()], allowed)
        async with clients.open_channel(running.addresses["probe"]) as channel:
            stream = channel.stream_stream(listing)(timeout=5)
            await stream.done_writing()
            codes.append(await stream.code())
        await running.stop(0)

    assert codes == [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.OK]
