"""An empty handler on grpc.aio and uvloop: what the ceiling is measured with, in a process of its own.

`python -m benchmarks.echo DESCRIPTORS PORT` serves until SIGTERM and prints one line when it can be called.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop
from google.protobuf import descriptor_pb2, message_factory

SERVICE: Final = "textway.benchmarks.EchoService"


async def serve(descriptors: bytes, port: int) -> None:
    """Serve until SIGTERM."""
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors)
    messages = message_factory.GetMessages(files.file)
    request, response = (messages[f"textway.benchmarks.{name}"] for name in ("EchoRequest", "EchoResponse"))
    answer = response(id="msg_00000000000000000000000000", status="queued", to="+14152000000", text="Yes", ref="1")

    async def echo(_request: Any, _context: Any) -> Any:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        echo, request_deserializer=request.FromString, response_serializer=response.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Echo": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]).read_bytes(), int(sys.argv[2])))
