"""API keys: asked about once a second at most, refused without a call where the form shows it, never kept."""

from __future__ import annotations

import pytest

from servicekit.errors import ServiceError, UnavailableError
from servicekit.ids import new_secret
from services.ingress.api_keys import ApiKeys
from services.integrations.errors import InvalidApiKeyError
from tests.conftest import FixedClock
from textway.integrations.v1.registry_service_pb2 import AuthenticateApiKeyRequest, AuthenticateApiKeyResponse

KEY = new_secret("sk_live", 40)


class Registry:
    """The one method that is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failure: ServiceError | None = None

    async def AuthenticateApiKey(  # the contract's name
        self,
        request: AuthenticateApiKeyRequest,
        timeout: float,  # noqa: ASYNC109  # the stub's argument
        metadata: object,
    ) -> AuthenticateApiKeyResponse:
        self.asked.append(request.api_key)
        if self.failure:
            raise self.failure
        return AuthenticateApiKeyResponse(tenant_id="ten_mine", key_id="key_x")


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def api_keys(registry: Registry, clock: FixedClock) -> ApiKeys:
    return ApiKeys(registry, clock=clock)


async def test_asks_again_after_a_second(api_keys: ApiKeys, registry: Registry, clock: FixedClock) -> None:
    tenants = [await api_keys.tenant_of(KEY), await api_keys.tenant_of(KEY)]
    clock.advance(1)
    tenants.append(await api_keys.tenant_of(KEY))

    assert tenants == ["ten_mine"] * 3
    assert registry.asked == [KEY, KEY]


async def test_refuses_a_revoked_key_after_a_second(api_keys: ApiKeys, registry: Registry, clock: FixedClock) -> None:
    await api_keys.tenant_of(KEY)
    registry.failure = InvalidApiKeyError()
    clock.advance(1)

    with pytest.raises(InvalidApiKeyError):
        await api_keys.tenant_of(KEY)


@pytest.mark.parametrize(("seconds", "is_known"), [(59, True), (60, False)])
async def test_goes_on_with_a_known_key_for_a_minute(
    *, api_keys: ApiKeys, registry: Registry, clock: FixedClock, seconds: float, is_known: bool
) -> None:
    await api_keys.tenant_of(KEY)
    registry.failure = UnavailableError("down")
    clock.advance(seconds)

    if is_known:
        assert await api_keys.tenant_of(KEY) == "ten_mine"
    else:
        with pytest.raises(UnavailableError):
            await api_keys.tenant_of(KEY)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "UNAUTHORIZED"),
        ("sk_test_" + "a" * 40, "UNAUTHORIZED"),
        (KEY[:-1], "UNAUTHORIZED"),
    ],
    ids=["empty", "of another kind", "too short"],  # not by a key that is another in each process
)
async def test_refuses_what_can_be_no_key_without_asking(
    api_keys: ApiKeys, registry: Registry, key: str, reason: str
) -> None:
    with pytest.raises(ServiceError) as refusal:
        await api_keys.tenant_of(key)

    assert refusal.value.reason == reason
    assert registry.asked == []


async def test_leaves_a_checksum_to_integrations_which_knows_the_key_of_the_start(
    api_keys: ApiKeys, registry: Registry
) -> None:
    of_the_start = "sk_live_" + "a" * 40

    assert await api_keys.tenant_of(of_the_start) == "ten_mine"
    registry.failure = InvalidApiKeyError()
    with pytest.raises(InvalidApiKeyError):
        await api_keys.tenant_of("sk_live_" + "b" * 40)

    assert registry.asked == [of_the_start, "sk_live_" + "b" * 40]


async def test_keeps_no_key(api_keys: ApiKeys) -> None:
    await api_keys.tenant_of(KEY)

    assert api_keys._asked == {}
    assert KEY not in repr(api_keys._answers.__dict__)
