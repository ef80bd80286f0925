"""The gRPC services of integrations, registry and keys: each method converts, calls a use case and converts back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from servicekit import calls
from servicekit.idempotency import idempotency_key, replay_header
from services.integrations import convert, webhook_convert
from services.integrations.answer_once import FirstAnswer
from services.integrations.authenticate import Authenticator
from services.integrations.find_targets import FindTargets
from services.integrations.manage_integrations import ManageIntegrations
from services.integrations.manage_tenants import ManageTenants
from services.integrations.watch_integrations import WatchIntegrations
from textway.integrations.v1 import integration_pb2, keys_service_pb2, registry_service_pb2
from textway.integrations.v1 import integrations_service_pb2 as public_pb2
from textway.integrations.v1.integrations_service_pb2_grpc import IntegrationsServiceServicer
from textway.integrations.v1.keys_service_pb2_grpc import KeysServiceServicer
from textway.integrations.v1.registry_service_pb2_grpc import RegistryServiceServicer

# grpc does not say what a context is for; requests and responses are typed.
Context = grpc.aio.ServicerContext[Any, Any]


class IntegrationsServicer(IntegrationsServiceServicer):
    """What a tenant calls, through the gateway or with its own gRPC client."""

    def __init__(self, *, authenticator: Authenticator, manage: ManageIntegrations, public_url: str) -> None:
        self._authenticator = authenticator
        self._manage = manage
        self._public_url = public_url

    async def CreateIntegration(
        self, request: public_pb2.CreateIntegrationRequest, context: Context
    ) -> integration_pb2.Integration:
        """See the contract."""
        tenant_id = await self._tenant_id(context)
        call = (tenant_id, "POST /v1/ingress", idempotency_key(context))
        once = convert.once(call, request, partial(convert.to_integration, public_url=self._public_url))
        made = await self._manage.create(tenant_id, convert.whole_integration(request), once)
        await calls.answer_with(context, 201, **replay_header(replayed=isinstance(made, FirstAnswer)))
        return convert.to_created(made, self._public_url)

    async def ListIntegrations(
        self, request: public_pb2.ListIntegrationsRequest, context: Context
    ) -> public_pb2.ListIntegrationsResponse:
        """See the contract."""
        tenant_id = await self._tenant_id(context)
        page = convert.list_request(request)
        found = await self._manage.list_page(tenant_id, page.and_one_more)
        return convert.to_list(found, page, self._public_url)

    async def GetIntegration(
        self, request: public_pb2.GetIntegrationRequest, context: Context
    ) -> integration_pb2.Integration:
        """See the contract."""
        tenant_id = await self._tenant_id(context)
        integration = await self._manage.get(tenant_id, request.id)
        return convert.to_integration(integration, self._public_url)

    async def ReplaceIntegration(
        self, request: public_pb2.ReplaceIntegrationRequest, context: Context
    ) -> integration_pb2.Integration:
        """See the contract."""
        tenant_id = await self._tenant_id(context)
        integration = await self._manage.replace(tenant_id, request.id, convert.whole_integration(request))
        return convert.to_integration(integration, self._public_url)

    async def UpdateIntegration(
        self, request: public_pb2.UpdateIntegrationRequest, context: Context
    ) -> integration_pb2.Integration:
        """See the contract."""
        tenant_id = await self._tenant_id(context)
        integration = await self._manage.update(tenant_id, request.id, convert.named_fields(request))
        return convert.to_integration(integration, self._public_url)

    async def DeleteIntegration(self, request: public_pb2.DeleteIntegrationRequest, context: Context) -> Empty:
        """See the contract."""
        tenant_id = await self._tenant_id(context)
        await self._manage.delete(tenant_id, request.id)
        return Empty()

    async def RotateIngressKey(
        self, request: public_pb2.RotateIngressKeyRequest, context: Context
    ) -> public_pb2.RotateIngressKeyResponse:
        """See the contract."""
        tenant_id = await self._tenant_id(context)
        call = (tenant_id, f"POST /v1/ingress/{request.id}/rotate", idempotency_key(context))
        once = convert.once(call, request, partial(convert.to_rotation, public_url=self._public_url))
        made = await self._manage.rotate(tenant_id, request.id, convert.overlap_seconds(request), once)
        await calls.answer_with(context, 200, **replay_header(replayed=isinstance(made, FirstAnswer)))
        return convert.to_rotated(made, self._public_url)

    async def _tenant_id(self, context: Context) -> str:
        caller = await self._authenticator.caller_of(calls.bearer_token(context))
        return caller.tenant_id


class RegistryServicer(RegistryServiceServicer):
    """What the other services call."""

    def __init__(self, *, authenticator: Authenticator, watch: WatchIntegrations, targets: FindTargets) -> None:
        self._authenticator = authenticator
        self._watch = watch
        self._targets = targets

    async def WatchIntegrations(
        self, request_iterator: AsyncIterator[registry_service_pb2.WatchIntegrationsRequest], context: Context
    ) -> AsyncIterator[registry_service_pb2.WatchIntegrationsResponse]:
        """See the contract."""
        words = (convert.watcher_word(request) async for request in request_iterator)
        async for update in self._watch.updates(words):
            yield convert.to_watch_response(update)

    async def ResolveIngressKey(
        self, request: registry_service_pb2.ResolveIngressKeyRequest, context: Context
    ) -> registry_service_pb2.ResolveIngressKeyResponse:
        """See the contract."""
        integration = await self._watch.resolve(request.sha256)
        return registry_service_pb2.ResolveIngressKeyResponse(integration=convert.to_config(integration))

    async def AuthenticateApiKey(
        self, request: registry_service_pb2.AuthenticateApiKeyRequest, context: Context
    ) -> registry_service_pb2.AuthenticateApiKeyResponse:
        """See the contract."""
        caller = await self._authenticator.caller_of(request.api_key)
        return registry_service_pb2.AuthenticateApiKeyResponse(tenant_id=caller.tenant_id, key_id=caller.key_id)

    async def GetWebhookTargets(
        self, request: registry_service_pb2.GetWebhookTargetsRequest, context: Context
    ) -> registry_service_pb2.GetWebhookTargetsResponse:
        """See the contract."""
        return webhook_convert.to_targets(await self._targets.of(request.tenant_id, request.integration_id))

    async def DisableWebhookTarget(
        self, request: registry_service_pb2.DisableWebhookTargetRequest, context: Context
    ) -> registry_service_pb2.DisableWebhookTargetResponse:
        """See the contract."""
        is_disabled = await self._targets.disable(webhook_convert.failure_from(request))
        return registry_service_pb2.DisableWebhookTargetResponse(is_disabled=is_disabled)


class KeysServicer(KeysServiceServicer):
    """What an operator on the machine calls."""

    def __init__(self, manage: ManageTenants) -> None:
        self._manage = manage

    async def CreateTenant(
        self, request: keys_service_pb2.CreateTenantRequest, context: Context
    ) -> keys_service_pb2.Tenant:
        """See the contract."""
        return convert.to_tenant(await self._manage.create_tenant(request.name))

    async def ListTenants(
        self, request: keys_service_pb2.ListTenantsRequest, context: Context
    ) -> keys_service_pb2.ListTenantsResponse:
        """See the contract."""
        tenants = await self._manage.list_tenants()
        return keys_service_pb2.ListTenantsResponse(tenants=[convert.to_tenant(tenant) for tenant in tenants])

    async def SetTenantActive(
        self, request: keys_service_pb2.SetTenantActiveRequest, context: Context
    ) -> keys_service_pb2.Tenant:
        """See the contract."""
        return convert.to_tenant(await self._manage.set_active(request.tenant, active=request.active))

    async def CreateApiKey(
        self, request: keys_service_pb2.CreateApiKeyRequest, context: Context
    ) -> keys_service_pb2.CreateApiKeyResponse:
        """See the contract."""
        new = await self._manage.create_api_key(request.tenant, request.name)
        return keys_service_pb2.CreateApiKeyResponse(key=convert.to_api_key(new.key), api_key=new.secret)

    async def ListApiKeys(
        self, request: keys_service_pb2.ListApiKeysRequest, context: Context
    ) -> keys_service_pb2.ListApiKeysResponse:
        """See the contract."""
        keys = await self._manage.list_api_keys(request.tenant)
        return keys_service_pb2.ListApiKeysResponse(keys=[convert.to_api_key(key) for key in keys])

    async def RevokeApiKey(
        self, request: keys_service_pb2.RevokeApiKeyRequest, context: Context
    ) -> keys_service_pb2.ApiKey:
        """See the contract."""
        return convert.to_api_key(await self._manage.revoke_api_key(request.id))
