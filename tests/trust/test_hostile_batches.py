"""One hostile request in a batch changes nothing for the others. `make test-hostile` sends 200 batches."""

import base64
import io
import json
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from trust_harness import LAYER, MODEL, Target, asked

pytestmark = pytest.mark.engine

PROMPTS = ("One two three", "The cat sat on", "Water boils at", "The capital of France is", "My name is")


def body(prompt: str, coefficient: float | None, **fields: Any) -> dict[str, Any]:
    found = {"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0, "return_token_ids": True, **fields}
    if coefficient is not None:
        found["steering"] = {"terms": [{"vector": "canary", "coefficient": coefficient}]}
    return found


def inline(numbers: Any, dtype: str = "<f4") -> dict[str, str]:
    """The bytes of 576 numbers, or of as many as are given, as an inline vector that nobody checked."""
    data = np.broadcast_to(np.asarray(numbers, dtype), 576 if np.ndim(numbers) == 0 else np.shape(numbers)).tobytes()
    return {"inline": base64.b64encode(data).decode(), "dtype": "float32" if dtype == "<f4" else "float16"}


ALONG = inline(np.linspace(-1, 1, 576))
GATE = {"vector": "canary", "above": 0.0, "centred": False}
TERM = {"vector": ALONG, "coefficient": 2.0, "layers": [13]}
GIVEN = [
    {"when": GATE},
    {"when": {**GATE, "hold": "latch"}, "scope": "response[:4]"},
    {"at": "attn_out", "operation": "replace", "scope": "prompt[-1]"},
    {"at": "mlp_out", "operation": "rotate", "coefficient": 30.0},
    {"vector": [ALONG, inline(np.arange(576) % 7 - 3)], "operation": "ablate"},
]
"""Conditions, hook points, inline vectors, and operations on the whole stream: one for each prompt."""

MEMBERS = [body(prompt, coefficient) for prompt in PROMPTS for coefficient in (None, 1.0)]
MEMBERS += [
    body(prompt, None, steering={"terms": [TERM | given]}) for prompt, given in zip(PROMPTS, GIVEN, strict=True)
]
"""Of every batch: plain and steered requests side by side."""


def poisoned(data: bytes, at: int, value: float, dtype: str = "<f") -> bytes:
    """A vector file with one float of its direction replaced."""
    (header,) = struct.unpack("<Q", data[:8])
    start = 8 + header + 4 * at
    return data[:start] + struct.pack(dtype, value) + data[start + 4 :]


def wider(data: bytes) -> bytes:
    """A vector file that says another width than its tensor has."""
    return data.replace(rb"\"d_model\":576", rb"\"d_model\":577")


def embeds(value: float) -> str:
    buffer = io.BytesIO()
    torch.save(torch.full((3, 576), value), buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def hostile(target: Target, draw: random.Random) -> tuple[str, str, bytes]:
    """Method, path and body of a request that is wrong in one of the ways of the list."""
    vector = target.vector(99)
    name = f"/v1/vectors/hostile-{draw.randrange(4)}"
    edge = draw.choice([3.3e38, 3.4e38, 3.39e38, 1e39, 1e300])
    term = {"vector": "canary", "coefficient": edge, "unit": "raw"}
    position = draw.randrange(576)

    def generate(**fields: Any) -> tuple[str, str, bytes]:
        return "POST", "/v1/completions", json.dumps({**body("Hostile", None), **fields}).encode()

    def given(**fields: Any) -> tuple[str, str, bytes]:
        return generate(steering={"terms": [TERM | fields]})

    def patch(**fields: Any) -> tuple[str, str, bytes]:
        source = {"text": "The capital of France is", "answer": " Paris"}
        asked = {"source": source, "target": source | fields, "layers": [draw.choice([3, 30])]}
        return "POST", "/v1/patch", json.dumps(asked).encode()

    ways = [
        lambda: ("PUT", name, poisoned(vector, position, float("nan"))),
        lambda: ("PUT", name, poisoned(vector, position, float("inf"))),
        lambda: ("PUT", name, poisoned(vector, position, draw.choice([3.39e38, -3.4e38, 1e-45]))),
        lambda: ("PUT", name, wider(vector)),
        lambda: ("PUT", name, vector[: draw.randrange(len(vector))]),
        lambda: ("PUT", name, vector + b"\x00" * draw.randrange(1, 5000)),
        lambda: generate(steering={"terms": [term]}),
        lambda: generate(steering={"terms": [{**term, "operation": draw.choice(["set", "floor", "ceiling"])}]}),
        lambda: generate(steering={"terms": [{"vector": "sha256:" + "0" * 64, "coefficient": 1.0}]}),
        lambda: generate(steering={"terms": [{"vector": "canary", "coefficient": 1.0, "layers": [draw.choice([29, 30, 511])]}]}),
        lambda: generate(vllm_xargs={"trait_steering": json.dumps({"key": "x", "n": 1, "terms": [{"row": 10**6}]})}),
        lambda: generate(prompt=[10**9, -1]),
        lambda: generate(logit_bias={"999999": 100}),
        lambda: generate(allowed_token_ids=[draw.choice([-1, 10**7])]),
        lambda: generate(stop_token_ids=[10**12]),
        lambda: generate(prompt_embeds=embeds(float("nan")), prompt=None),
        lambda: generate(temperature=1e-30, top_k=-(2**31)),
        lambda: generate(structured_outputs={"regex": "(a|a)*" * 50 + "$"}),
        lambda: ("POST", "/v1/activations", json.dumps({"inputs": [{"token_ids": [10**9]}], "layers": [LAYER]}).encode()),
        lambda: ("POST", "/v1/activations", json.dumps({"inputs": [{"text": "x"}], "positions": ["all[-9:]"]}).encode()),
        lambda: given(vector=inline(draw.choice([np.nan, np.inf, 0.0]), draw.choice(["<f4", "<f2"]))),
        lambda: given(vector=inline([1.0] * draw.choice([1, 575, 577]))),
        lambda: given(vector=inline(draw.choice([3.4e38, 1e-45])), coefficient=edge, unit="raw"),
        lambda: given(vector=[inline(1.0)] * 2, operation="ablate"),
        lambda: given(vector=[inline(1.0)] * 17, operation="ablate"),
        lambda: given(when={**GATE, "above": draw.choice([3.4e38, -3.4e38, 1e300])}),
        lambda: given(when={**GATE, "layer": draw.choice([14, 29, 511]), "hold": draw.choice(["token", "latch", "prompt"])}),
        lambda: given(at=draw.choice(["attn_out", "mlp_out", "head", ""])),
        lambda: given(operation="rotate", coefficient=draw.choice([180.0, 181.0, 1e300, -0.0])),
        lambda: given(operation="replace", coefficient=edge, unit="raw", at="mlp_out"),
        lambda: generate(monitor={"vectors": ["canary"], "at": draw.choice(["attn_out", "mlp_out", "nowhere"])}),
        lambda: patch(answer=draw.choice(["", " ", "\x00", "A" * 9000])),
        lambda: patch(span=draw.choice(["capital", "i", "nowhere", ""])),
        lambda: patch(text="One two three " * 400),
        # At the edge of what is allowed: served, and no reason for the others to change.
        lambda: generate(steering={"terms": [{"vector": "canary", "coefficient": 20.0}]}, ignore_eos=True),
        lambda: generate(steering={"terms": [{"vector": "canary", "coefficient": -10.0, "operation": "scale"}]}),
    ]  # fmt: skip
    return draw.choice(ways)()


def tokens(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["token_ids"]


def test_a_hostile_member_leaves_every_other_members_tokens_as_they_were(attacked):
    batches = asked("TRAIT_HOSTILE_BATCHES", 4)
    draw = random.Random(7)
    statuses: dict[int, int] = {}
    with attacked.client() as client, ThreadPoolExecutor(len(MEMBERS) + 1) as pool:

        def batch(extra: tuple[str, str, bytes] | None) -> list[list[int]]:
            requests = [pool.submit(client.post, "/v1/completions", json=member) for member in MEMBERS]
            if extra is not None:
                method, path, content = extra
                headers = {"Content-Type": "application/json" if method == "POST" else "application/octet-stream"}
                answer = client.request(method, path, content=content, headers=headers)
                statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            return [tokens(request.result()) for request in requests]

        clean = batch(None)
        assert len({tuple(said) for said in clean}) > len(PROMPTS), "steering shows in the tokens"
        for i in range(batches):
            assert batch(hostile(attacked, draw)) == clean, f"batch {i}"
    print(f"\n{batches} batches of {len(MEMBERS)} members and a hostile one, answered {statuses}")
    assert statuses.get(500, 0) == 0
    assert statuses.get(400, 0) > 0
