"""Calls to customers' URLs over real sockets: what is reached, what never is, and who may hold whom how long."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import tracemalloc
from ipaddress import ip_address, ip_network

import pytest

from servicekit import egress_exchange
from servicekit.clock import SystemClock
from servicekit.egress import EgressClient, Limits, Problem
from servicekit.egress_urls import EgressPolicy
from tests.kit.certificates import Authority
from tests.kit.refused_urls import BLOCKED_ADDRESSES, SPELLINGS

RECEIVER = "127.0.0.2"  # where the receivers of these tests are; every other loopback address stands for the inside
PATIENCE_SECONDS = 5.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class FakeNames:
    """Gives each name its answers in turn, the last one for ever."""

    def __init__(self, **answers):
        self._answers = {name.replace("_", "."): list(turns) for name, turns in answers.items()}
        self.asked = []

    async def addresses_of(self, host):
        self.asked.append(host)
        turns = self._answers.get(host)
        if not turns:
            raise OSError("no such name")
        answer = turns.pop(0) if len(turns) > 1 else turns[0]
        return [ip_address(each) for each in answer]

    def close(self):
        pass


class Listener:
    """Counts connections, keeps what came, and answers with a script."""

    def __init__(self, script):
        self._script = script
        self._under_way = set()
        self.connections = 0
        self.requests = []

    async def take(self, reader, writer):
        self.connections += 1
        self._under_way.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
            )
            self.requests.append(head + await reader.readexactly(length))
            await self._script(writer)
        writer.close()
        self._under_way.discard(asyncio.current_task())

    def stop(self):
        for task in self._under_way:
            task.cancel()


def answering(answer):
    async def script(writer):
        writer.write(answer)
        await writer.drain()

    return script


@contextlib.asynccontextmanager
async def listening(script=None, *, host=RECEIVER, port=0, tls=None):
    listener = Listener(script or answering(OK))
    server = await asyncio.start_server(listener.take, host, port, ssl=tls)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()
        listener.stop()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def listening_before_a_canary(script=None):
    """A receiver, and another listener at the same port of an address that must not be called."""
    while True:
        async with contextlib.AsyncExitStack() as stack:
            receiver = await stack.enter_async_context(listening(script))
            try:
                canary = await stack.enter_async_context(listening(host="127.0.0.1", port=receiver.port))
            except OSError:
                continue  # somebody else has that port there
            yield receiver, canary
            return


def calling(*, names=None, tls=None, limits=None, allowed=f"{RECEIVER}/32", **policy):
    networks = (ip_network(allowed),) if allowed else ()
    return EgressClient(
        EgressPolicy(allowed=networks, **policy),
        SystemClock(),
        names=names or FakeNames(receiver_example=[[RECEIVER]]),
        limits=limits or Limits(total_seconds=PATIENCE_SECONDS),
        tls=tls,
    )


async def post(client, url, body=b"{}", headers=None):
    return await client.post(url, headers=headers or {}, body=body)


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
async def canaries():
    """Listen on every address of this machine, of both families, on one port, with nothing to say."""
    async with contextlib.AsyncExitStack() as stack:
        four = await stack.enter_async_context(listening(host="0.0.0.0"))
        everywhere = [four]
        if socket.has_ipv6:
            with contextlib.suppress(OSError):
                everywhere.append(await stack.enter_async_context(listening(host="::", port=four.port)))
        yield everywhere


def connections(canaries):
    return sum(canary.connections for canary in canaries)


async def test_posts_the_body_as_it_is_and_tells_what_was_answered():
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 9\r\n\r\nlater\x00\x1b\n."
    async with listening(answering(answer)) as receiver:
        exchange = await post(
            calling(), f"http://receiver.example:{receiver.port}/a?b=%20c", b'{"x":1}', {"webhook-id": "evt_1"}
        )

    (request,) = receiver.requests
    assert request.startswith(b"POST /a?b=%20c HTTP/1.1\r\n")
    assert f"Host: receiver.example:{receiver.port}\r\n".encode() in request
    assert b"webhook-id: evt_1\r\n" in request
    assert b"Accept-Encoding: identity\r\n" in request
    assert b"Connection: close\r\n" in request
    assert request.endswith(b'\r\n\r\n{"x":1}')
    assert (exchange.status, exchange.retry_after, exchange.problem) == (503, "7", None)
    assert exchange.body == b"later\x00\x1b\n."
    assert exchange.milliseconds >= 0


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_sends_nothing_to_the_spelling(spelling, canaries):
    port = canaries[0].port
    names = FakeNames(public_example=[["127.0.0.1"]])
    strict = calling(names=names, allowed="", ports=frozenset({443, 8443, port}), own=("sms.example", port))

    exchange = await post(strict, SPELLINGS[spelling].format(port=port))

    assert exchange.problem in (Problem.URL_NOT_ALLOWED, Problem.BLOCKED_ADDRESS)
    assert (exchange.status, connections(canaries)) == (0, 0)


async def test_sends_nothing_to_any_blocked_address(canaries):
    port = canaries[0].port
    for address in BLOCKED_ADDRESSES:
        names = FakeNames(receiver_example=[[address]])
        strict = calling(names=names, allowed="", allow_http=True, ports=frozenset({port}))
        literal = f"[{address}]" if ":" in address else address

        by_name = await post(strict, f"http://receiver.example:{port}/")
        by_address = await post(strict, f"http://{literal}:{port}/")

        assert by_name.problem is Problem.BLOCKED_ADDRESS, address
        assert by_address.problem in (Problem.BLOCKED_ADDRESS, Problem.URL_NOT_ALLOWED), address
    assert connections(canaries) == 0


async def test_the_listeners_of_these_tests_would_see_a_call(canaries):
    for address in ("127.0.0.1", "127.254.1.1", *(["[::1]"] if len(canaries) > 1 else [])):
        allowed = "::/0" if address.startswith("[") else "127.0.0.0/8"
        assert (await post(calling(allowed=allowed), f"http://{address}:{canaries[0].port}/")).status == 200

    assert connections(canaries) == len(canaries) + 1


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], [RECEIVER, "127.0.0.1"], ["10.0.0.1", RECEIVER], [RECEIVER, "::ffff:127.0.0.1"], [RECEIVER, "::1"]],
)
async def test_one_blocked_address_of_a_name_refuses_all_of_them(addresses, canaries):
    names = FakeNames(receiver_example=[addresses])

    exchange = await post(calling(names=names), f"http://receiver.example:{canaries[0].port}/")

    assert exchange.problem is Problem.BLOCKED_ADDRESS
    assert connections(canaries) == 0


async def test_a_name_that_means_something_else_the_second_time_is_asked_once_a_call_and_refused_then():
    async with listening_before_a_canary() as (receiver, canary):
        names = FakeNames(receiver_example=[[RECEIVER], ["127.0.0.1"]])
        client = calling(names=names)
        url = f"http://receiver.example:{receiver.port}/"

        first = await post(client, url)
        asked_by_the_first = len(names.asked)
        second = await post(client, url)

    assert (first.status, asked_by_the_first) == (200, 1)
    assert (second.status, second.problem) == (0, Problem.BLOCKED_ADDRESS)
    assert (receiver.connections, canary.connections) == (1, 0)


async def test_a_name_that_alternates_is_never_dialled_at_the_wrong_address():
    async with listening_before_a_canary() as (receiver, canary):
        names = FakeNames(receiver_example=[[RECEIVER], ["127.0.0.1"]] * 20)
        client = calling(names=names)

        exchanges = [await post(client, f"http://receiver.example:{receiver.port}/") for _ in range(40)]

    assert [each.status for each in exchanges] == [200, 0] * 20
    assert (receiver.connections, canary.connections) == (20, 0)


async def test_dials_no_address_that_was_not_checked_even_if_the_library_asks_for_one(monkeypatch, canaries):
    async def elsewhere(self, host, port=0, family=socket.AF_INET):
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}]

    monkeypatch.setattr(egress_exchange._CheckedAddresses, "resolve", elsewhere)

    exchange = await post(calling(), f"http://receiver.example:{canaries[0].port}/")

    assert (exchange.problem, connections(canaries)) == (Problem.BLOCKED_ADDRESS, 0)


async def test_does_not_keep_a_connection_for_the_next_call():
    async with listening() as receiver:
        client = calling()
        for _ in range(3):
            await post(client, f"http://receiver.example:{receiver.port}/")

    assert receiver.connections == 3


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize("where", ["http://127.0.0.1:{port}/", "http://receiver.example:{port}/again"])
async def test_does_not_follow_a_redirect(status, where):
    async def redirect(writer):
        location = where.format(port=receiver.port)
        writer.write(f"HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    async with listening_before_a_canary(redirect) as (receiver, canary):
        exchange = await post(calling(), f"http://receiver.example:{receiver.port}/")

    assert (exchange.status, exchange.problem) == (status, Problem.REDIRECT_REFUSED)
    assert (receiver.connections, canary.connections) == (1, 0)


async def test_speaks_tls_with_the_name_that_the_url_has(authority, tmp_path):
    serving = authority.serving(tmp_path, "receiver.example")
    asked_for = []
    serving.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    async with listening(tls=serving) as receiver:
        exchange = await post(calling(tls=authority.trusting()), f"https://receiver.example:{receiver.port}/")

    assert (exchange.status, exchange.problem, asked_for) == (200, None, ["receiver.example"])


async def test_speaks_tls_with_an_address_that_the_url_has(authority, tmp_path):
    async with listening(tls=authority.serving(tmp_path, RECEIVER)) as receiver:
        exchange = await post(calling(tls=authority.trusting()), f"https://{RECEIVER}:{receiver.port}/")

    assert (exchange.status, exchange.problem) == (200, None)


@pytest.mark.parametrize(
    ("host", "certificate"),
    [
        ("receiver.example", {"is_self_signed": True}),
        ("receiver.example", {"days": -1}),
        ("other.example", {}),
        (RECEIVER, {}),
    ],
    ids=["self-signed", "expired", "wrong name", "address for a name"],
)
async def test_sends_nothing_under_a_wrong_certificate(authority, tmp_path, host, certificate):
    async with listening(tls=authority.serving(tmp_path, host, **certificate)) as receiver:
        exchange = await post(calling(tls=authority.trusting()), f"https://receiver.example:{receiver.port}/")

    assert (exchange.status, exchange.problem) == (0, Problem.TLS_ERROR)
    assert receiver.requests == []


async def test_believes_only_the_authorities_of_the_machine(authority, tmp_path):
    async with listening(tls=authority.serving(tmp_path, "receiver.example")) as receiver:
        exchange = await post(calling(), f"https://receiver.example:{receiver.port}/")

    assert exchange.problem is Problem.TLS_ERROR


async def test_a_receiver_without_tls_is_a_tls_error(authority):
    async def answer_at_once(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer_at_once, RECEIVER, 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        exchange = await post(calling(tls=authority.trusting()), f"https://receiver.example:{port}/")

    assert (exchange.status, exchange.problem) == (0, Problem.TLS_ERROR)


async def test_a_name_without_address_is_told_from_a_receiver_that_is_down():
    async with listening() as receiver:
        port = receiver.port
    client = calling()

    unknown = await post(client, "https://nobody.example/")
    down = await post(client, f"http://receiver.example:{port}/")

    assert (unknown.problem, down.problem) == (Problem.DNS_FAILED, Problem.CONNECT_FAILED)


async def test_does_not_wait_for_a_name_server_that_does_not_answer():
    class Silent(FakeNames):
        async def addresses_of(self, host):
            await asyncio.Event().wait()

    client = calling(names=Silent(), limits=Limits(look_up_seconds=0.05))

    assert (await post(client, "https://receiver.example/")).problem is Problem.DNS_FAILED


async def silence(_writer):
    await asyncio.Event().wait()


async def drip_a_head(writer):
    for each in OK * 1000:
        writer.write(bytes((each,)))
        await asyncio.sleep(0.02)


async def drip_a_body(writer):
    writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b"x")
        await asyncio.sleep(0.02)


async def inform_for_ever(writer):
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("script", [silence, drip_a_head, drip_a_body, inform_for_ever])
async def test_whoever_takes_too_long_is_cut_off_at_the_deadline(script):
    limits = Limits(total_seconds=0.3)
    async with listening(script) as receiver:
        async with asyncio.timeout(PATIENCE_SECONDS):
            exchange = await post(calling(limits=limits), f"http://receiver.example:{receiver.port}/")

    assert exchange.problem is Problem.TIMEOUT


async def test_what_came_before_the_deadline_is_told():
    limits = Limits(total_seconds=0.3)
    async with listening(drip_a_body) as receiver:
        exchange = await post(calling(limits=limits), f"http://receiver.example:{receiver.port}/")

    assert exchange.status == 500
    assert exchange.body.startswith(b"x")


async def headers_without_end(writer):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(1_000_000):
        writer.write(b"X-%d: y\r\n" % number)
        await writer.drain()


@pytest.mark.parametrize(
    "script",
    [
        headers_without_end,
        answering(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_048_576 + b"\r\n\r\n"),
        answering(b"HTTP/1.1 " + b"2" * 1_048_576 + b"\r\n\r\n"),
        answering(b"HTTP/1.1 102 Processing\r\n\r\n" * 40_000),
        answering(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok"),
    ],
    ids=["headers without end", "header of 1 MB", "status line of 1 MB", "1 MB of 102", "no HTTP", "two lengths"],
)
async def test_an_answer_that_can_not_be_read_is_none(script):
    async with listening(script) as receiver:
        exchange = await post(calling(), f"http://receiver.example:{receiver.port}/")

    assert (exchange.status, exchange.body) == (0, b"")
    assert exchange.problem is Problem.ANSWER_UNREADABLE


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"", 0),
        (b"HTTP/1.1 2", 0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", 200),
    ],
)
async def test_an_answer_that_breaks_off_is_told_with_the_status_that_came(answer, status):
    async with listening(answering(answer)) as receiver:
        exchange = await post(calling(), f"http://receiver.example:{receiver.port}/")

    assert (exchange.status, exchange.problem) == (status, Problem.CONNECTION_LOST)


async def chunks_for_ever(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    "script",
    [chunks_for_ever, answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n" + b"x" * 1_048_576)],
    ids=["chunks for ever", "a large body"],
)
async def test_reads_64_kib_of_an_answer_and_no_more(script):
    async with listening(script) as receiver:
        exchange = await post(calling(), f"http://receiver.example:{receiver.port}/")

    assert (exchange.status, exchange.problem) == (200, None)
    assert exchange.body == b"x" * 65_536


@pytest.mark.parametrize(("length", "kept"), [(65_535, 65_535), (65_536, 65_536), (65_537, 65_536)])
async def test_keeps_an_answer_up_to_the_limit(length, kept):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length
    async with listening(answering(answer)) as receiver:
        exchange = await post(calling(), f"http://receiver.example:{receiver.port}/")

    assert (exchange.status, len(exchange.body)) == (200, kept)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "gzip, gzip", "deflate", "br", "zstd", "unheard-of"])
async def test_does_not_inflate_a_compressed_answer(encoding):
    bomb = gzip.compress(b"\x00" * 64_000_000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    async with listening(answering(head + bomb)) as receiver:
        tracemalloc.start()
        exchange = await post(calling(), f"http://receiver.example:{receiver.port}/")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert (exchange.status, exchange.body, exchange.problem) == (200, b"", None)
    assert peak < 8_000_000


async def test_takes_no_proxy_and_no_password_from_the_environment(tmp_path, monkeypatch):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine receiver.example login somebody password secret\n")
    netrc.chmod(0o600)
    async with listening() as receiver, listening() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{RECEIVER}:{proxy.port}")
            monkeypatch.setenv(name.lower(), f"http://{RECEIVER}:{proxy.port}")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("HOME", str(tmp_path))

        exchange = await post(calling(), f"http://receiver.example:{receiver.port}/")

    assert (exchange.status, proxy.connections) == (200, 0)
    assert b"authorization" not in receiver.requests[0].lower()


async def test_asks_the_machine_for_names_it_knows():
    async with listening(host="127.0.0.1") as receiver:
        client = EgressClient(EgressPolicy(allowed=(ip_network("127.0.0.0/8"), ip_network("::1/128"))), SystemClock())
        exchange = await post(client, f"http://localhost:{receiver.port}/")
        client.close()

    assert exchange.status == 200
