"""The vector bank's rows are lent, shared, evicted and never half-known."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from trait_core.errors import InvalidRequestError
from trait_service.engine_link.bank_client import BankClient
from trait_service.engine_link.workers import Workers


def directions(*names: str) -> dict[str, bytes]:
    return {name: name.encode() for name in names}


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_direction_stands_in_the_bank_while_it_is_held_and_after(memory_workers):
    async def scenario() -> None:
        workers = memory_workers(rows=2)
        lease = BankClient(Workers(workers).update_bank, 2)
        async with lease.acquire(directions("a")):
            assert set(workers.bank) == {"a"}
        async with lease.acquire(directions("a")):
            pass
        assert len(workers.called("trait_update_bank")) == 1

    asyncio.run(scenario())


def test_the_least_recently_used_direction_makes_room(memory_workers):
    async def scenario() -> None:
        workers = memory_workers(rows=2)
        lease = BankClient(Workers(workers).update_bank, 2)
        for name in ("a", "b", "a", "c"):
            async with lease.acquire(directions(name)):
                pass
        assert set(workers.bank) == {"a", "c"}
        assert workers.called("trait_update_bank")[-1] == ({"c": b"c"}, ["b"])

    asyncio.run(scenario())


def test_concurrent_requests_for_one_new_direction_share_one_upload(memory_workers):
    async def scenario() -> None:
        workers = memory_workers(rows=2)
        lease = BankClient(Workers(workers).update_bank, 2)

        async def use() -> None:
            async with lease.acquire(directions("a")):
                assert "a" in workers.bank
                await asyncio.sleep(0)

        await asyncio.gather(*(use() for _ in range(10)))
        assert len(workers.called("trait_update_bank")) == 1

    asyncio.run(scenario())


def test_many_new_directions_travel_in_one_call(memory_workers):
    async def scenario() -> None:
        workers = memory_workers(rows=64)
        lease = BankClient(Workers(workers).update_bank, 64)
        async with AsyncExitStack() as stack:
            await asyncio.gather(*(stack.enter_async_context(lease.acquire(directions(f"d{i}"))) for i in range(50)))
            assert len(workers.bank) == 50
        assert len(workers.called("trait_update_bank")) <= 2

    asyncio.run(scenario())


def test_a_full_bank_makes_requests_wait_in_order(memory_workers):
    async def scenario() -> None:
        workers = memory_workers(rows=2)
        lease = BankClient(Workers(workers).update_bank, 2)
        order: list[str] = []

        async def use(name: str, *names: str) -> None:
            async with lease.acquire(directions(*names)):
                order.append(name)

        async with lease.acquire(directions("a")):
            async with lease.acquire(directions("b")):
                first = asyncio.create_task(use("first", "c", "d"))
                await settle()
                second = asyncio.create_task(use("second", "e"))
                await settle()
                assert order == []
            await settle()
            assert order == [], "the head of the queue needs both rows: nobody overtakes it"
        await asyncio.gather(first, second)
        assert order == ["first", "second"]

    asyncio.run(scenario())


def test_a_request_larger_than_the_bank_is_refused_with_both_numbers(memory_workers):
    async def scenario() -> None:
        lease = BankClient(Workers(memory_workers(rows=2)).update_bank, 2)
        with pytest.raises(InvalidRequestError, match=r"3 directions.*holds 2"):
            async with lease.acquire(directions("a", "b", "c")):
                pass

    asyncio.run(scenario())


def test_a_failed_upload_fails_its_requests_and_leaves_nothing_half_known(memory_workers):
    async def scenario() -> None:
        workers = memory_workers(rows=2)
        lease = BankClient(Workers(workers).update_bank, 2)
        async with lease.acquire(directions("a")):
            pass
        workers.fail_next = RuntimeError("the wire broke")
        with pytest.raises(RuntimeError, match="the wire broke"):
            async with lease.acquire(directions("b", "c")):
                pass
        async with lease.acquire(directions("b")):
            put, drop = workers.called("trait_update_bank")[-1]
            assert put == {"b": b"b"}
            assert {"a", "b", "c"} == set(drop), "rows in an unknown state are dropped before they are filled"
            assert set(workers.bank) == {"b"}
        async with lease.acquire(directions("a", "b")):
            assert set(workers.bank) == {"a", "b"}

    asyncio.run(scenario())


def test_a_request_that_gives_up_while_waiting_holds_no_row(memory_workers):
    async def scenario() -> None:
        workers = memory_workers(rows=1)
        lease = BankClient(Workers(workers).update_bank, 1)

        async def use(name: str) -> None:
            async with lease.acquire(directions(name)):
                await asyncio.Event().wait()

        async with lease.acquire(directions("a")):
            waiting = asyncio.create_task(use("b"))
            await settle()
            waiting.cancel()
            await settle()
        async with asyncio.timeout(1), lease.acquire(directions("c")):
            assert set(workers.bank) == {"c"}

    asyncio.run(scenario())


def test_a_request_that_gives_up_during_its_upload_holds_no_row(memory_workers):
    async def scenario() -> None:
        workers = memory_workers(rows=1)
        lease = BankClient(Workers(workers).update_bank, 1)

        async def use() -> None:
            async with lease.acquire(directions("a")):
                await asyncio.Event().wait()

        workers.gate.clear()
        uploading = asyncio.create_task(use())
        await settle()
        uploading.cancel()
        workers.gate.set()
        await settle()
        async with asyncio.timeout(1), lease.acquire(directions("b")):
            assert set(workers.bank) == {"b"}

    asyncio.run(scenario())


def test_a_storm_of_requests_never_overfills_the_bank(memory_workers):
    async def scenario() -> None:
        workers = memory_workers(rows=5)
        lease = BankClient(Workers(workers).update_bank, 5)

        async def use(i: int) -> None:
            wanted = directions(f"d{i % 11}", f"d{(i * 7) % 11}", f"d{(i * 3) % 11}")
            async with lease.acquire(wanted):
                assert workers.bank.keys() >= wanted.keys()
                for _ in range(i % 5):
                    await asyncio.sleep(0)
                assert workers.bank.keys() >= wanted.keys()

        tasks = [asyncio.create_task(use(i)) for i in range(300)]
        for task in tasks[::17]:
            task.cancel()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in done)

    asyncio.run(scenario())
