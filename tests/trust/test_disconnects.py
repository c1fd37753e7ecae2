"""A client that goes leaves nothing behind. `make test-hostile` lets 300 go."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from trait_core.vectors.inline import inline_vector
from trust_harness import MODEL, QUESTION, Target, asked, quickly

pytestmark = pytest.mark.engine

STEERING = {"terms": [{"vector": "canary", "coefficient": 1.0}]}
MONITOR = {"vectors": ["canary"]}
ABORTS = 0.1
"""One in ten is not a client that goes, but an operator who stops everything that runs."""


def new_vector(draw: random.Random) -> dict[str, str]:
    """A direction that the service has not seen."""
    return inline_vector([draw.gauss(0, 1) for _ in range(576)]).model_dump()


def leave(target: Target, draw: random.Random) -> str:
    """One request of a kind drawn, left after a time drawn: before, in the middle of, or after its answer."""
    generate: dict[str, Any] = {"model": MODEL, "max_tokens": 16, "ignore_eos": True, "steering": STEERING}
    term = STEERING["terms"][0] | {"layers": [12]}
    gate = {"vector": "canary", "above": -1e6, "centred": False, "hold": draw.choice(["token", "latch", "prompt"])}
    added = {"vector": new_vector(draw), "at": draw.choice(["attn_out", "mlp_out"]), "operation": "replace"}
    kinds = {
        "stream": ("/v1/completions", {**generate, "prompt": "One", "stream": True}),
        "whole": ("/v1/completions", {**generate, "prompt": ["One", "Two", "Three"]}),
        "several": ("/v1/chat/completions", {**generate, "messages": QUESTION, "n": 3, "temperature": 1.0}),
        "monitor": ("/v1/completions", {**generate, "prompt": "One", "monitor": MONITOR, "stream": True}),
        "gated": ("/v1/completions", generate | {"prompt": "One", "stream": True, "steering": {"terms": [
            term | {"layers": [13], "vector": new_vector(draw), "when": gate}
        ]}}),
        "inline": ("/v1/completions", generate | {"prompt": ["One", "Two"], "steering": {"terms": [
            term | added, term | {"vector": ["canary", new_vector(draw)], "operation": "ablate"}
        ]}}),
        "patch": ("/v1/patch", {
            "source": {"text": "The capital of France is", "answer": " Paris"},
            "target": {"text": "The capital of Italy is", "answer": " Rome"},
            "layers": [3, 12], "at": ["resid_post", draw.choice(["attn_out", "mlp_out"])],
        }),
        "capture": ("/v1/activations", {"inputs": [{"text": "One two three " * 20}] * 8, "positions": ["all[:]"]}),
        "each": ("/v1/activations", {"inputs": [{"text": "One two"}] * 4, "positions": ["all[:]"], "pooling": "none"}),
        "reply": (
            "/v1/activations",
            {"inputs": [{"text": "One"}] * 4, "positions": ["response[:]"], "generate": {"max_tokens": 16}},
        ),
    }  # fmt: skip
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


def test_rows_captures_and_blocks_are_back_after_random_disconnects_and_aborts(attacked):
    n = asked("TRAIT_DISCONNECTS", 24)
    before = attacked.settled()
    canary = attacked.canary()
    draw = random.Random(11)
    lock = threading.Lock()

    def one(_: int) -> str:
        with lock:
            mine = random.Random(draw.random())
        return abort(attacked) if mine.random() < ABORTS else leave(attacked, mine)

    with ThreadPoolExecutor(12) as pool:
        ways = list(pool.map(one, range(n)))
    after = attacked.settled(before)
    print(f"\n{n} requests left: { ({way: ways.count(way) for way in set(ways)}) }; before {before}, after {after}")
    assert after == before
    assert set(ways) <= {"left", "503", "abort 200"}
    assert ways.count("left") > n * 0.7
    assert ways.count("abort 200") > 0
    assert attacked.canary() == canary


def test_a_request_that_is_aborted_before_it_runs_gets_a_503(attacked):
    body = {"model": MODEL, "prompt": "One", "max_tokens": 16, "ignore_eos": True, "steering": STEERING}
    before = attacked.settled()
    with ThreadPoolExecutor(96) as pool, attacked.client() as client:
        answers = [pool.submit(client.post, "/v1/completions", json=body) for _ in range(96)]
        assert quickly(lambda: attacked.metric("vllm:num_requests_waiting") > 0, 30), (
            "more than the engine runs at once"
        )
        assert abort(attacked) == "abort 200"
        statuses = [answer.result().status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert attacked.settled(before) == before
