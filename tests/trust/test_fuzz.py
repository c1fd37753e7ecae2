"""Whatever arrives, the service answers, never with a 500 or unsteered, and goes on as before. `make fuzz` sends 50,000."""

import json
from collections import Counter
from functools import partial

import pytest
from fuzz_harness import asks_where_none_reads, from_openapi, send_all, served_unsteered, shown, twisted_requests
from trust_harness import MODEL, asked

pytestmark = pytest.mark.engine

PLANNED = 5000
FROM_OPENAPI = 10
"""In a hundred: schemathesis takes a second to get ready for each operation, twice."""
ROUND = 2000
"""Twisted requests that are drawn, held and sent together."""


def test_no_request_is_answered_with_a_500_and_a_canary_answers_as_before(attacked):
    total, number = asked("TRAIT_FUZZ_REQUESTS", PLANNED), asked("TRAIT_FUZZ_SEED", 1)
    before = attacked.canary()
    counted: Counter[int] = Counter()
    asked_elsewhere: Counter[int] = Counter()
    operations: set[str] = set()
    failed: list[str] = []
    drawn = from_openapi(attacked, total * asked("TRAIT_FUZZ_OPENAPI", FROM_OPENAPI) // 100, number)
    starts = range(0, total - len(drawn), ROUND)
    twisted = (partial(twisted_requests, attacked, min(ROUND, total - len(drawn) - at), number + at) for at in starts)
    for draw in (lambda: drawn, *twisted):
        answers = send_all(draw(), asked("TRAIT_FUZZ_AT_ONCE", 24))
        counted.update(sent.status for sent in answers)
        asked_elsewhere.update(sent.status for sent in answers if asks_where_none_reads(sent))
        operations.update(sent.label for sent in answers)
        failed += [f"unsteered: {shown(sent)}" for sent in answers if served_unsteered(sent)]
        failed += [shown(sent) for sent in answers if sent.status == 0 or (sent.status >= 500 and sent.status != 501)]
        elsewhere = f"{asked_elsewhere.total()} ask for steering where nobody reads it: {dict(asked_elsewhere)}"
        print(
            f"\n{counted.total()} requests to {len(operations)} operations: {dict(sorted(counted.items()))}; {elsewhere}"
        )
    assert not failed, f"{len(failed)} of {counted.total()} failed\n" + "\n".join(failed[:40])
    assert counted.total() >= total
    assert min(counted[200], counted[400]) > total * 0.02, counted
    assert asked_elsewhere[400] > total * 0.02, asked_elsewhere
    assert attacked.service.process.poll() is None
    assert attacked.canary() == before


def test_every_refusal_of_the_fuzz_has_openais_body(attacked):
    answers = send_all(twisted_requests(attacked, asked("TRAIT_FUZZ_BODIES", 150), 2))
    refused = [sent for sent in answers if sent.status >= 400]
    assert len(refused) > len(answers) / 4
    for sent in refused:
        error = json.loads(sent.answer)["error"] if len(sent.answer) < 2000 else {}
        if sent.label.endswith("/v1/messages") and error.keys() == {"type", "message"}:
            continue  # vLLM's route for Anthropic's clients refuses in the words of those
        assert {"message", "type", "param", "code"} <= set(error), shown(sent)
        assert error["code"] == sent.status, shown(sent)


def test_where_vllm_takes_a_shape_for_granted_the_answer_is_a_400_and_the_connection_stays(attacked):
    with attacked.client() as client:
        for value in ([{"a": 1}], "a"):
            body = {"model": MODEL, "prompt": "One", "structured_outputs": value}
            answer = client.post("/v1/completions", json=body)
            assert answer.status_code == 400
        assert client.get("/v1/models").status_code == 200
    assert "AttributeError at " in attacked.service.log.read_text()
