"""Four times what the service can do, for a while: it refuses in time, and is itself again. `make test-overload`: two minutes."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

import httpx
import pytest
from trait_client.http.calls import KEEPALIVE_SECONDS
from trait_service.access.keys import ALL_SCOPES, KeyFile
from trust_harness import MODEL, Target, asked, target

pytestmark = pytest.mark.engine

AT_ONCE = 32
"""Requests that the service takes at once; the engine runs as many."""
PER_MINUTE = 10
"""Of the key that asks too often."""
BODY = {
    "model": MODEL,
    "prompt": "One two three",
    "max_tokens": 8,
    "ignore_eos": True,
    "steering": {"terms": [{"vector": "canary", "coefficient": 1.0}]},
}


@dataclass(frozen=True)
class Answer:
    """Status, or 0 where the connection broke, and what the caller is told about coming back."""

    status: int
    retry_after: str | None
    text: str


async def ask(client: httpx.AsyncClient, headers: dict[str, str]) -> Answer:
    try:
        answer = await client.post("/v1/completions", json=BODY, headers=headers)
    except httpx.TransportError as error:
        return Answer(0, None, repr(error))
    return Answer(answer.status_code, answer.headers.get("Retry-After"), answer.text)


def session(found: Target) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200, keepalive_expiry=KEEPALIVE_SECONDS)
    return httpx.AsyncClient(base_url=found.url, timeout=120, limits=limits, trust_env=False)


async def capacity(found: Target, seconds: float) -> float:
    """Requests a second that are served when as many run as may."""
    served = 0
    began = time.monotonic()

    async def again(client: httpx.AsyncClient) -> None:
        nonlocal served
        while time.monotonic() - began < seconds:
            answer = await ask(client, found.headers)
            assert answer.status == 200, answer
            served += 1

    async with session(found) as client:
        await asyncio.gather(*(again(client) for _ in range(AT_ONCE)))
    return served / (time.monotonic() - began)


async def offer(found: Target, hasty: dict[str, str], rate: float, seconds: float) -> tuple[list[Answer], list[float]]:
    """Answers to `rate` requests a second, one in ten with the key that asks too often; memory in MiB, every second."""
    memory: list[float] = []
    began = time.monotonic()

    async def watch() -> None:
        while True:
            memory.append(await asyncio.to_thread(found.resident_mib))
            await asyncio.sleep(1)

    async with session(found) as client:
        watching = asyncio.create_task(watch())
        running = []
        while (elapsed := time.monotonic() - began) < seconds:
            while len(running) < elapsed * rate:
                headers = hasty if len(running) % 10 == 9 else found.headers
                running.append(asyncio.create_task(ask(client, headers)))
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*running)
        watching.cancel()
    return answers, memory


def test_four_times_the_load_is_refused_in_time_and_leaves_nothing_behind(smollm2_path, tmp_path):
    seconds = asked("TRAIT_OVERLOAD_SECONDS", 15)
    hasty_key = KeyFile(tmp_path / "keys.json").create("hasty", ALL_SCOPES - {"admin"}, requests_per_minute=PER_MINUTE)
    hasty = {"Authorization": f"Bearer {hasty_key}"}
    with target(smollm2_path, tmp_path, "--max-in-flight", str(AT_ONCE)) as found:
        before, canary = found.settled(), found.canary()
        can = asyncio.run(capacity(found, min(20, seconds / 2)))
        answers, memory = asyncio.run(offer(found, hasty, 4 * can, seconds))
        ended = time.monotonic()
        after = found.settled(before)
        again = found.canary()
        recovered = time.monotonic() - ended
    counted = Counter(answer.status for answer in answers)
    print(
        f"\ncapacity {can:.1f} requests a second; {len(answers)} in {seconds} s: {dict(counted)}; memory {memory[0]:.0f}, at most "
        f"{max(memory):.0f}, in the end {memory[-1]:.0f} MiB; idle again, with a canary's answers, {recovered:.1f} s after the last one"
    )
    assert len(answers) > 3 * can * seconds
    assert set(counted) == {200, 429, 503}, [answer for answer in answers if answer.status not in (200, 429, 503)][:5]
    assert all((answer.retry_after or "").isdigit() for answer in answers if answer.status != 200)
    # A tenth: other tests may have come to this machine since its capacity was measured.
    assert counted[200] > can * seconds / 10, "the service goes on serving"
    assert memory[-1] - memory[len(memory) // 4] < 0.02 * memory[0] + 20
    assert (after, again) == (before, canary)
