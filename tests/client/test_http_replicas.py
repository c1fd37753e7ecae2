"""Several replicas used as one: all are kept full, one that goes away loses nothing, and none may apply another vector."""

import asyncio

import httpx
import pytest
from fake_registry import refusal
from fake_service import CHATS
from sweep_fixtures import MemoryService, experiment_of, vector_file
from trait_client.http import AsyncTraitReplicas, replicas
from trait_client.results import ResultStore
from trait_client.sweeps import run_sweep
from trait_core.errors import InvalidRequestError, ServiceError, ServiceUnreachableError
from trait_core.storage import sha256_of


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(replicas, "PROBE_SECONDS", 0.02)


def together(*services, **options):
    hosts = {f"replica{i}": service for i, service in enumerate(services)}
    transport = httpx.MockTransport(lambda request: hosts[request.url.host].answer_async(request))
    addresses = [f"http://{host}" for host in hosts]
    return AsyncTraitReplicas(addresses, transport=transport, retries=0, patience=0.2, **options)


def sweep(folder, *services, progress=None, **values):
    async def go():
        async with together(*services) as client:
            return await run_sweep(experiment_of(folder, **values), client, ResultStore(folder / "r.duckdb"), progress)

    return asyncio.run(go())


def rows(folder, sql):
    return ResultStore(folder / "r.duckdb").query(sql)[1]


def test_both_replicas_are_kept_full(folder):
    services = [MemoryService(delay=0.01), MemoryService(delay=0.01)]
    outcome = sweep(folder, *services, n_prompts=6)
    assert outcome.status == "ok"
    assert sum(len(service.chats) for service in services) == outcome.trials_total
    assert [service.most_at_once[CHATS] for service in services] == [8, 8]


def test_a_replica_that_goes_away_in_the_middle_loses_no_trial_and_doubles_none(folder):
    staying, going = MemoryService(delay=0.005), MemoryService(delay=0.005)

    def leave(now):
        going.up = going.up and now.trials_done < 10

    outcome = sweep(folder, staying, going, progress=leave, n_prompts=6)
    assert not going.up
    assert (outcome.status, outcome.trials_failed, outcome.errors) == ("ok", 0, ())
    assert rows(folder, "SELECT count(*), count(DISTINCT (cell_id, prompt_id)) FROM trials WHERE status = 'done'") == [
        (outcome.trials_total, outcome.trials_total)
    ]


def test_a_replica_that_comes_back_is_used_again():
    staying, going = MemoryService(), MemoryService()

    async def go():
        async with together(staying, going) as client:
            going.up = False
            for _ in range(4):
                await client.chat("hello")
            assert (len(staying.chats), len(going.chats)) == (4, 0)
            going.up = True
            while not going.chats:
                await two_at_once(client)
            staying.chats.clear()
            going.chats.clear()
            await asyncio.gather(two_at_once(client), two_at_once(client))
            assert (len(staying.chats), len(going.chats)) == (2, 2)

    async def two_at_once(client):
        await asyncio.gather(client.chat("hello"), client.chat("hello"))

    asyncio.run(asyncio.wait_for(go(), 60))


def test_a_single_service_gets_the_request_again_after_a_restart():
    service = MemoryService(delay=0.05)

    async def go():
        async with together(service) as client:
            asking = asyncio.create_task(client.chat("hello"))
            await until(lambda: service.at_once[CHATS] == 1)
            service.up = False
            await until(lambda: service.at_once[CHATS] == 0)
            service.up = True
            return await asking

    async def until(holds):
        while not holds():  # noqa: ASYNC110 - the service is no part of the event loop
            await asyncio.sleep(0)

    assert asyncio.run(asyncio.wait_for(go(), 60)).text
    assert len(service.chats) == 2


def test_a_call_fails_after_its_patience_if_every_replica_is_gone():
    services = [MemoryService(), MemoryService()]

    async def go():
        async with together(*services) as client:
            for service in services:
                service.up = False
            await client.chat("hello")

    with pytest.raises(ServiceUnreachableError, match="no replica was ready within"):
        asyncio.run(go())


@pytest.mark.parametrize(("status", "sent"), [(502, 2), (503, 2), (504, 2), (400, 1), (500, 1)])
def test_a_balancers_failure_is_retried_and_a_refusal_is_final(status, sent):
    services = [MemoryService(), MemoryService()]
    services[0].fails[CHATS] = lambda _body: refusal(status, "no")

    async def go():
        async with together(*services) as client:
            await client.chat("hello")

    if sent == 1:
        with pytest.raises(ServiceError):
            asyncio.run(go())
    else:
        asyncio.run(go())
    assert [len(service.chats) for service in services] == [1, sent - 1]


def test_services_of_different_models_are_not_replicas():
    async def go():
        async with together(MemoryService(), MemoryService(versions={"service": "2"})):
            pass

    with pytest.raises(InvalidRequestError, match=r"are not replicas: versions is .*'1'.* here and .*'2'.* there"):
        asyncio.run(go())


def test_a_vector_is_put_on_every_replica_and_one_that_some_lack_is_not_listed():
    services = [MemoryService(), MemoryService(vector_file("whispering"))]

    async def go():
        async with together(*services) as client:
            assert await client.vectors() == []
            await client.put_vector("singing", vector_file("singing").to_bytes())
            return [vector.name for vector in await client.vectors()]

    assert asyncio.run(go()) == ["singing"]
    assert all("singing" in service.files for service in services)


def test_a_trial_whose_reply_was_steered_by_another_file_fails(folder):
    class Stale(MemoryService):
        """Applies the vector that it knew before."""

        def applied(self, terms):
            other = {"sha256": sha256_of(b"the file before")}
            return [term.model_copy(update=other) for term in super().applied(terms)]

    outcome = sweep(folder, MemoryService(), Stale(), n_prompts=6)
    assert (outcome.status, outcome.trials_failed > 0) == ("partial", True)
    failed = rows(folder, "SELECT error, text FROM trials WHERE status = 'failed'")
    assert len(failed) == outcome.trials_failed
    assert all("was asked for and 'sha256:" in error and text is None for error, text in failed)
    wrong = "SELECT 1 FROM trials JOIN cells USING (cell_id) WHERE status = 'done' AND kind <> 'baseline' AND "
    assert rows(folder, wrong + "(steering->>'$.applied[0].sha256') <> sha256") == []
