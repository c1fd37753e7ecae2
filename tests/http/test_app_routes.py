"""The application as vLLM builds it, with our endpoint plugin and without an engine: routes, guards, errors."""

import asyncio
import json

import httpx
import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import Mount, Route
from trait_service.resolving.request_fields import meant_by

OURS = {
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/steering"),
    ("GET", "/v1/vectors"),
    ("GET", "/v1/vectors/{name}"),
    ("PUT", "/v1/vectors/{name}"),
    ("DELETE", "/v1/vectors/{name}"),
    ("GET", "/v1/vectors/{name}/lens"),
    ("POST", "/v1/lens"),
    ("POST", "/v1/activations"),
    ("POST", "/v1/patch"),
    ("GET", "/v1/health/live"),
    ("GET", "/v1/health/ready"),
}


def build(*arguments: str):
    """vLLM's application for these arguments; skipped where vLLM is not installed."""
    pytest.importorskip("vllm")
    from trait_service.compat.names import make_arg_parser
    from vllm.entrypoints.launchers.app import build_app
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["some/model", *arguments])
    return build_app(args, ("generate",))


@pytest.fixture
def build_app(monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "trait_steering")
    return build


def send(app, method: str, path: str, **options: object) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, **options)

    return asyncio.run(go())


def operations(app) -> list[tuple[str, str]]:
    found = []
    for route in app.routes:
        if isinstance(route, Mount):
            found.append(("GET", route.path))
        elif isinstance(route, Route | APIRoute):
            found += [(method, route.path) for method in route.methods]
    return found


def test_our_routes_stand_once_each(build_app):
    found = operations(build_app())
    for operation in OURS:
        assert found.count(operation) == 1, operation


def test_no_route_at_all_answers_without_the_key(build_app):
    app = build_app("--api-key", "secret")
    everything = [*operations(app), ("GET", "/nowhere"), ("GET", "/metrics/"), ("POST", "/v1/health/live")]
    assert len(everything) > 40
    for method, path in everything:
        if method in {"GET", "HEAD"} and path in {"/v1/health/live", "/v1/health/ready", "/health"}:
            continue
        concrete = path.replace("{name}", "x").replace("{response_id}", "x")
        response = send(app, method, concrete)
        assert response.status_code == 401, (method, path, response.status_code)
        if method != "HEAD":
            assert response.json()["error"]["code"] == 401


def test_the_liveness_probe_answers_without_the_key(build_app):
    assert send(build_app("--api-key", "secret"), "GET", "/v1/health/live").json() == {"status": "live"}


@pytest.mark.parametrize("path", ["/health", "/v1/health/ready"])
def test_a_readiness_probe_needs_no_key(build_app, path):
    """Neither Kubernetes nor vllm-router can send one with its probe; without an engine the answer is no."""
    assert send(build_app("--api-key", "secret"), "GET", path).status_code not in {200, 401, 403, 404}


def test_the_key_opens(build_app):
    app = build_app("--api-key", "secret")
    response = send(app, "GET", "/openapi.json", headers={"Authorization": "Bearer secret"})
    assert response.status_code == 200
    assert "steering" in json.dumps(response.json()["components"]["schemas"]["SteeredChatRequest"])


def test_the_key_of_the_environment_guards_as_well(build_app, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    app = build_app()
    assert send(app, "GET", "/metrics").status_code == 401
    assert send(app, "GET", "/openapi.json", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_a_root_path_opens_no_way_around(build_app):
    app = build_app("--api-key", "secret", "--root-path", "/v1x")
    for path in ("/v1/models", "/v1x/v1/models", "/v1x/metrics", "/v1xv1/models", "/v1x"):
        assert send(app, "GET", path).status_code == 401, path


def test_websockets_are_guarded(build_app):
    app = build_app("--api-key", "secret")
    sent = []

    async def collect(message: dict) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": "websocket.connect"}

    paths = [route.path for route in app.routes if isinstance(route, APIWebSocketRoute)] or ["/v1/realtime"]
    for path in paths:
        scope = {"type": "websocket", "path": path, "headers": [], "query_string": b"", "app": app, "subprotocols": []}
        asyncio.run(app(scope, receive, collect))
        assert sent[-1]["type"] == "websocket.close"


def test_an_unknown_path_has_openais_error_body(build_app):
    response = send(build_app(), "GET", "/nowhere")
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "NotFoundError"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"terms": []}, "steering.terms"),
        ({"terms": [{"vector": "tone"}]}, "steering.terms[0].coefficient"),
        ({"terms": [{"vector": "tone", "coefficient": "3"}]}, "steering.terms[0].coefficient"),
        ({"terms": [{"vector": "No Name", "coefficient": 3}]}, "steering.terms[0].vector"),
        ({"terms": [{"vector": "tone", "coefficient": 3, "colour": "red"}]}, "steering.terms[0].colour"),
        ({"terms": [{"vector": "tone", "coefficient": 3, "layers": [-1]}]}, "steering.terms[0].layers[0]"),
        ({"terms": [{"vector": "tone", "coefficient": 3, "scope": "some"}]}, "steering.terms[0].scope"),
        ({"terms": [{"vector": "tone", "coefficient": 3}] * 33}, "steering.terms"),
        ({"term": []}, "steering.terms"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_steering_is_strict(build_app, path, body, param):
    base = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}
    response = send(build_app(), "POST", path, json={**base, "steering": body})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_huge_value_is_not_echoed(build_app):
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "steering": {"terms": [{"vector": "A" * 10**6, "coefficient": 1}]},
    }
    response = send(build_app(), "POST", "/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert len(response.content) < 3000


def test_without_its_engine_the_plugin_refuses_to_start():
    from trait_service.http.plugin import TraitEndpoints

    with pytest.raises(RuntimeError, match="needs an engine"):
        asyncio.run(TraitEndpoints().init_state(None, None, None))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/activations", "/tokenize"])
def test_a_body_that_is_not_declared_as_json_is_a_400(build_app, path):
    response = send(build_app(), "POST", path, content=b"{}", headers={"Content-Type": "text/plain"})
    assert response.status_code == 400
    assert "application/json" in response.json()["error"]["message"]


def test_no_field_of_vllms_own_is_taken_for_one_of_ours(build_app, monkeypatch):
    """Every field of every request of the server, operators' routes included."""
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    schemas = build_app("--enable-scale-out").openapi()["components"]["schemas"]
    names = {name for schema in schemas.values() for name in schema.get("properties", ())}
    assert len(names) > 200
    ours = {"steering", "monitor", "before_steering", "max_monitored"}  # the last one of an answer
    assert {name for name in names if meant_by(name)} == ours
