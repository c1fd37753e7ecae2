"""The fake service answers as the real one: the same calls to both, with the same statuses and shapes of answers."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fake_service import FakeService
from trait_core.schema import ServiceInfo
from trait_core.storage import sha256_of
from trait_core.vectors.file import METADATA_KEY
from vector_fixtures import random_vector

pytestmark = pytest.mark.engine

LAYER = 2
NAME = "contract"
CHAT = [{"role": "user", "content": "Say one two three"}]
CHATS, COMPLETIONS, ACTIVATIONS = "/v1/chat/completions", "/v1/completions", "/v1/activations"
SHORT = {"messages": CHAT, "max_tokens": 3, "temperature": 0.0}
STEERED = {"steering": {"terms": [{"vector": NAME, "coefficient": 1.0}]}}
MONITORED = {"monitor": {"vectors": [NAME], "prompt": True, "tokens": True}}
READ = {"inputs": [{"messages": CHAT, "response": "one two"}, {"text": "three"}], "layers": [1, LAYER]}


def steered_by(**changes: Any) -> dict:
    return SHORT | {"steering": {"terms": [{"vector": NAME, "coefficient": 1.0} | changes]}}


CALLS: dict[str, tuple[str, str, Any]] = {
    "health": ("GET", "/v1/health/ready", None),
    "the service's description": ("GET", "/v1/steering", None),
    "models": ("GET", "/v1/models", None),
    "the registry": ("GET", "/v1/vectors", None),
    "one vector": ("GET", f"/v1/vectors/{NAME}", None),
    "a vector's file": ("GET", f"/v1/vectors/{NAME}/file", None),
    "a vector read as tokens": ("GET", f"/v1/vectors/{NAME}/lens?top_k=3", None),
    "a chat": ("POST", CHATS, SHORT),
    "a chat with log-probabilities": ("POST", CHATS, SHORT | {"logprobs": True, "top_logprobs": 2}),
    "two replies": ("POST", CHATS, SHORT | {"n": 2, "temperature": 1.0}),
    "a steered chat": ("POST", CHATS, SHORT | STEERED),
    "a chat steered at positions": ("POST", CHATS, steered_by(scope={"positions": [0, 2]})),
    "a chat steered under a condition": ("POST", CHATS, steered_by(when={"vector": NAME, "above": -1e6})),
    "a monitored chat": ("POST", CHATS, SHORT | MONITORED),
    "a stream": ("POST", CHATS, SHORT | {"stream": True}),
    "a steered and monitored stream": (
        "POST", CHATS, SHORT | STEERED | MONITORED | {"stream": True, "stream_options": {"include_usage": True}},
    ),
    "a completion": ("POST", COMPLETIONS, {"prompt": "one two", "max_tokens": 2, "return_token_ids": True}),
    "log-probabilities of a prompt": (
        "POST", COMPLETIONS, {"prompt": "one two", "max_tokens": 1, "prompt_logprobs": 1, "logprobs": 1},
    ),
    "a steered and monitored completion": ("POST", COMPLETIONS, {"prompt": [5, 6, 7], "max_tokens": 2} | STEERED | MONITORED),
    "tokens of a text": ("POST", "/tokenize", {"prompt": "one two", "add_special_tokens": True}),
    "tokens of a chat": ("POST", "/tokenize", {"messages": CHAT, "add_generation_prompt": True}),
    "tokens of a chat with a variable that is not used": (
        "POST", "/tokenize", {"messages": CHAT, "add_generation_prompt": True, "chat_template_kwargs": {"no": 1}},
    ),
    "activations": ("POST", ACTIVATIONS, READ | {"positions": ["all[:]", "prompt[-1]"]}),
    "activations at each position": ("POST", ACTIVATIONS, READ | {"positions": ["all[:]"], "pooling": "none"}),
    "activations with the likelihood": (
        "POST", ACTIVATIONS, {"inputs": READ["inputs"][:1], "logprobs": True, "layers": [LAYER]},
    ),
    "activations of generated replies": (
        "POST", ACTIVATIONS, {"inputs": [{"messages": CHAT}], "generate": {"max_tokens": 2}, "layers": [LAYER]},
    ),
    "steered activations": ("POST", ACTIVATIONS, READ | STEERED | {"positions": ["all[:]"]}),
    "an unknown vector read as tokens": ("GET", "/v1/vectors/nobody/lens", None),
    "a layer to read that the vector has not": ("GET", f"/v1/vectors/{NAME}/lens?layer=1", None),
    "an unknown vector": ("GET", "/v1/vectors/nobody", None),
    "the file of an unknown vector": ("GET", "/v1/vectors/nobody/file", None),
    "to forget an unknown vector": ("DELETE", "/v1/vectors/nobody", None),
    "an alias of an unknown vector": ("PUT", "/v1/vectors/alias", {"vector": "nobody"}),
    "a name that is not allowed": ("PUT", "/v1/vectors/No", {"vector": NAME}),
    "a file that is not one": ("PUT", "/v1/vectors/broken", {"file": "AAAA", "sha256": "sha256:" + "0" * 64}),
    "steering by an unknown vector": ("POST", CHATS, steered_by(vector="nobody")),
    "a layer out of range": ("POST", CHATS, steered_by(layers=[400])),
    "a layer that the vector has not": ("POST", CHATS, steered_by(layers=[1])),
    "a dose that is too large": ("POST", CHATS, steered_by(coefficient=1000.0)),
    "an unknown field of a term": ("POST", CHATS, steered_by(strength=1.0)),
    "steering without terms": ("POST", CHATS, SHORT | {"steering": {"terms": []}}),
    "a monitor of an unknown vector": ("POST", CHATS, SHORT | {"monitor": {"vectors": ["nobody"]}}),
    "a model that is not served": ("POST", CHATS, SHORT | {"model": "nobody"}),
    "activations of a layer out of range": ("POST", ACTIVATIONS, READ | {"layers": [400]}),
    "activations at positions that do not parse": ("POST", ACTIVATIONS, READ | {"positions": ["reply[:]"]}),
    "activations without inputs": ("POST", ACTIVATIONS, {"inputs": []}),
    "a likelihood without a response": ("POST", ACTIVATIONS, READ | {"logprobs": True, "positions": ["all[:]"]}),
}  # fmt: skip
MAPPINGS = (
    ".versions", ".adapters", ".weights", ".layers", ".method_options", ".prompt_logprobs[]", ".logprobs.top_logprobs[]",
)  # fmt: skip
"""Objects whose keys are data: they are compared by the shape of their values."""


@pytest.fixture(scope="module")
def fake() -> Iterator[httpx.Client]:
    service = FakeService()
    with httpx.Client(base_url="http://fake", transport=httpx.MockTransport(service.answer)) as client:
        register(client)
        yield client


@pytest.fixture(scope="module")
def live(service_url) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service_url, timeout=300) as client:
        register(client)
        yield client
        client.delete(f"/v1/vectors/{NAME}").raise_for_status()


def register(client: httpx.Client) -> httpx.Response:
    info = ServiceInfo.model_validate(client.get("/v1/steering").json())
    data = random_vector(info, 1, LAYER).to_bytes()
    return put(client, NAME, data)


def put(client: httpx.Client, name: str, data: bytes) -> httpx.Response:
    upload = {"file": base64.b64encode(data).decode(), "sha256": sha256_of(data)}
    return client.put(f"/v1/vectors/{name}", json=upload)


def send(client: httpx.Client, method: str, path: str, body: Any) -> httpx.Response:
    if isinstance(body, dict) and path in {CHATS, COMPLETIONS} and "model" not in body:
        body = body | {"model": client.get("/v1/models").json()["data"][0]["id"]}
    return client.request(method, path, json=body)


def described(response: httpx.Response) -> tuple[int, str, Any]:
    """Status, content type, and the shape of the body."""
    kind = response.headers.get("content-type", "").partition(";")[0]
    if kind == "application/json":
        body = response.json()
        if "vectors" in body:  # the shared service also holds the vectors of other tests
            body["vectors"] = [vector for vector in body["vectors"] if vector["name"] == NAME]
        return response.status_code, kind, shape(body)
    if kind == "text/event-stream":
        events = [event.removeprefix("data: ") for event in response.text.strip().split("\n\n")]
        assert events.pop() == "[DONE]"
        return response.status_code, kind, shape([json.loads(event) for event in events])
    if not response.content:
        return response.status_code, kind, None
    length = int.from_bytes(response.content[:8], "little")
    header = json.loads(response.content[8 : 8 + length])
    metadata = shape(json.loads(header.pop("__metadata__")[METADATA_KEY]))
    tensors = {name: (entry["dtype"], len(entry["shape"])) for name, entry in header.items()}
    return response.status_code, kind, (tensors, metadata)


def shape(value: Any, path: str = "") -> Any:
    """Fields and types of a document, recursively. Elements of a list, and values of a mapping, have one shape together."""
    if isinstance(value, dict):
        if path.endswith(MAPPINGS):
            return {"*": merged([shape(each) for each in value.values()])}
        return {field: shape(each, f"{path}.{field}") for field, each in value.items()}
    if isinstance(value, list):
        return [merged([shape(each, f"{path}[]") for each in value])]
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "bool"
    return "number" if isinstance(value, int | float) else "text"


def merged(shapes: list[Any]) -> Any:
    """The fields of several documents together; a value may be missing or null in some of them."""
    shapes = [each for each in shapes if each != "null"]
    if shapes and all(isinstance(each, dict) for each in shapes):
        fields = sorted({field for each in shapes for field in each})
        return {field: merged([each[field] for each in shapes if field in each]) for field in fields}
    if shapes and all(isinstance(each, list) for each in shapes):
        return [merged([each[0] for each in shapes])]
    return " or ".join(sorted({str(each) for each in shapes})) or "null"


@pytest.mark.parametrize("name", CALLS)
def test_the_fake_answers_in_the_shape_of_the_real_service(fake, live, name):
    assert described(send(fake, *CALLS[name])) == described(send(live, *CALLS[name]))


def test_registration_pointing_and_forgetting_are_answered_alike(fake, live):
    def story(client: httpx.Client) -> list:
        data = client.get(f"/v1/vectors/{NAME}/file").content
        file = base64.b64encode(data).decode()
        other = ServiceInfo.model_validate(client.get("/v1/steering").json() | {"d_model": 3})
        return [
            described(response)
            for response in (
                put(client, "first", data),
                put(client, "misfit", random_vector(other, 1, LAYER).to_bytes()),
                client.post("/v1/lens", json={"file": file, "top_k": 2}),
                client.post("/v1/lens", json={"file": file, "layers": [1]}),
                client.put("/v1/vectors/second", json={"vector": "first"}),
                client.get("/v1/vectors/second"),
                client.delete("/v1/vectors/second"),
                client.get("/v1/vectors/second"),
                client.delete("/v1/vectors/first"),
            )
        ]

    assert story(fake) == story(live)
