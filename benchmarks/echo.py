"""An empty handler on grpc.aio and uvloop: what the ceiling is measured with, in a process of its own.

`python -m benchmarks.echo DESCRIPTORS PORT` serves until SIGTERM and prints one line when it can be called.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop
from google.protobuf import descriptor_pb2, message_factory

SERVICE: Final = "textway.benchmarks.EchoService"

Handler = Callable[[Any, Any], Awaitable[Any]]


@contextlib.asynccontextmanager
async def serving(descriptors: bytes, port: int, handler_of: Callable[[Any], Handler]) -> AsyncIterator[None]:
    """Serve the echo's one method meanwhile, by what `handler_of` makes of the type of its answers."""
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors)
    messages = message_factory.GetMessages(files.file)
    request, response = (messages[f"textway.benchmarks.{name}"] for name in ("EchoRequest", "EchoResponse"))
    handler = grpc.unary_unary_rpc_method_handler(
        handler_of(response), request_deserializer=request.FromString, response_serializer=response.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Echo": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    yield
    await server.stop(0)


async def until_terminated(*work: Coroutine[Any, Any, Any]) -> None:
    """Do the work until SIGTERM; raise what it raises."""
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    tasks = [asyncio.create_task(each) for each in (*work, terminated.wait())]
    ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for task in ended:
        task.result()


def _echo(response: Any) -> Handler:
    answer = response(id="msg_00000000000000000000000000", status="queued", to="+14152000000", text="Yes", ref="1")

    async def echo(_request: Any, _context: Any) -> Any:
        return answer

    return echo


async def _serve(descriptors: bytes, port: int) -> None:
    async with serving(descriptors, port, _echo):
        await until_terminated()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]).read_bytes(), int(sys.argv[2])))
