"""How much may be asked for at once, and that a refusal says when to come back."""

import asyncio
import json

import pytest
from asgi_harness import call
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from trait_service.access.admission import AdmissionGuard, InFlight, RateLimits, claim_completions
from trait_service.access.keys import ANYONE, Keyring, plain_key
from trait_service.access.middleware import ApiKeyGuard
from trait_service.settings import ServiceSettings
from vllm.exceptions import VLLMValidationError


def key(name: str, **fields: object):
    return plain_key(name, 1).model_copy(update={"name": name, **fields})


class Gate:
    """An application whose one route waits until it is let go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.app = FastAPI()
        self.app.add_api_route("/v1/completions", self.answer, methods=["POST", "GET"])

    async def answer(self) -> StreamingResponse:
        async def chunks():
            yield b"data: 1\n\n"
            await self.open.wait()
            yield b"data: 2\n\n"

        return StreamingResponse(chunks(), media_type="text/event-stream")


def header(reached, name: bytes) -> str | None:
    return dict(reached.headers).get(name, b"").decode() or None


def test_a_minutes_worth_may_come_at_once_and_then_evenly():
    now = [0.0]
    rates = RateLimits(60, clock=lambda: now[0])
    assert [rates.wait(ANYONE) for _ in range(61)] == [0] * 60 + [1]
    now[0] += 1.0
    assert [rates.wait(ANYONE) for _ in range(2)] == [0, 1]
    now[0] += 3600.0
    assert sum(rates.wait(ANYONE) == 0 for _ in range(100)) == 60


def test_keys_do_not_spend_each_others_requests():
    now = [0.0]
    rates = RateLimits(1, clock=lambda: now[0])
    generous = key("generous", requests_per_minute=1000)
    assert [rates.wait(key("a")), rates.wait(key("a")), rates.wait(key("b"))] == [0, 60, 0]
    assert [rates.wait(generous) for _ in range(20)] == [0] * 20


def test_without_a_limit_nothing_is_counted():
    rates = RateLimits(None)
    assert [rates.wait(ANYONE) for _ in range(1000)] == [0] * 1000


def test_a_key_over_its_rate_gets_429_and_when_to_come_back():
    gate = Gate()
    gate.open.set()
    gate.app.add_middleware(AdmissionGuard, settings=ServiceSettings(requests_per_minute=2), in_flight=InFlight(8))
    gate.app.add_middleware(ApiKeyGuard, keys=Keyring([key("one"), key("two", requests_per_minute=30)]))

    async def go():
        return [await call(gate.app, "POST", "/v1/completions", "one") for _ in range(3)], await call(
            gate.app, "POST", "/v1/completions", "two"
        )

    of_one, of_two = asyncio.run(go())
    assert [reached.status for reached in of_one] == [200, 200, 429]
    assert header(of_one[-1], b"retry-after") == "30"
    error = json.loads(of_one[-1].body)["error"]
    assert (error["type"], error["code"]) == ("RateLimitError", 429)
    assert of_two.status == 200


def test_a_full_service_answers_503_at_once_and_takes_requests_again_when_streams_end():
    gate = Gate()
    in_flight = InFlight(3)
    gate.app.add_middleware(AdmissionGuard, settings=ServiceSettings(), in_flight=in_flight)

    async def go():
        streams = [asyncio.create_task(call(gate.app, "POST", "/v1/completions")) for _ in range(3)]
        await asyncio.sleep(0.05)
        refused = [await call(gate.app, "POST", "/v1/completions") for _ in range(5)]
        read = asyncio.create_task(call(gate.app, "GET", "/v1/completions"))
        await asyncio.sleep(0.05)
        counted = in_flight.count
        gate.open.set()
        done = await asyncio.gather(*streams, read)
        return refused, done, counted, await call(gate.app, "POST", "/v1/completions")

    refused, done, counted, after = asyncio.run(go())
    assert [reached.status for reached in refused] == [503] * 5
    assert {header(reached, b"retry-after") for reached in refused} == {"2"}
    assert json.loads(refused[0].body)["error"]["type"] == "ServiceUnavailableError"
    assert [reached.status for reached in done] == [200] * 4
    assert (counted, after.status, in_flight.count) == (3, 200, 0)


def test_a_client_that_goes_frees_its_place():
    gate = Gate()
    in_flight = InFlight(1)
    gate.app.add_middleware(AdmissionGuard, settings=ServiceSettings(), in_flight=in_flight)

    async def go():
        stream = asyncio.create_task(call(gate.app, "POST", "/v1/completions"))
        await asyncio.sleep(0.05)
        assert in_flight.count == 1
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)

    asyncio.run(go())
    assert in_flight.count == 0


@pytest.mark.parametrize(
    ("asked", "message"), [([129], "n is 129"), ([100] * 11, "1100 completions"), ([1] * 1025, "1025 completions")]
)
def test_the_completions_of_one_request_are_bounded_whatever_the_route(asked, message):
    app = FastAPI()
    refused = []

    @app.post("/inference/v1/generate")
    async def generate() -> None:
        try:
            for n in asked:
                claim_completions(n)
        except VLLMValidationError as error:
            refused.append(str(error))

    app.add_middleware(AdmissionGuard, settings=ServiceSettings(max_completions=1024), in_flight=InFlight(8))
    asyncio.run(call(app, "POST", "/inference/v1/generate"))
    assert message in refused[0]


def test_requests_are_counted_apart():
    app = FastAPI()

    @app.post("/v1/completions")
    async def complete() -> None:
        for _ in range(8):
            claim_completions(1)

    app.add_middleware(AdmissionGuard, settings=ServiceSettings(max_completions=8), in_flight=InFlight(8))

    async def go():
        return await asyncio.gather(*(call(app, "POST", "/v1/completions") for _ in range(8)))

    assert [reached.status for reached in asyncio.run(go())] == [200] * 8
