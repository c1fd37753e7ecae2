"""Reports of many finished requests travel together, and none is invented."""

import asyncio

import numpy as np
import pytest
from trait_core.errors import SteeringFailedError
from trait_service.engine_link.result_fetcher import ResultFetcher
from trait_service.engine_link.workers import Rows, Workers


def result(key: str, **fields: object) -> dict:
    return {
        "key": key,
        "n_prompt": 3,
        "steered_prompt": 3,
        "steered_generated": 1,
        "steered_cached": 0,
        "acted": ((3, 1),),
        "error": None,
        "bound_hits": (),
    } | fields


def collector_over(workers) -> ResultFetcher:
    rpc = Workers(workers)
    return ResultFetcher(rpc.collect, rpc.discard, rpc.projections)


def test_requests_that_finish_together_share_calls_and_one_is_in_flight(memory_workers):
    async def scenario() -> None:
        workers = memory_workers()
        workers.results = {f"k{i}": result(f"k{i}", steered_prompt=i) for i in range(40)}
        fetcher = collector_over(workers)
        collected = await asyncio.gather(*(fetcher.collect(f"k{i}", [1]) for i in range(40)))
        assert [item.report.steered_prompt for item in collected] == list(range(40))
        assert len(workers.called("trait_collect")) <= 2
        assert workers.most_in_flight == 1

    asyncio.run(scenario())


def test_a_capture_comes_with_its_report(memory_workers):
    async def scenario() -> None:
        workers = memory_workers()
        workers.results = {"k": result("k")}
        workers.captures = {"k": np.full((2, 3, 4), 7, np.float32)}
        collected = await collector_over(workers).collect("k", [1])
        assert collected.capture.mean.shape == (2, 3, 4)
        assert collected.capture.norm.shape == (2, 3)

    asyncio.run(scenario())


def test_projections_of_requests_that_run_travel_together_after_what_is_known(memory_workers):
    async def scenario() -> None:
        workers = memory_workers()
        workers.running = {f"k{i}": np.full((5, 2), i, np.float32) for i in range(3)}
        fetcher = collector_over(workers)
        rows = await asyncio.gather(*(fetcher.projections(f"k{i}", i) for i in range(3)))
        assert [(r.projections[0].shape, float(r.projections[0][0, 0])) for r in rows] == [
            ((5, 2), 0.0),
            ((4, 2), 1.0),
            ((3, 2), 2.0),
        ]
        assert len(workers.called("trait_projections")) <= 2
        assert await fetcher.projections("gone", 0) == Rows()

    asyncio.run(scenario())


def test_a_request_without_a_report_has_failed(memory_workers):
    async def scenario() -> None:
        with pytest.raises(SteeringFailedError, match="no report"):
            await collector_over(memory_workers()).collect("unknown", [1])

    asyncio.run(scenario())


def test_a_report_with_an_error_fails_the_request(memory_workers):
    async def scenario() -> None:
        workers = memory_workers()
        workers.results = {"k": result("k", error="no such row")}
        with pytest.raises(SteeringFailedError, match="no such row"):
            await collector_over(workers).collect("k", [1])

    asyncio.run(scenario())


def test_a_broken_call_fails_those_that_wait_and_no_one_after(memory_workers):
    async def scenario() -> None:
        workers = memory_workers()
        workers.results = {"a": result("a"), "b": result("b")}
        fetcher = collector_over(workers)
        workers.fail_next = RuntimeError("the wire broke")
        with pytest.raises(SteeringFailedError, match="the wire broke"):
            await fetcher.collect("a", [1])
        assert (await fetcher.collect("b", [1])).report.key == "b"

    asyncio.run(scenario())


def test_an_aborted_request_is_forgotten_in_the_workers(memory_workers):
    async def scenario() -> None:
        workers = memory_workers()
        workers.results = {"gone": result("gone")}
        fetcher = collector_over(workers)
        fetcher.discard("gone")
        for _ in range(5):
            await asyncio.sleep(0)
        assert workers.results == {}

    asyncio.run(scenario())
