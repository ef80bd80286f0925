"""`textway` commands that call the gateway, and find something else in its place."""

from __future__ import annotations

import socket
import threading

import pytest

from services.launcher import public_api


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing, as a listener with TLS to one who speaks none"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", id="half of an answer"),
    ],
)
def test_says_that_the_gateway_can_not_be_reached_when_what_answers_is_none(monkeypatch, answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("TEXTWAY_PUBLIC_URL", address)
        monkeypatch.setenv("TEXTWAY_API_KEY", "sk_live_x")
        threading.Thread(target=_answer_once, args=(listener, answer), daemon=True).start()

        with pytest.raises(public_api.PublicApiError, match=f"^{address} can not be reached: "):
            public_api.call("/v1/carriers")


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)
