"""Creating and rotating with an Idempotency-Key, over real gRPC: however often it is asked for, it is done once."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest

from textway.integrations.v1.integrations_service_pb2 import (
    CreateIntegrationRequest,
    DeleteIntegrationRequest,
    GetIntegrationRequest,
    ListIntegrationsRequest,
    ReplaceIntegrationRequest,
    RotateIngressKeyRequest,
    UpdateIntegrationRequest,
)

SHOP = CreateIntegrationRequest(name="shop", signing_secret="a good secret")


def with_key(metadata, key="order-4821"):
    return (*metadata, ("idempotency-key", key))


async def answer(call):
    """Return an answer, its HTTP status and whether it is a replay."""
    response = await call
    metadata = dict(await call.initial_metadata())
    return response, metadata.get("x-http-status"), metadata.get("idempotent-replay")


async def count(clients, owner):
    return len((await clients.integrations.ListIntegrations(ListIntegrationsRequest(), metadata=owner)).integrations)


async def test_a_repeated_create_answers_as_the_first_and_creates_nothing(clients, owner):
    first = await answer(clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner)))

    again = await answer(clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner, '"order-4821"')))

    made = first[0]
    assert first[1:] == ("201", None)
    assert again == (made, "201", "true")
    assert made.signed
    assert await count(clients, owner) == 1


async def test_a_replay_shows_what_was_answered_whatever_came_after(clients, owner):
    made = await clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner))
    await clients.integrations.UpdateIntegration(UpdateIntegrationRequest(id=made.id, name="new"), metadata=owner)
    await clients.integrations.RotateIngressKey(RotateIngressKeyRequest(id=made.id), metadata=owner)
    after_changes = await clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner))
    await clients.integrations.DeleteIntegration(DeleteIntegrationRequest(id=made.id), metadata=owner)

    after_deletion = await clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner))

    assert after_changes == after_deletion == made
    assert await count(clients, owner) == 0


async def test_a_repeated_rotation_answers_as_the_first_and_rotates_once(clients, owner):
    made = await clients.integrations.CreateIntegration(SHOP, metadata=owner)
    request = RotateIngressKeyRequest(id=made.id)

    first = await answer(clients.integrations.RotateIngressKey(request, metadata=with_key(owner)))
    again = await answer(clients.integrations.RotateIngressKey(request, metadata=with_key(owner)))

    assert again == (first[0], "200", "true")
    assert first[2] is None
    read = await clients.integrations.GetIntegration(GetIntegrationRequest(id=made.id), metadata=owner)
    assert read.ingress_key == first[0].ingress_key


@pytest.mark.parametrize(
    "other",
    [
        CreateIntegrationRequest(name="another shop", signing_secret="a good secret"),
        CreateIntegrationRequest(name="shop", signing_secret="another secret"),
        CreateIntegrationRequest(name="shop", signing_secret="a good secret", ref_path=""),
    ],
)
async def test_a_key_that_comes_with_another_body_is_refused(clients, owner, refusal, other):
    await clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner))

    refused = await refusal(clients.integrations.CreateIntegration(other, metadata=with_key(owner)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "IDEMPOTENCY_MISMATCH")
    assert await count(clients, owner) == 1


async def test_a_key_counts_for_one_tenant_and_one_path(clients, owner, stranger):
    ours = await clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner))
    theirs = await clients.integrations.CreateIntegration(SHOP, metadata=with_key(stranger))
    second = await clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner, "another"))

    rotated = [
        await clients.integrations.RotateIngressKey(RotateIngressKeyRequest(id=one.id), metadata=with_key(owner))
        for one in (ours, second)
    ]

    assert len({ours.id, theirs.id, second.id}) == 3
    assert [one.id for one in rotated] == [ours.id, second.id]


async def test_a_request_that_was_refused_can_be_mended_under_the_same_key(clients, owner, refusal):
    refused = await refusal(
        clients.integrations.CreateIntegration(CreateIntegrationRequest(name=""), metadata=with_key(owner))
    )

    made = await answer(clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner)))

    assert refused.reason == "VALIDATION_ERROR"
    assert made[1:] == ("201", None)


@pytest.mark.parametrize("keys", [("",), ("k" * 256,), ('"open',), ("a", "a")])
async def test_refuses_what_is_no_key(clients, owner, refusal, keys):
    metadata = (*owner, *(("idempotency-key", key) for key in keys))

    refused = await refusal(clients.integrations.CreateIntegration(SHOP, metadata=metadata))

    assert (refused.reason, refused.fields) == ("VALIDATION_ERROR", ("Idempotency-Key",))
    assert await count(clients, owner) == 0


async def test_a_key_changes_nothing_for_calls_that_may_be_repeated_anyway(clients, owner):
    made = await clients.integrations.CreateIntegration(SHOP, metadata=owner)

    for name in ("one", "two"):
        request = ReplaceIntegrationRequest(id=made.id, name=name)
        put = await clients.integrations.ReplaceIntegration(request, metadata=with_key(owner))
        assert put.name == name


async def test_an_answer_outlives_a_restart(settings, serving, owner):
    async with serving(settings) as clients:
        made = await clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner))

    async with serving(settings) as clients:
        again = await answer(clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner)))

    assert again == (made, "201", "true")


async def test_repeats_at_once_make_one_integration(clients, owner):
    answers = await asyncio.gather(
        *(answer(clients.integrations.CreateIntegration(SHOP, metadata=with_key(owner))) for _ in range(30))
    )

    assert len({made.id for made, _, _ in answers}) == 1
    assert len({made.ingress_key for made, _, _ in answers}) == 1
    assert [replay for _, _, replay in answers].count(None) == 1
    assert await count(clients, owner) == 1


@pytest.mark.parametrize("seed", range(5))
async def test_any_interleaving_of_repeats_makes_one_integration_for_each_key(clients, owner, seed):
    chance = random.Random(seed)
    plan = [
        (chance.choice("abc"), chance.choice("xy"), chance.choice((0, 0, 0.001, 0.01, 0.05)))
        for _ in range(chance.randint(1, 60))
    ]

    async def create(key, name, begins_after_seconds):
        await asyncio.sleep(begins_after_seconds)
        request = CreateIntegrationRequest(name=name)
        return await clients.integrations.CreateIntegration(request, metadata=with_key(owner, key))

    results = await asyncio.gather(*(create(*call) for call in plan), return_exceptions=True)

    made: dict[str, set[tuple[str, str]]] = {}
    for (key, name, _), result in zip(plan, results, strict=True):
        if isinstance(result, grpc.aio.AioRpcError):
            assert result.code() is grpc.StatusCode.FAILED_PRECONDITION
        else:
            assert result.name == name
            made.setdefault(key, set()).add((result.id, result.ingress_key))
    assert {key: len(answers) for key, answers in made.items()} == dict.fromkeys((call[0] for call in plan), 1)
    assert await count(clients, owner) == len(made)
