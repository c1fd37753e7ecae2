"""Who may use which route: every route of the application as vLLM builds it, every kind of key, every spelling."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from asgi_harness import Reached, call
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route
from trait_service.access.keys import ALL_SCOPES, KeyFile
from trait_service.access.scopes import OPERATIONS

pytest.importorskip("vllm")

PROBES = ("/v1/health/live", "/v1/health/ready", "/health")
OPEN = {f"{method} {path}" for method in ("GET", "HEAD") for path in PROBES}
SECRETS = ("/sleep", "/collective_rpc", "/update_weights", "/server_info", "/v1/load_lora_adapter", "/scale_elastic_ep")

SPELLINGS = (
    "{path}",
    "{path}/",
    "{path}//",
    "/{path}",
    "//evil{path}",
    "/.{path}",
    "{path}/.",
    "{path}/..",
    "/v1/health/live/..{path}",
    "/v1/health/live{path}",
    "/v1/health/live;{path}",
    "{path};/v1/health/live",
    "{path}\n",
    "{path}\x00",
    "{path}?/v1/health/live",
    "{path}#/v1/health/live",
    "{path}%2f",
    "/base{path}",
    "/base/base{path}",
    "{upper}",
    "{doubled}",
    "{escaped}",
    "http://127.0.0.1{path}",
    "{bare}",
)


def spellings(path: str) -> list[str]:
    return [
        form.format(
            path=path,
            upper=path.upper(),
            doubled=path.replace("/", "//"),
            escaped=path.replace("/", "%2f"),
            bare=path[1:],
        )
        for form in SPELLINGS
    ]


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A keys file, and the text of a key for each scope."""
    file = KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")
    return file.path, {scope: file.create(scope.replace(":", "-"), frozenset({scope})) for scope in sorted(ALL_SCOPES)}


@pytest.fixture(scope="module")
def app(keys) -> FastAPI:
    """The whole application, the developers' routes included, behind the keys."""
    from trait_service.compat.names import make_arg_parser
    from trait_service.settings import ARGS_ENTRY, ServiceSettings
    from vllm.entrypoints.launchers.app import build_app
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_PLUGINS", "trait_steering")
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        patch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(["some/model", "--enable-lora"])
        setattr(args, ARGS_ENTRY, ServiceSettings(keys=keys[0]))
        return build_app(args, ("generate",))


def operations(app: FastAPI) -> list[tuple[str, str]]:
    """Method and concrete path of every route."""
    found = set()
    for route in app.routes:
        if isinstance(route, Mount):
            found.add(("GET", f"{route.path}/"))
        elif isinstance(route, Route | APIRoute):
            found |= {(method, re.sub(r"\{\w+\}", "x", route.path)) for method in route.methods}
    return sorted(found)


def test_the_application_has_the_routes_that_a_key_must_hide(app):
    paths = {path for _, path in operations(app)}
    assert paths.issuperset(SECRETS), set(SECRETS) - paths
    assert len(operations(app)) > 65


def test_every_named_operation_is_a_route_of_the_application(app):
    real = {f"{method} {route.path}" for route in app.routes for method in (getattr(route, "methods", None) or {"GET"})}
    assert set(OPERATIONS) <= real, set(OPERATIONS) - real


def all_forms(app: FastAPI) -> list[tuple[str, str]]:
    forms = []
    for method, path in operations(app):
        forms += [(method, spelling) for spelling in spellings(path)]
        forms += [(other, path) for other in ("HEAD", "OPTIONS", "GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "X")]
    return forms


async def sweep(app: FastAPI, forms: list[tuple[str, str]], key: str | None, **options) -> list[Reached]:
    return [await call(app, method, path, key, **options) for method, path in forms]


@pytest.mark.parametrize("key", [None, "", "wrong", "ts-" + "A" * 43])
def test_without_a_valid_key_nothing_is_reached_in_any_spelling(app, key):
    forms = all_forms(app)
    assert len(forms) > 1900
    for form, reached in zip(forms, asyncio.run(sweep(app, forms, key)), strict=True):
        if reached.operation not in OPEN and " ".join(form) not in OPEN:
            assert (reached.status, reached.operation) == (401, None), (form, reached)


@pytest.mark.parametrize("root_path", ["/base", "/v1", "/v1/health"])
def test_a_root_path_opens_nothing(app, root_path):
    forms = [(method, form) for method, path in operations(app) for form in (path, f"{root_path}{path}")]
    forms = [form for form in forms if not form[1].endswith(PROBES)]
    for form, reached in zip(forms, asyncio.run(sweep(app, forms, None, root_path=root_path)), strict=True):
        assert (reached.status, reached.operation) == (401, None), (form, reached)


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES - {"admin"}))
def test_a_key_reaches_what_its_scope_opens_and_nothing_else(app, keys, scope):
    forms = all_forms(app)
    opened = {name for name, scopes in OPERATIONS.items() if scope in scopes} | OPEN
    got = set()
    for form, reached in zip(forms, asyncio.run(sweep(app, forms, keys[1][scope])), strict=True):
        if reached.operation is None:
            assert reached.status in (401, 403) or " ".join(form) in OPEN, (form, reached)
            continue
        name = reached.operation.replace("HEAD ", "GET ") if reached.operation not in OPEN else reached.operation
        name = "GET /metrics" if re.fullmatch(r"GET /metrics\S*\s*", name) else name
        assert name in opened, (form, reached)
        got.add(name)
    assert got >= opened - OPEN, opened - got


def test_a_path_of_no_route_is_told_to_admin_only(app, keys):
    assert asyncio.run(call(app, "GET", "/nowhere", keys[1]["admin"])).status == 404
    assert asyncio.run(call(app, "GET", "/nowhere", keys[1]["generate"])).status == 403


@pytest.mark.parametrize("path", SECRETS)
def test_the_operators_routes_are_for_admin(app, keys, path):
    for scope in ALL_SCOPES - {"admin"}:
        for method in ("GET", "POST"):
            reached = asyncio.run(call(app, method, path, keys[1][scope]))
            assert (reached.status, reached.operation) == (403, None)


def test_a_refusal_names_the_scope_that_is_missing(app, keys):
    reached = asyncio.run(call(app, "PUT", "/v1/vectors/x", keys[1]["generate"]))
    error = json.loads(reached.body)["error"]
    assert error["type"] == "PermissionDeniedError"
    assert "'vectors:write'" in error["message"]
    assert "'generate'" in error["message"]


@pytest.mark.parametrize(
    "headers",
    [
        ((b"host", b"evil.example"),),
        ((b"host", b"127.0.0.1/v1/health/live?"),),
        ((b"x-forwarded-prefix", b"/v1/health/live"), (b"x-original-url", b"/v1/health/live")),
        ((b"x-http-method-override", b"GET"), (b"x-rewrite-url", b"/v1/health/live")),
        ((b"authorization", b"Bearer "),),
        ((b"authorization", b"Basic d3Jvbmc6d3Jvbmc="),),
        ((b"authorization", b"Bearer\xff\xfe"),),
        ((b"x-api-key", b"admin"), (b"cookie", b"key=admin")),
    ],
)
def test_no_header_but_the_key_opens(app, headers):
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/metrics")):
        assert asyncio.run(call(app, method, path, headers=headers)).status == 401


def test_two_authorization_headers_are_none(app, keys):
    admin = (b"authorization", b"Bearer " + keys[1]["admin"].encode())
    other = (b"authorization", b"Bearer wrong")
    for headers in ((admin, other), (other, admin), (admin, admin)):
        assert asyncio.run(call(app, "GET", "/openapi.json", headers=headers)).status == 401
    assert asyncio.run(call(app, "GET", "/openapi.json", headers=(admin,))).status == 200


def test_the_page_on_security_names_every_operation():
    page = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()
    for name in OPERATIONS:
        assert f"`{name}`" in page, name
