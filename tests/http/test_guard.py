"""What every request passes: the key, the size of its body, and JSON that can be answered."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI, Request
from trait_service.access.keys import Keyring, plain_key
from trait_service.access.middleware import ApiKeyGuard, BodyGuard


def keyring(*texts: str) -> Keyring:
    return Keyring([plain_key(text, i) for i, text in enumerate(texts)])


def application(*, root_path: str = "") -> FastAPI:
    app = FastAPI(root_path=root_path)

    @app.get("/v1/health/live")
    async def live() -> dict:
        return {"live": True}

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "OPTIONS"])
    async def anything(path: str, request: Request) -> dict:
        return {"path": path, "size": len(await request.body())}

    return app


def send(app, method: str, path: str, **options: object) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, **options)

    return asyncio.run(go())


@pytest.fixture
def keyed():
    app = application()
    app.add_middleware(ApiKeyGuard, keys=keyring("one", "two"))
    return app


@pytest.fixture
def bounded():
    app = application()
    app.add_middleware(BodyGuard, max_bytes=1000)
    return app


@pytest.mark.parametrize(
    "path",
    ["/v1/vectors", "/metrics", "/docs", "/", "/v1/health/live/", "/v1/health/liver", "//v1/health/live", "//health"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_without_a_key_nothing_answers(keyed, method, path):
    response = send(keyed, method, path)
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "AuthenticationError"


@pytest.mark.parametrize("header", ["Bearer three", "one", "Basic one", "Bearer", "Bearer one two", "Bearer ONE"])
def test_a_wrong_key_is_none(keyed, header):
    assert send(keyed, "GET", "/v1/vectors", headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize("header", ["Bearer one", "bearer two"])
def test_any_of_the_keys_opens(keyed, header):
    assert send(keyed, "GET", "/v1/vectors", headers={"Authorization": header}).status_code == 200


def test_the_liveness_probe_needs_no_key(keyed):
    assert send(keyed, "GET", "/v1/health/live").json() == {"live": True}
    assert send(keyed, "POST", "/v1/health/live").status_code == 401


@pytest.mark.parametrize("path", ["/v1/vectors", "/base/v1/vectors", "/base/base/v1/health/live"])
def test_a_root_path_opens_no_way_around(path):
    app = application(root_path="/base")
    app.add_middleware(ApiKeyGuard, keys=keyring("one"))
    assert send(app, "GET", path).status_code == 401
    assert send(app, "GET", "/base/v1/health/live").json() == {"live": True}


def test_a_websocket_without_a_key_is_closed():
    sent = []

    async def inner(*_: object) -> None:
        raise AssertionError("the application was reached")

    async def collect(message: dict) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    asyncio.run(ApiKeyGuard(inner, keyring("one"))(scope, None, collect))
    assert sent[0]["type"] == "websocket.close"


def test_a_body_within_the_limit_arrives_whole(bounded):
    assert send(bounded, "PUT", "/v1/vectors/x", content=b"x" * 1000).json()["size"] == 1000


def test_a_larger_body_is_refused_declared_or_not(bounded):
    async def chunks():
        for _ in range(20):
            yield b"x" * 100

    assert send(bounded, "PUT", "/v1/vectors/x", content=b"x" * 1001).status_code == 413
    assert send(bounded, "PUT", "/v1/vectors/x", content=chunks()).status_code == 413


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": NaN}', "NaN"),
        (b'{"a": [-Infinity]}', "Infinity"),
        (rb'{"a": "\ud800"}', "surrogate"),
        (rb'{"\udfff": 1}', "surrogate"),
        (b'{"a": "\xed\xa0\x80"}', "surrogate"),
    ],
)
def test_json_that_could_not_be_answered_is_refused(bounded, body, message):
    response = send(bounded, "POST", "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":', b'["[", ', b'["\\"", '])
def test_json_that_nests_too_deeply_is_refused(opening):
    app = application()
    app.add_middleware(BodyGuard, max_bytes=10**7)
    for times in (101, 100_000):
        response = send(
            app, "POST", "/v1/responses", content=opening * times, headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 400
        assert "deeper than 100" in response.json()["error"]["message"]


def test_many_brackets_that_do_not_nest_pass():
    app = application()
    app.add_middleware(BodyGuard, max_bytes=10**7)
    for body in (b"[" + b",".join([b'{"a": [1]}'] * 5000) + b"]", b'["' + b"[" * 5000 + b'"]', b"]" * 5000):
        response = send(app, "POST", "/v1/responses", content=body, headers={"Content-Type": "application/json"})
        assert response.json()["size"] == len(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "NaN and Infinity"}',
        rb'{"a": "\ud83d\ude00"}',
        '{"a": "\ud55c\uae00"}'.encode(),
        b"{not json",
        b'{"messages": [{"content": "\\"steering\\""}]}',
        b'{"steering": null}',
    ],
)
def test_other_json_passes(bounded, body):
    response = send(bounded, "POST", "/v1/responses", content=body, headers={"Content-Type": "application/json"})
    assert response.json()["size"] == len(body)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/chat/completions/batch", "/invocations"])
@pytest.mark.parametrize("field", ["steering", "capture", "monitor"])
def test_routes_that_would_ignore_our_fields_refuse_them(bounded, path, field):
    response = send(bounded, "POST", path, json={field: {"terms": []}})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field


@pytest.mark.parametrize("kind", ["application/json", "APPLICATION/JSON", "application/json; charset=utf-16"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_no_encoding_of_the_body_hides_a_field(bounded, kind, encoding):
    """JSON is read in all of these by vLLM's routes, and a media type in any case."""
    body = '{"steering": {"terms": []}, "model": "m"}'.encode(encoding)
    response = send(bounded, "POST", "/v1/responses", content=body, headers={"Content-Type": kind})
    refused = response.status_code == 400 and response.json()["error"]["param"] == "steering"
    assert refused or encoding == "utf-8-sig"  # which Python's JSON reader refuses, and so does every route


@pytest.mark.parametrize("form", [{"files": {"file": b"sound"}}, {}])
def test_a_form_that_asks_for_steering_is_refused(bounded, form):
    """Audio is sent as a form."""
    asked = send(bounded, "POST", "/v1/audio/transcriptions", data={"model": "m", "steering": "{}"}, **form)
    assert asked.status_code == 400
    assert asked.json()["error"]["param"] == "steering"
    plain = send(bounded, "POST", "/v1/audio/transcriptions", data={"model": "m", "prompt": "name=steering"}, **form)
    assert plain.status_code == 200


def test_a_field_that_would_be_ignored_is_refused_before_the_route(bounded):
    """The judging itself: test_request_fields.py."""
    response = send(bounded, "POST", "/v1/chat/completions", json={"extra_body": {"steering": {"terms": []}}})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "extra_body.steering"
