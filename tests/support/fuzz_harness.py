"""Requests that nobody would write: from the service's own OpenAPI (schemathesis), and twisted valid ones (hypothesis)."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from trait_core.vectors.inline import inline_vector
from trust_harness import MODEL, QUESTION, Target

QUIET = settings(
    deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=False
)


@dataclass(frozen=True)
class Sent:
    """A request, and what came of it.

    Args:
        status: 0 where nothing came.
        answer: Its beginning.
        reported: It reports steering, or is a stream with an error.
    """

    label: str
    request: requests.PreparedRequest
    status: int
    answer: str
    reported: bool = False


# ------------------------------------------------------------------------------------------------ from the OpenAPI


def from_openapi(target: Target, total: int, number: int) -> list[tuple[str, requests.PreparedRequest]]:
    """About `total` requests, valid and not, spread over every operation of the service's OpenAPI."""
    document = requests.get(f"{target.url}/openapi.json", headers=target.headers, timeout=60).json()
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    each = max(2, total // len(operations))
    drawn = []
    for operation in operations:
        for mode, n in ((GenerationMode.POSITIVE, each // 2), (GenerationMode.NEGATIVE, each - each // 2)):
            drawn += [(operation.label, r) for r in _draw(operation, mode, n, number, target)]
    return drawn


def _draw(
    operation: APIOperation, mode: GenerationMode, n: int, number: int, target: Target
) -> list[requests.PreparedRequest]:
    drawn: list[requests.PreparedRequest] = []

    @seed(number)
    @settings(QUIET, max_examples=n)
    @given(operation.as_strategy(generation_mode=mode))
    def take(case: schemathesis.Case) -> None:
        try:
            drawn.append(requests.Request(**_options(case, target)).prepare())
        except (UnicodeError, ValueError, requests.RequestException):
            return  # no HTTP client can send it

    if n:
        try:
            take()
        except Exception as error:
            if "Unsatisfiable" not in type(error).__name__ and "Rejected" not in type(error).__name__:
                raise
    return drawn


def _options(case: schemathesis.Case, target: Target) -> dict[str, Any]:
    options = case.as_transport_kwargs(base_url=target.url)
    options["headers"] = {**dict(options.get("headers") or {}), **target.headers}
    return {name: options[name] for name in ("method", "url", "headers", "params", "json", "data") if name in options}


# ---------------------------------------------------------------------------------------------- twisted valid requests

NUMBERS = st.sampled_from(
    [
        0,
        -1,
        1,
        2,
        29,
        30,
        31,
        511,
        512,
        2**31,
        2**63,
        2**64,
        -(2**63),
        10**30,
        0.5,
        1e-45,
        1e38,
        3.4e38,
        1e308,
        -1e308,
        -0.0,
    ]
)
TEXTS = st.sampled_from(
    [
        "",
        " ",
        "canary",
        "canary@1",
        "sha256:" + "0" * 64,
        "../canary",
        "\x00",
        "é" * 300,
        "\U0001f600",
        "A" * 70_000,
        "null",
    ]
) | st.text(max_size=20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
TERM = {"vector": "canary", "coefficient": 1.0, "unit": "dose", "layers": [12], "operation": "add", "scope": "all"}
INLINE = inline_vector(np.arange(1, 577), "float16").model_dump()
GATE = {"vector": "canary", "layer": 8, "above": 0.0, "centred": False, "unit": "raw", "hold": "token"}
STEERING = {"terms": [TERM]}
STEERINGS = [
    STEERING,
    {"terms": [{**TERM, "when": GATE, "scope": "prompt[-4:]"}]},
    {"terms": [{**TERM, "when": {**GATE, "hold": "latch"}, "at": "resid_post"}]},
    {"terms": [{**TERM, "vector": INLINE, "at": "attn_out", "operation": "replace"}]},
    {"terms": [{**TERM, "vector": INLINE, "at": "mlp_out", "operation": "rotate", "when": {**GATE, "hold": "prompt"}}]},
    {"terms": [{**TERM, "vector": ["canary", INLINE], "operation": "ablate"}]},
]
MONITOR = {
    "vectors": ["canary"], "layers": [12], "at": "resid_post", "centred": True, "prompt": True, "bounds": [],
    "lens": {"layers": [3, 29], "top_k": 3},
}  # fmt: skip
WITH_TOOLS = [
    {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
    ]},
    {"role": "tool", "tool_call_id": "c1", "content": "12 degrees", "name": "weather"},
]  # fmt: skip
SAMPLING = {
    "n": 1, "best_of": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 5, "min_p": 0.0, "seed": 1, "logprobs": True,
    "top_logprobs": 3, "prompt_logprobs": 1, "logit_bias": {"1": 1.0}, "allowed_token_ids": [1, 2], "bad_words": ["x"],
    "stop": ["."], "stop_token_ids": [2], "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0,
    "min_tokens": 0, "truncate_prompt_tokens": 5, "priority": 0, "cache_salt": "x", "stream": False, "echo": False,
    "stream_options": {"include_usage": True}, "response_format": {"type": "text"}, "structured_outputs": {"regex": "a+"},
    "chat_template_kwargs": {}, "add_generation_prompt": True, "tools": [], "tool_choice": "none", "use_beam_search": False,
    "length_penalty": 1.0, "ignore_eos": False, "skip_special_tokens": True, "vllm_xargs": {}, "user": "x",
    "kv_transfer_params": {}, "return_token_ids": True, "prompt_embeds": "", "continue_final_message": False,
    "request_id": "x", "thinking_token_budget": 1, "mm_processor_kwargs": {}, "documents": [], "suffix": "x",
}  # fmt: skip
BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": QUESTION, "max_tokens": 2, "steering": STEERING, "monitor": MONITOR},
    "/v1/completions": {"prompt": "One two", "max_tokens": 2, "steering": STEERING, "monitor": MONITOR},
    "/v1/activations": {
        "inputs": [{"messages": QUESTION, "response": "Paris."}, {"messages": WITH_TOOLS, "response": "12."}], "positions": ["response[:]"], "layers": [3, 12],
        "steering": STEERING, "pooling": "mean", "before_steering": False, "logprobs": False,
    },
    "/v1/patch": {
        "source": {"text": "The capital of France is", "span": "France", "answer": " Paris"},
        "target": {"text": "The capital of Italy is", "span": "Italy", "answer": " Rome"},
        "layers": [3], "positions": "prompt[-2:]", "at": ["resid_post", "mlp_out"],
    },
    "/inference/v1/generate": {"token_ids": [1, 2, 3], "sampling_params": {"max_tokens": 2, "temperature": 0.0}},
    "/tokenize": {"prompt": "One two"},
    "/detokenize": {"tokens": [1, 2]},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/messages": {"messages": QUESTION, "max_tokens": 2},
    "/v1/chat/completions/batch": {"messages": [QUESTION], "max_tokens": 2},
    "/generative_scoring": {"query": "a", "items": ["b"], "label_token_ids": [1, 2]},
}  # fmt: skip
STEER_LIKE = (
    "steering_vectors", "steer_vector_request", "apply_steering_vectors", "prefill_steering_vectors", "Steering", "STEERING",
    "steer", "steerng", "steering ", "steering_config", "x-steer", "trait_steering", "re_steer",
)  # fmt: skip
CARRIERS = ("extra_body", "vllm_xargs", "extra_args", "sampling_params", "model_kwargs")
"""Places where a field of a request is ignored, or read by nobody."""
ALIASES = (
    "@1", "@1e0", "@+1", "@.5", "@1.", "@-2", "@ 1", "@1e-1", "", "@", "@x", "@nan", "@1e999", "@0x1", "@1,5", "@1@2",
    "@" + "9" * 400, "@\u22121", "@1+canary@-1", "@1e+0+canary@.5", "+canary", "@1" * 3000,
)  # fmt: skip
SELECTORS = st.recursive(
    st.sampled_from([
        "prompt[-4:]", "response[:8]", "response[8::4]", "response[-1]", "turn[-1]", "turn[9]", "all[4:]", "all[::2], all[::3]",
        "prompt[999999999:]", "thinking[:]", "answer[0]", 'tokens["Paris"]', 'tokens["\\ud800"]', "all[:] except all[::7]",
        "all[::1048576]", "all[::999], all[::1000]", "all[0]" + ", all[0]" * 40, "all[:" + "9" * 400, "all[:] except", "all",
    ]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["select", "except", "tokens", "positions"]), inner),
    max_leaves=4,
)  # fmt: skip
"""Selectors in every form, and things that are nearly one."""
KWARGS = st.dictionaries(
    st.sampled_from(["enable_thinking", "steering", "thinking", "messages", "tools", "add_generation_prompt", ""]),
    ANYTHING,
    max_size=3,
)
RAW = st.sampled_from(
    [b"", b"{", b"null", b"[]", b'"x"', b"NaN", b"[" * 5000, b'{"a":' * 5000, b"\xff\xfe", b'{"messages": "\\ud800"}', b"1e999",
     b'{"messages": [], "n": 1e999}', b'{"n": 1' + b"0" * 5000 + b"}"]
)  # fmt: skip


@st.composite
def twisted(draw: st.DrawFn) -> tuple[str, str, bytes, dict[str, str]]:
    """Method, path, body and headers of a valid request with up to three places changed."""
    path = draw(st.sampled_from(sorted(BASES)))
    if draw(st.integers(0, 19)) == 0:
        return "POST", path, draw(RAW), {"Content-Type": "application/json"}
    body = json.loads(json.dumps({"model": MODEL, **BASES[path]}))
    if "steering" in body:
        body["steering"] = copy.deepcopy(draw(st.sampled_from(STEERINGS)))
    for name in draw(st.lists(st.sampled_from(sorted(SAMPLING)), max_size=3)):
        where = body["sampling_params"] if path == "/inference/v1/generate" else body
        where[name] = copy.deepcopy(SAMPLING[name])
    asks = draw(st.integers(0, 3)) == 0
    if asks:
        _ask_elsewhere(draw, body)
    # Where it asks elsewhere that may be all that is wrong with it.
    for _ in range(draw(st.integers(0 if asks else 1, 3))):
        _change_one_place(draw, body)
    if draw(st.booleans()) and path in ("/v1/chat/completions", "/v1/completions"):
        body.pop("steering", None)
        body.pop("monitor", None)
    return "POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"}


def _change_one_place(draw: st.DrawFn, body: dict[str, Any]) -> None:
    if not (places := _places(body)):
        return  # everything was left out
    holder, key = draw(st.sampled_from(places))
    if draw(st.integers(0, 5)) == 0:
        if isinstance(holder, dict):
            holder.pop(key)
    elif key in ("scope", "positions") or holder is body.get("positions"):
        holder[key] = draw(SELECTORS | ANYTHING)
    else:
        holder[key] = draw(ANYTHING)


def _ask_elsewhere(draw: st.DrawFn, body: dict[str, Any]) -> None:
    """Ask for steering where it would be ignored, by an alias in an odd form, or write the template's own fields."""
    value = copy.deepcopy(draw(st.sampled_from([STEERING, json.dumps(STEERING), [STEERING], 1.0]) | ANYTHING))
    name = draw(st.sampled_from(("steering", *STEER_LIKE)))
    match draw(st.integers(0, 4)):
        case 0:
            body[draw(st.sampled_from(STEER_LIKE))] = value
        case 1:
            carrier = draw(st.sampled_from(CARRIERS))
            body[carrier] = {**(body.get(carrier) or {}), name: value}
        case 2:
            body["sampling_params"] = {**(body.get("sampling_params") or {}), "extra_args": {name: value}}
        case 3:
            body["model"] = f"{MODEL}+canary{draw(st.sampled_from(ALIASES))}"
        case 4:
            body["chat_template_kwargs"] = draw(KWARGS)


def asks_unread(body: Any) -> bool:
    """True if a body names a steer-like field that no route reads, at the top level or inside a carrier."""
    if not isinstance(body, dict):
        return False
    top = [name for name in body if "steer" in name.lower() and name not in {"steering", "before_steering"}]
    carried = [entry for name in CARRIERS for entry in _names(body.get(name))]
    return any(body[name] is not None for name in top) or any("steer" in name.lower() for name in carried)


def _names(value: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    return [name for name in value if value[name] is not None] + _names(value.get("extra_args"))


def asks_where_none_reads(sent: Sent) -> bool:
    """True if a request names a steer-like field that no route reads."""
    return sent.request.method == "POST" and asks_unread(_body(sent))


def _body(sent: Sent) -> Any:
    try:
        return json.loads(sent.request.body or b"")
    except (ValueError, RecursionError):
        return None


def served_unsteered(sent: Sent) -> bool:
    """True if a request that asks for steering was answered as if it did not."""
    if sent.status != 200 or sent.request.method != "POST":
        return False
    body = _body(sent)
    if asks_unread(body):
        return True
    steers = isinstance(body, dict) and (body.get("steering") is not None or "+canary" in str(body.get("model")))
    return steers and not sent.reported


@st.composite
def upload(draw: st.DrawFn, files: list[bytes]) -> tuple[str, str, bytes, dict[str, str]]:
    """A vector file with bytes changed, cut or added, a pointer, or a deletion; never of the canary's name."""
    name = draw(st.sampled_from(["fuzz", "fuzz-2", "Fuzz", "%2e%2e%2fcanary", "sha256:" + "0" * 64, "x" * 80, "a%00b"]))
    match draw(st.integers(0, 3)):
        case 0:
            return "DELETE", f"/v1/vectors/{name}", b"", {}
        case 1:
            body = json.dumps({"vector": draw(ANYTHING)}).encode()
            return "PUT", f"/v1/vectors/{name}", body, {"Content-Type": "application/json"}
        case _:
            data = bytearray(draw(st.sampled_from(files)))
            for _ in range(draw(st.integers(0, 3))):
                data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
            return "PUT", f"/v1/vectors/{name}", bytes(data[: draw(st.integers(0, len(data) * 2))]), {}


def twisted_requests(target: Target, total: int, number: int) -> list[tuple[str, requests.PreparedRequest]]:
    """`total` twisted requests, one in six to the registry."""
    drawn: list[tuple[str, requests.PreparedRequest]] = []
    files = [target.vector(seed_of_file) for seed_of_file in (7, 8)]
    uploads = upload(files)

    @seed(number)
    @settings(QUIET, max_examples=total)
    @given(st.integers(0, 5).flatmap(lambda which: uploads if which == 0 else twisted()))
    def take(made: tuple[str, str, bytes, dict[str, str]]) -> None:
        method, path, body, headers = made
        request = requests.Request(method, f"{target.url}{path}", data=body, headers={**headers, **target.headers})
        drawn.append((f"{method} {path}", request.prepare()))

    take()
    return drawn


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    found: list[tuple[Any, Any]] = []
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            found += _places(value[key])
    return found


# -------------------------------------------------------------------------------------------------------------- sending


def send_all(drawn: list[tuple[str, requests.PreparedRequest]], at_once: int = 24) -> list[Sent]:
    """Every request, `at_once` in flight."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=at_once))

    def send(entry: tuple[str, requests.PreparedRequest]) -> Sent:
        label, request = entry
        try:
            answer = session.send(request, timeout=300)
        except requests.RequestException as error:
            return Sent(label, request, 0, repr(error)[:2000])
        reported = b"applied" in answer.content or b'data: {"error"' in answer.content
        return Sent(label, request, answer.status_code, answer.text[:2000], reported)

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(send, drawn))


def shown(sent: Sent) -> str:
    """One request as a person would repeat it."""
    body = sent.request.body or b""
    return f"{sent.status} {sent.request.method} {sent.request.url[:300]} {body[:3000]!r}\n    -> {sent.answer[:600]}"
