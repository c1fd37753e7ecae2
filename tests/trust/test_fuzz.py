"""Whatever arrives, the service answers, never with a 500, and goes on as before. `make fuzz` sends 50,000."""

import json
from collections import Counter

import pytest
from fuzz_lab import from_openapi, send_all, shown, twisted_requests
from trust_lab import asked

pytestmark = pytest.mark.engine

PLANNED = 500
FROM_OPENAPI = 10
"""In a hundred: schemathesis takes a second to get ready for each operation, twice."""


def test_no_request_is_answered_with_a_500_and_a_canary_answers_as_before(attacked):
    total = asked("TRAIT_FUZZ_REQUESTS", PLANNED)
    before = attacked.canary()
    drawn = from_openapi(
        attacked, total * asked("TRAIT_FUZZ_OPENAPI", FROM_OPENAPI) // 100, asked("TRAIT_FUZZ_SEED", 1)
    )
    drawn += twisted_requests(attacked, total - len(drawn), asked("TRAIT_FUZZ_SEED", 1))
    answers = send_all(drawn, asked("TRAIT_FUZZ_AT_ONCE", 24))
    counted = Counter(sent.status for sent in answers)
    print(
        f"\n{len(answers)} requests to {len({sent.label for sent in answers})} operations: {dict(sorted(counted.items()))}"
    )
    failed = [sent for sent in answers if sent.status == 0 or (sent.status >= 500 and sent.status != 501)]
    assert not failed, f"{len(failed)} of {len(answers)} failed\n" + "\n".join(map(shown, failed[:40]))
    assert len(answers) > total * 0.8
    assert min(counted[200], counted[400]) > total * 0.02, counted
    assert attacked.service.process.poll() is None
    assert attacked.canary() == before


def test_every_refusal_of_the_fuzz_has_openais_body(attacked):
    answers = send_all(twisted_requests(attacked, asked("TRAIT_FUZZ_BODIES", 150), 2))
    refused = [sent for sent in answers if sent.status >= 400]
    assert len(refused) > len(answers) / 4
    for sent in refused:
        error = json.loads(sent.answer)["error"] if len(sent.answer) < 2000 else {}
        assert {"message", "type", "param", "code"} <= set(error), shown(sent)
        assert error["code"] == sent.status, shown(sent)
