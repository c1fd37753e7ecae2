"""A client that goes leaves nothing behind. `make test-hostile` lets 300 go."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from trust_lab import MODEL, QUESTION, Target, asked

pytestmark = pytest.mark.engine

STEERING = {"terms": [{"vector": "canary", "coefficient": 1.0}]}
MONITOR = {"vectors": ["canary"]}


def leave(target: Target, draw: random.Random) -> str:
    """One request of a kind drawn, left after a time drawn: before, in the middle of, or after its answer."""
    generate: dict[str, Any] = {"model": MODEL, "max_tokens": 16, "ignore_eos": True, "steering": STEERING}
    kinds = {
        "stream": ("/v1/completions", {**generate, "prompt": "One", "stream": True}),
        "whole": ("/v1/completions", {**generate, "prompt": ["One", "Two", "Three"]}),
        "several": ("/v1/chat/completions", {**generate, "messages": QUESTION, "n": 3, "temperature": 1.0}),
        "monitor": ("/v1/completions", {**generate, "prompt": "One", "monitor": MONITOR, "stream": True}),
        "capture": ("/v1/activations", {"inputs": [{"text": "One two three " * 20}] * 8, "positions": ["all[:]"]}),
        "each": ("/v1/activations", {"inputs": [{"text": "One two"}] * 4, "positions": ["all[:]"], "pooling": "none"}),
        "reply": (
            "/v1/activations",
            {"inputs": [{"text": "One"}] * 4, "positions": ["response[:]"], "generate": {"max_tokens": 16}},
        ),
    }
    name = draw.choice(sorted(kinds))
    path, body = kinds[name]
    wait = draw.uniform(0.0, 1.5)
    try:
        with target.client(timeout=httpx.Timeout(wait + 0.01, connect=30)) as client:
            with client.stream("POST", path, json=body) as answer:
                deadline = time.monotonic() + wait
                for _ in answer.iter_raw():
                    if time.monotonic() > deadline:
                        break
            return "left" if answer.status_code == 200 else str(answer.status_code)
    except httpx.TimeoutException:
        return "left"


def abort(target: Target) -> str:
    """What an operator may do: stop everything that runs."""
    headers = {"Authorization": f"Bearer {target.admin}"}
    answer = httpx.post(f"{target.url}/abort_requests", json={}, headers=headers, timeout=60)
    return f"abort {answer.status_code}"


def test_rows_captures_and_blocks_are_back_after_random_disconnects(attacked):
    n = asked("TRAIT_DISCONNECTS", 20)
    before = attacked.settled()
    canary = attacked.canary()
    draw = random.Random(11)
    lock = threading.Lock()

    def one(_: int) -> str:
        with lock:
            mine = random.Random(draw.random())
        return abort(attacked) if mine.random() * 100 < asked("TRAIT_ABORTS_PERCENT", 0) else leave(attacked, mine)

    with ThreadPoolExecutor(12) as pool:
        ways = list(pool.map(one, range(n)))
    after = attacked.settled(before)
    print(f"\n{n} requests left: { ({way: ways.count(way) for way in set(ways)}) }; before {before}, after {after}")
    assert after == before
    assert ways.count("left") > n * 0.7
    assert attacked.canary() == canary
