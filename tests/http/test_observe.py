"""Request ids, the log of requests, and what the metrics count."""

import asyncio
import json
import re

import pytest
from asgi_harness import call
from fastapi import FastAPI, Request
from prometheus_client import REGISTRY
from trait_core.schema import SteeringTerm
from trait_service.access.keys import Keyring, plain_key
from trait_service.access.middleware import ApiKeyGuard
from trait_service.access.observe import Observer
from trait_service.metrics import count_run
from trait_service.resolving.resolve import ResolvedSteering, ResolvedTerm

SECRET = "ts-hunter2"


def application(*, log_requests: bool = False) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/completions")
    async def complete(request: Request) -> dict:
        return {"ids": request.headers.getlist("x-request-id")}

    app.add_middleware(ApiKeyGuard, keys=Keyring([plain_key(SECRET, 1)]))
    app.add_middleware(Observer, log_requests=log_requests)
    return app


def send(app, *, key: str | None = SECRET, ids: tuple[bytes, ...] = (), path: str = "/v1/completions"):
    headers = tuple((b"x-request-id", given) for given in ids)
    return asyncio.run(call(app, "POST", path, key, headers=headers, body=b'{"prompt": "my prompt"}'))


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_callers_id_goes_to_the_route_and_back():
    reached = send(application(), ids=(b"trial-7.a_B",))
    assert json.loads(reached.body)["ids"] == ["trial-7.a_B"]
    assert dict(reached.headers)[b"x-request-id"] == b"trial-7.a_B"


@pytest.mark.parametrize(
    "ids", [(), (b"",), (b"a b",), (b"x" * 65,), (b"\xff",), (b"a\nb",), (b"a", b"b"), (b"'; --",)]
)
def test_any_other_id_is_replaced(ids):
    reached = send(application(), ids=ids)
    (seen,) = json.loads(reached.body)["ids"]
    assert re.fullmatch(r"[0-9a-f]{32}", seen)
    assert [value for name, value in reached.headers if name == b"x-request-id"] == [seen.encode()]


def test_a_refusal_has_an_id_and_is_counted():
    before = metric("trait_refusals_total", status="401")
    reached = send(application(), key="wrong")
    assert reached.status == 401
    assert b"x-request-id" in dict(reached.headers)
    assert metric("trait_refusals_total", status="401") == before + 1


def test_the_log_says_who_what_and_how_it_ended_and_nothing_else(caplog):
    caplog.set_level("INFO", logger="trait_service.access.observe")
    app = application(log_requests=True)
    send(app, ids=(b"one",))
    send(app, key="wrong-key", ids=(b"two",), path="/my-secret-path?query=1")
    # By id: leftovers of other tests in this process may add lines, or a second handler.
    lines = [json.loads(record.message) for record in caplog.records if record.name == "trait_service.access.observe"]
    found = {line["request_id"]: line for line in lines}
    first, second = found["one"], found["two"]
    assert (first["key"], first["operation"], first["status"]) == ("api-key-1", "POST /v1/completions", 200)
    assert (second["key"], second["operation"], second["status"]) == (None, None, 401)
    for word in (SECRET, "wrong-key", "my-secret-path", "query", "prompt"):
        assert word not in json.dumps([first, second])


def test_without_the_option_nothing_is_logged(caplog):
    caplog.set_level("INFO")
    send(application())
    assert "trait_service" not in " ".join(record.name for record in caplog.records)


def test_terms_and_doses_are_counted():
    applied = ResolvedTerm(
        vector="tone", sha256="sha256:" + "0" * 64, layer=2, operation="add", unit="dose", coefficient=2.0, a=3.0,
        relative_dose=0.2, scope="all", asked=SteeringTerm(vector="tone", coefficient=2.0),
        direction="0" * 64, raw=b"",
    )  # fmt: skip
    names = (
        ("trait_requests_total", {"kind": "steered"}),
        ("trait_requests_total", {"kind": "captured"}),
        ("trait_terms_total", {"operation": "add"}),
        ("trait_relative_dose_sum", {}),
        ("trait_captures_total", {}),
    )
    before = [metric(name, **labels) for name, labels in names]
    count_run(ResolvedSteering((applied, applied)), monitored=False, captured=True)
    after = [metric(name, **labels) for name, labels in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx([1, 1, 2, 0.4, 1])
