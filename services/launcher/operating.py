"""What an operator on the machine does: keys, tenants, the key ring, and the words that `up` greets with."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC
from typing import Final, TypeVar

import click
import grpc
import uvloop
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit import clients, tls
from servicekit.settings import UNIX, SettingsError, load
from services.integrations.settings import IntegrationsSettings
from services.launcher import health, tls_mismatch
from services.launcher.runtime import running_address
from textway.integrations.v1 import keys_service_pb2, keys_service_pb2_grpc

TIMEOUT_SECONDS: Final = 10.0
_LOOPBACK_OF: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}

Request = TypeVar("Request")
Response = TypeVar("Response")


def announce(address: str) -> None:
    """Greet whoever ran `up`: the address, an API key the first time, and three lines to paste."""
    key, is_new = uvloop.run(_first_key())
    click.echo(f"\nTextway is at {address}\n")
    if is_new:
        click.echo(f"Your API key, shown this once: {key}\n")
    click.echo("Paste these into a shell:\n")
    for line in try_out_lines(address, key):
        click.echo(f"  {line}")
    inside = os.environ.get("TEXTWAY_EGRESS_ALLOW")
    if inside:
        click.echo(
            f"\nReplies may go to receivers in {inside}, over http too; TEXTWAY_EGRESS_ALLOW= allows only public ones."
        )
    click.echo("")


def try_out_lines(address: str, key: str) -> tuple[str, str, str]:
    """Return three commands: connect a system, post its JSON, watch what became of it."""
    authorization = f'-H "Authorization: Bearer {key}"'
    new_integration = json.dumps({"name": "Order system", "preset": "generic"})
    payload = json.dumps({"to": "+6581230000", "text": "Order #4821 confirmed", "ref": "4821"})
    just_the_url = r"""sed -E 's/.*"ingressUrl":"([^"]+)".*/\1/'"""
    return (
        f"INGRESS_URL=$(curl -s {address}/v1/ingress {authorization} -d '{new_integration}' | {just_the_url})",
        f"curl -s \"$INGRESS_URL\" -d '{payload}'",
        f'curl -s "{address}/v1/messages?pageSize=1" {authorization}',
    )


async def create_key(tenant: str, name: str) -> str:
    """Make a key; return the words to print."""
    request = keys_service_pb2.CreateApiKeyRequest(tenant=tenant, name=name)
    async with _keys() as keys:
        answer = await _call(keys.CreateApiKey, request)
    return f"{answer.api_key}\n\nThis is {answer.key.id}. It is shown this once: only its hash is kept."


async def list_keys(tenant: str) -> str:
    """Return a tenant's keys, a line each."""
    async with _keys() as keys:
        answer = await _call(keys.ListApiKeys, keys_service_pb2.ListApiKeysRequest(tenant=tenant))
    return "\n".join(_key_line(key) for key in answer.keys) or "there are no keys yet"


async def revoke_key(key_id: str) -> str:
    """Revoke a key; return the words to print."""
    async with _keys() as keys:
        return _key_line(await _call(keys.RevokeApiKey, keys_service_pb2.RevokeApiKeyRequest(id=key_id)))


async def create_tenant(name: str) -> str:
    """Make a tenant; return the words to print."""
    async with _keys() as keys:
        return _tenant_line(await _call(keys.CreateTenant, keys_service_pb2.CreateTenantRequest(name=name)))


async def list_tenants() -> str:
    """Return all tenants, a line each."""
    async with _keys() as keys:
        answer = await _call(keys.ListTenants, keys_service_pb2.ListTenantsRequest())
    return "\n".join(_tenant_line(tenant) for tenant in answer.tenants)


async def set_tenant_active(tenant: str, *, active: bool) -> str:
    """Suspend a tenant or let it work again; return the words to print."""
    request = keys_service_pb2.SetTenantActiveRequest(tenant=tenant, active=active)
    async with _keys() as keys:
        return _tenant_line(await _call(keys.SetTenantActive, request))


async def rotate_key_ring() -> None:
    """Encrypt every secret with a new key."""
    from services.integrations import maintenance
    from services.launcher import databases

    await databases.require("integrations")
    await maintenance.rotate_key_ring(load(IntegrationsSettings))


async def _first_key() -> tuple[str, bool]:
    if os.environ.get("TEXTWAY_BOOTSTRAP_KEY"):
        return "$TEXTWAY_BOOTSTRAP_KEY", False
    async with _keys() as keys:
        known = await _call(keys.ListApiKeys, keys_service_pb2.ListApiKeysRequest())
        if known.keys:
            return "$TEXTWAY_API_KEY", False
        made = await _call(keys.CreateApiKey, keys_service_pb2.CreateApiKeyRequest(name="first key"))
        return made.api_key, True


async def _call(method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
    return await clients.call(method, request, part="Integrations", timeout_seconds=TIMEOUT_SECONDS)


@contextlib.asynccontextmanager
async def _keys() -> AsyncIterator[keys_service_pb2_grpc.KeysServiceAsyncStub]:
    """Reach the running Integrations, or run it here for as long as it is needed."""
    settings = load(IntegrationsSettings)
    identity = tls.identity(settings)
    address = running_address(settings.data_dir, "integrations") or _on_this_machine(settings.integrations_listen)
    async with contextlib.AsyncExitStack() as stack:
        if _is_listening(address):
            if why := tls_mismatch.between(address, is_secured=identity is not None):
                raise SettingsError(f"Integrations at {address} {why}")
        else:
            address = await stack.enter_async_context(_own_integrations(settings))
        channel = await stack.enter_async_context(clients.open_channel(address, identity))
        yield keys_service_pb2_grpc.KeysServiceStub(channel)


@contextlib.asynccontextmanager
async def _own_integrations(settings: IntegrationsSettings) -> AsyncIterator[str]:
    # Who reaches a running one, as `up` does for its greeting, is not to wait for all that a service imports.
    from servicekit.clock import SystemClock
    from servicekit.server import RunningServer
    from services.integrations import maintenance, service
    from services.launcher import databases

    await databases.require("integrations")
    here = settings.model_copy(update={"integrations_listen": "127.0.0.1:0", "integrations_metrics_listen": ""})
    await maintenance.migrate(here)
    running = await RunningServer.start([await service.build(here, SystemClock())], here)
    try:
        yield running.addresses["integrations"]
    finally:
        await running.stop(1.0)


def _on_this_machine(listen: str) -> str:
    if listen.startswith(UNIX):
        return listen
    # A certificate names the machine's own address, and never every interface.
    host, _, port = listen.rpartition(":")
    return f"{_LOOPBACK_OF.get(host, host)}:{port}"


def _is_listening(address: str) -> bool:
    try:
        health.connect(address, timeout_seconds=1.0).close()
    except OSError:
        return False
    return True


def _key_line(key: keys_service_pb2.ApiKey) -> str:
    state = f"revoked {_when(key.revoked_at)}" if key.HasField("revoked_at") else "works"
    return f"{key.id}  {key.hint}...  {state}  made {_when(key.created_at)}  {key.name}".rstrip()


def _tenant_line(tenant: keys_service_pb2.Tenant) -> str:
    return f"{tenant.id}  {'active' if tenant.active else 'suspended'}  {tenant.name}"


def _when(stamp: Timestamp) -> str:
    return stamp.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M UTC")
