"""Requests of sixty configurations over shared prefixes, at once: each equals its own run with a cache of its own.

48 of 24 configurations here, 500 of 60 in `make test-hostile` (TRAIT_INTERLEAVED).
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from configurations import Configuration, configurations, register
from trust_harness import MODEL, Target, asked

pytestmark = pytest.mark.engine

TOLERANCE = 2e-3
"""Largest difference of a log-probability; the service computes in float32."""
UNSTEERED = Configuration("unsteered", {}, shares=True, gated=False)
AT_ONCE = 24
TAILS = ("The next ship", "Nobody knows", "In the end")
TEXTS = (
    "The harbour has three piers, and a crane stands at the end of each. ",
    "A good soup begins with onions, which must be cut small and fried slowly. ",
)
PREFIXES = [(text * 12)[:560] for text in TEXTS]
"""Over a block of 128 tokens each, and less than the context."""


def prompts() -> list[str]:
    """Every tail behind every prefix."""
    return [prefix + tail for tail, prefix in itertools.product(TAILS, PREFIXES)]


def ask(target: Target, configuration: Configuration, prompt: str, **fields: Any) -> dict[str, Any]:
    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": 8,
        "temperature": 0,
        "logprobs": 1,
        "return_token_ids": True,
    }
    with target.client(timeout=600) as client:
        answer = client.post("/v1/completions", json=body | configuration.fields | fields)
    assert answer.status_code == 200, f"{configuration.name}: {answer.text}"
    return answer.json()


def tokens(answer: dict[str, Any]) -> list[int]:
    return answer["choices"][0]["token_ids"]


def difference(answer: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference of a token's log-probability, infinite where the tokens are not the same."""
    if tokens(answer) != tokens(other):
        return np.inf
    one, two = (np.array(each["choices"][0]["logprobs"]["token_logprobs"]) for each in (answer, other))
    return float(np.abs(one - two).max())


def cached(answer: dict[str, Any]) -> int:
    return (answer["usage"]["prompt_tokens_details"] or {}).get("cached_tokens") or 0


def assert_same_report(got: dict[str, Any], own: dict[str, Any], *, complete: bool) -> None:
    """All counts; where a gate's decisions at cached positions are not known, those of the prompt are at most its own run's."""
    if "steering" not in own:
        assert "steering" not in got
        return
    one, other = got["steering"], own["steering"]
    for left, right in zip(one["applied"], other["applied"], strict=True):
        assert {**left, "acted": None} == {**right, "acted": None}
        assert left["acted"]["generated"] == right["acted"]["generated"]
        assert (
            left["acted"]["prompt"] == right["acted"]["prompt"]
            if complete
            else left["acted"]["prompt"] <= right["acted"]["prompt"]
        )
    assert one["positions"]["generated"] == other["positions"]["generated"]
    assert one["positions"]["prompt"] == other["positions"]["prompt"] or not complete


def assert_same_projections(got: dict[str, Any], own: dict[str, Any]) -> None:
    if "monitor" not in own:
        assert "monitor" not in got
        return
    assert got["monitor"]["directions"] == own["monitor"]["directions"]
    for part in ("prompt", "generated"):
        one, other = (np.array(each["monitor"]["choices"][0][part]) for each in (got, own))
        np.testing.assert_allclose(one, other, atol=2e-3, rtol=1e-3)


def test_each_of_many_interleaved_requests_equals_its_own_run_with_a_cache_of_its_own(attacked):
    register(attacked)
    total, before = asked("TRAIT_INTERLEAVED", 48), attacked.settled()
    given, texts = configurations(min(60, total // 2), attacked.info.d_model), prompts()
    # Each pair of a configuration and a prompt comes twice, a whole round apart: the second may read what the first wrote.
    asks = [(i % len(given), (i + i // len(given) // 2) % len(texts)) for i in range(total)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda each: ask(attacked, given[each[0]], texts[each[1]]), asks))
    own = {(c, p): ask(attacked, given[c], texts[p], cache_salt=f"own {c} {p}") for c, p in dict.fromkeys(asks)}
    plain = [ask(attacked, UNSTEERED, text, cache_salt="plain") for text in texts]
    after = attacked.settled(before)
    counted = {True: 0, False: 0}
    for each, answer in zip(asks, answers, strict=True):
        configuration, alone = given[each[0]], own[each]
        assert cached(alone) == 0
        counted[configuration.shares] += cached(answer)
        assert difference(answer, alone) < TOLERANCE, configuration.name
        assert_same_report(answer, alone, complete=not (configuration.gated and cached(answer)))
        assert_same_projections(answer, alone)
    moved = [each for each in own if difference(own[each], plain[each[1]]) > 5 * TOLERANCE]
    worst = max(difference(answer, own[each]) for each, answer in zip(asks, answers, strict=True))
    print(
        f"\n{total} requests of {len(given)} configurations; {len(moved)} of {len(own)} own runs differ from the plain model; largest "
        f"difference from an own run {worst:.1e}; {counted[True]} tokens came from the cache"
    )
    assert counted[True] > 0
    assert counted[False] == 0, "a latch, a gate on the prompt's mean, or a monitored prompt reads nothing"
    assert len(moved) > len(own) / 2, "steering shows"
    assert after == before
