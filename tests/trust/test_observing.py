"""What an operator sees of a request: a line of the log, and a span of ours beside vLLM's where traces are configured."""

import json

import pytest
from fake_collector import SpanCollector, attributes
from trust_harness import MODEL, quickly

pytestmark = pytest.mark.engine

PARENT = "0af7651916cd43dd8448eb211c80319c"
SECRET = "zebracornucopia"


def ours(collector: SpanCollector) -> list:
    return [span for span in collector.spans() if span.trace_id.hex() == PARENT]


def test_a_steered_request_has_a_span_of_what_was_applied_and_no_text(attacked, collector):
    body = {"model": MODEL, "prompt": SECRET, "max_tokens": 3, "ignore_eos": True}
    body["steering"] = {"terms": [{"vector": "canary", "coefficient": 2.0}]}
    with attacked.client(headers={"traceparent": f"00-{PARENT}-b7ad6b7169203331-01"}) as client:
        answer = client.post("/v1/completions", json=body).raise_for_status().json()
    assert quickly(lambda: {"trait_steering", "llm_request"} <= {span.name for span in ours(collector)}, 30)
    (span,) = (span for span in ours(collector) if span.name == "trait_steering")
    told = attributes(span)
    term = answer["steering"]["applied"][0]
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert (told["trait.terms"], told["trait.layers"], told["trait.operations"]) == (1, [12], ["add"])
    assert told["trait.vectors"] == [term["sha256"]]
    assert told["trait.relative_dose.max"] == pytest.approx(term["relative_dose"])
    assert told["trait.positions.prompt"] == answer["usage"]["prompt_tokens"]
    assert told["trait.positions.generated"] == 2
    assert not any(SECRET.encode() in data or attacked.key.encode() in data for data in collector.raw)


def test_a_plain_request_has_vllms_span_alone(attacked, collector):
    before = len([span for span in collector.spans() if span.name == "trait_steering"])
    with attacked.client() as client:
        answer = client.post("/v1/completions", json={"model": MODEL, "prompt": "One", "max_tokens": 1})
    plain = answer.raise_for_status().json()["id"]

    def named() -> list[str]:
        found = [(span.name, attributes(span).get("gen_ai.request.id", "")) for span in collector.spans()]
        return [name for name, request_id in found if request_id.startswith(plain)]

    assert quickly(lambda: named() == ["llm_request"], 30)
    assert len([span for span in collector.spans() if span.name == "trait_steering"]) == before


def test_a_request_leaves_one_line_in_the_log_with_neither_text_nor_key(attacked):
    body = {"model": MODEL, "prompt": SECRET, "max_tokens": 1}
    with attacked.client(headers={"X-Request-Id": "seen.in-the_log"}) as client:
        assert client.post("/v1/completions", json=body).headers["X-Request-Id"] == "seen.in-the_log"
    # Written once the answer is out.
    assert quickly(lambda: "seen.in-the_log" in attacked.service.log.read_text(), 30)
    log = attacked.service.log.read_text()
    (line,) = (line for line in log.splitlines() if '"request_id": "seen.in-the_log"' in line)
    told = json.loads(line[line.index("{") :])
    assert told.pop("seconds") > 0
    assert told == {
        "request_id": "seen.in-the_log", "key": "attacker", "operation": "POST /v1/completions", "status": 200,
    }  # fmt: skip
    assert SECRET not in log
    assert attacked.key not in log
