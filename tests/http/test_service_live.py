"""A running service with SmolLM2: steering over HTTP and the OpenAI SDK, activations against transformers."""

import base64
import concurrent.futures
import hashlib
import json
import time

import httpx
import numpy as np
import openai
import pytest
import safetensors.numpy
from trait_core.schema import ActivationsMetadata, ServiceInfo, SteeringReport, VectorInfo
from trait_core.storage import sha256_of
from trait_core.vectors.file import METADATA_KEY
from trait_core.vectors.inline import inline_vector
from vector_fixtures import random_vector

pytestmark = pytest.mark.engine

LAYER = 12
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."


@pytest.fixture(scope="module")
def http(service_url):
    with httpx.Client(base_url=service_url, timeout=300) as client:
        yield client


@pytest.fixture(scope="module")
def info(http) -> ServiceInfo:
    return ServiceInfo.model_validate(http.get("/v1/steering").raise_for_status().json())


@pytest.fixture(scope="module")
def vector(http, info):
    """A registered vector; its name."""
    name = "http-test"
    http.put(f"/v1/vectors/{name}", content=random_vector(info, 0).to_bytes()).raise_for_status()
    yield name
    http.delete(f"/v1/vectors/{name}").raise_for_status()


def chat(http, **fields: object) -> httpx.Response:
    body = {"messages": QUESTION, "max_tokens": 8, "temperature": 0, "logprobs": True, **fields}
    return http.post("/v1/chat/completions", json=body)


def terms(vector: str, coefficient: float = 2.0, **fields: object) -> dict:
    return {"terms": [{"vector": vector, "coefficient": coefficient, **fields}]}


def logprobs(response: httpx.Response) -> np.ndarray:
    entries = response.raise_for_status().json()["choices"][0]["logprobs"]["content"]
    return np.array([entry["logprob"] for entry in entries])


def message_of(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == status
    return error["message"]


# ------------------------------------------------------------------------------------------------------------ steering


def test_the_service_says_what_it_is(info):
    assert (info.n_layers, info.d_model) == (30, 576)
    assert len(info.residual_norms) == 30
    assert info.operations == ["add", "ablate", "set", "scale", "floor", "ceiling", "replace", "rotate"]


def test_an_unsteered_answer_is_the_models_own(http):
    body = chat(http).raise_for_status().json()
    assert body["choices"][0]["message"]["content"] == ANSWER
    assert "steering" not in body


def test_a_steered_answer_differs_and_brings_a_report(http, vector, info):
    steered = chat(http, steering=terms(vector))
    assert not np.allclose(logprobs(steered)[0], logprobs(chat(http))[0], atol=1e-3)
    report = SteeringReport.model_validate(steered.json()["steering"])
    (term,) = report.applied
    assert (term.vector, term.layer, term.unit, term.coefficient) == (vector, LAYER, "dose", 2.0)
    assert term.a == pytest.approx(0.2 * info.residual_norms[LAYER], rel=1e-5)
    assert term.relative_dose == pytest.approx(0.2)
    usage = steered.json()["usage"]
    assert report.positions.prompt == usage["prompt_tokens"]
    assert report.positions.generated == usage["completion_tokens"] - 1


def test_coefficient_zero_is_the_baseline(http, vector):
    assert np.allclose(logprobs(chat(http, steering=terms(vector, 0.0))), logprobs(chat(http)), atol=1e-3)


def test_a_term_with_a_gate_acts_where_it_is_open_and_the_report_counts_where(http, vector, info):
    def steered(**when) -> httpx.Response:
        return chat(http, steering=terms(vector, 2.0, when={"vector": vector, **when}))

    always, never, some = steered(above=-1e6), steered(below=-1e6), steered(above=0.0, centred=False)
    assert np.allclose(logprobs(always), logprobs(chat(http, steering=terms(vector))), atol=1e-3)
    assert np.allclose(logprobs(never), logprobs(chat(http)), atol=1e-3)
    counts = [answer.json()["steering"] for answer in (always, never, some)]
    usage = always.json()["usage"]
    n_prompt = usage["prompt_tokens"]
    assert counts[0]["applied"][0]["acted"] == {"prompt": n_prompt, "generated": usage["completion_tokens"] - 1}
    assert (
        counts[1]["applied"][0]["acted"]
        == {"prompt": 0, "generated": 0}
        == {name: counts[1]["positions"][name] for name in ("prompt", "generated")}
    )
    assert 0 < counts[2]["applied"][0]["acted"]["prompt"] < n_prompt
    when = counts[2]["applied"][0]["when"]
    assert (when["vector"], when["layer"], when["above"], when["bound"], when["hold"]) == (vector, LAYER, 0, 0, "token")
    early = inline_vector(np.ones(info.d_model)).model_dump()
    assert "is too late for resid_post of layer" in message_of(
        chat(http, steering=terms(early, layers=[LAYER - 1], when={"vector": vector, "layer": LAYER, "above": 0})), 400
    )
    assert "registered" in message_of(chat(http, steering=terms(vector, when={"vector": "nobody", "above": 0})), 400)


def test_an_inline_vector_steers_like_the_registered_one(http, vector, info):
    direction = random_vector(info, 0).directions[LAYER]
    sent = inline_vector(7 * direction).model_dump()
    inline = chat(http, steering=terms(sent, 2.0, layers=[LAYER]))
    assert np.allclose(logprobs(inline), logprobs(chat(http, steering=terms(vector))), atol=1e-3)
    assert inline.json()["steering"]["applied"][0]["vector"] == "inline"
    wrong = chat(http, steering=terms(inline_vector(np.ones(3)).model_dump(), layers=[LAYER]))
    assert message_of(wrong, 400).startswith("the inline vector holds 12 bytes")


def test_three_hundred_inline_vectors_in_a_row_leave_no_trace(http, vector, info):
    before = http.get("/v1/vectors").json()
    directions = np.random.default_rng(0).standard_normal((300, info.d_model))

    def first_logprob(direction: np.ndarray) -> float:
        steering = terms(inline_vector(direction, "float16").model_dump(), 2.0, layers=[LAYER])
        return float(logprobs(chat(http, max_tokens=1, steering=steering))[0])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(first_logprob, directions))
    assert len(set(found)) > 250
    assert found[17] == pytest.approx(first_logprob(directions[17]), abs=1e-3)
    assert http.get("/v1/vectors").json() == before
    assert 'trait_bank_rows{state="held"} 0.0' in http.get("/metrics").text
    assert np.allclose(logprobs(chat(http, steering=terms(vector, 0.0))), logprobs(chat(http)), atol=1e-3)


def test_an_alias_steers_like_the_field(http, vector, info):
    by_alias = chat(http, model=f"{info.model}+{vector}@2")
    assert np.allclose(logprobs(by_alias), logprobs(chat(http, steering=terms(vector))), atol=1e-3)
    assert by_alias.json()["steering"]["applied"][0]["coefficient"] == 2.0


def test_an_alias_and_the_field_add_up(http, vector, info):
    both = chat(http, model=f"{info.model}+{vector}@1", steering=terms(vector, 1.0))
    assert np.allclose(logprobs(both), logprobs(chat(http, steering=terms(vector))), atol=1e-3)
    assert len(both.json()["steering"]["applied"]) == 2


def test_models_lists_the_base_and_an_alias_of_every_vector(http, vector, info):
    names = [model["id"] for model in http.get("/v1/models").json()["data"]]
    assert names[0] == info.model
    assert f"{info.model}+{vector}@1" in names


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}, {"n": 3, "temperature": 1.0}])
def test_a_stream_carries_the_report_in_the_chunk_with_the_finish_reason(http, vector, options):
    body = {"messages": QUESTION, "max_tokens": 4, "stream": True, "ignore_eos": True, "steering": terms(vector)}
    with http.stream("POST", "/v1/chat/completions", json=body | options) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    if "stream_options" in options:  # vLLM's own chunk without a choice
        assert chunks.pop()["usage"]
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    (last,) = [chunk for chunk in chunks if "steering" in chunk]
    assert last == chunks[-1]
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["object"] == "chat.completion.chunk"
    assert SteeringReport.model_validate(last["steering"]).positions.generated == 3 * options.get("n", 1)


def test_completions_are_steered_prompt_by_prompt(http, vector):
    body = {"prompt": ["The cat", "One two three"], "max_tokens": 3, "steering": terms(vector), "ignore_eos": True}
    answer = http.post("/v1/completions", json=body).raise_for_status().json()
    positions = answer["steering"]["positions"]
    assert positions["prompt"] == answer["usage"]["prompt_tokens"]
    assert positions["generated"] == 2 * (3 - 1)


def test_a_streamed_completion_of_several_prompts_carries_one_report(http, vector):
    body = {
        "prompt": ["The cat", "One two"],
        "max_tokens": 3,
        "stream": True,
        "ignore_eos": True,
        "steering": terms(vector),
    }
    lines = [line for line in http.post("/v1/completions", json=body).text.splitlines() if line]
    assert lines.pop() == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert ["steering" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["object"] == "text_completion"
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["steering"]["positions"]["generated"] == 2 * 2


def test_several_samples_are_summed_in_one_report(http, vector):
    body = chat(http, n=3, temperature=1, seed=1, ignore_eos=True, max_tokens=4, steering=terms(vector)).json()
    assert len(body["choices"]) == 3
    assert body["steering"]["positions"]["generated"] == 3 * 3


def test_requests_of_one_batch_do_not_see_each_other(http, vector):
    """Cached prefixes included: every coefficient gives, in a crowd, what it gives alone."""
    coefficients = [0.0, 1.0, 2.0, 3.0, -1.0, -2.0]
    alone = [logprobs(chat(http, steering=terms(vector, c), cache_salt=f"alone{c}")) for c in coefficients]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        crowd = list(pool.map(lambda c: logprobs(chat(http, steering=terms(vector, c))), coefficients * 2))
    for expected, *found in zip(alone, crowd[: len(alone)], crowd[len(alone) :], strict=True):
        for got in found:
            assert np.allclose(got, expected, atol=2e-3)


def test_a_cached_prefix_serves_its_own_steering_only(http, vector):
    """The prompt is longer than two cache blocks of 128 tokens."""
    text = "The market opens at seven in the morning, and people walk between the tables. " * 24

    def first_logprob(coefficient: float, salt: str | None = None) -> tuple[float, int]:
        body = {"prompt": text, "max_tokens": 1, "temperature": 0, "logprobs": 1}
        body |= {"steering": terms(vector, coefficient)} if coefficient else {}
        body |= {"cache_salt": salt} if salt else {}
        answer = http.post("/v1/completions", json=body).raise_for_status().json()
        cached = answer["steering"]["positions"]["cached"] if coefficient else 0
        return answer["choices"][0]["logprobs"]["token_logprobs"][0], cached

    warm = [first_logprob(c) for c in (0.0, 3.0, -3.0)]
    again = [first_logprob(c) for c in (0.0, 3.0, -3.0)]
    fresh = [first_logprob(c, salt=f"fresh{c}") for c in (0.0, 3.0, -3.0)]
    assert again[1][1] >= 256
    assert fresh[1][1] == 0
    assert warm[1][0] != pytest.approx(warm[2][0], abs=1e-3)
    for one, two, three in zip(warm, again, fresh, strict=True):
        assert one[0] == pytest.approx(two[0], abs=2e-3)
        assert one[0] == pytest.approx(three[0], abs=2e-3)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        (terms("nope"), "'nope'"),
        (terms("http-test", layers=[30]), r"0..29"),
        (terms("http-test", layers=[3]), "not in vector"),
        (terms("http-test", 1000.0), "at most 2"),
        (terms("http-test", 11.0, operation="scale"), "allowed: -10..10"),
    ],
)
def test_a_request_that_cannot_be_steered_as_asked_is_refused(http, vector, steering, message):
    assert vector == "http-test"
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/activations"):
        body = {"messages": QUESTION, "prompt": "Hi", "max_tokens": 1}
        if path == "/v1/activations":
            body = {"inputs": [{"text": "Hi", "response": " you"}]}
        assert message in message_of(http.post(path, json={**body, "steering": steering}), 400)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steerng": {}}, "did you mean 'steering'"),
        ({"capture": {}}, "POST /v1/activations"),
        ({"vllm_xargs": {"trait_steering": "{}"}}, "reserved"),
        ({"vllm_xargs": {"steering": "{}"}}, "at the top level"),
        ({"extra_body": {"steering": {"terms": []}}}, "at the top level"),
        ({"steer_vector_request": {"scale": 3}}, "did you mean 'steering'"),
        ({"n": 100000}, "1..128"),
        ({"steering": {"terms": [{"vector": "http-test", "coefficient": 1}]}, "use_beam_search": True}, "beam"),
    ],
)
@pytest.mark.usefixtures("vector")
def test_fields_that_would_be_ignored_are_refused(http, fields, message):
    assert message in message_of(chat(http, **fields), 400)


def test_numbers_that_are_none_are_a_400(http):
    content = b'{"messages": [], "steering": {"terms": [{"vector": "x", "coefficient": NaN}]}}'
    response = http.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert "NaN" in message_of(response, 400)


def test_an_alias_of_an_unknown_vector_is_a_404(http, info):
    assert "'nope'" in message_of(chat(http, model=f"{info.model}+nope@1"), 404)


@pytest.mark.parametrize("stream", [False, True])
def test_a_double_bos_is_refused(http, stream):
    response = http.post("/v1/completions", json={"prompt": [1, 1, 504], "stream": stream})
    assert "two BOS" in message_of(response, 400)


ROUTES_THAT_DO_NOT_STEER = {
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": QUESTION, "max_tokens": 2},
    "/v1/chat/completions/batch": {"messages": [QUESTION], "max_tokens": 2},
    "/generative_scoring": {"query": "a", "items": ["b"], "label_token_ids": [1, 2]},
    "/invocations": {"messages": QUESTION, "max_tokens": 2},
}


@pytest.mark.parametrize("path", ROUTES_THAT_DO_NOT_STEER)
def test_routes_that_do_not_steer_refuse_steering_in_every_form(http, vector, info, path):
    body = {"model": info.model, **ROUTES_THAT_DO_NOT_STEER[path]}
    assert http.post(path, json=body).status_code == 200, "without steering it answers"
    for asked in ({"steering": terms(vector)}, {"extra_body": {"steering": {}}}, {"steering_vectors": []}):
        assert '"steering": {"terms"' in message_of(http.post(path, json=body | asked), 400)
    assert "does not steer" in message_of(http.post(path, json=body | {"model": f"{info.model}+{vector}@1"}), 404)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_contents_that_speak_of_steering_are_served(http, path):
    """Only the names of request fields are judged."""
    tool = {"name": "drive", "parameters": {"type": "object", "properties": {"steering_angle": {"type": "number"}}}}
    body = {"prompt": "steering", "max_tokens": 2, "metadata": {"steering": "x"}, "vllm_xargs": {"note": "steering"}}
    if path == "/v1/chat/completions":
        body |= {"messages": QUESTION, "tools": [{"type": "function", "function": tool}], "tool_choice": "none"}
        del body["prompt"]
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert "steering" not in answer.json()


# ------------------------------------------------------------------------------------------------------------ registry


def test_a_vector_comes_back_as_it_was_put_and_goes(http, info):
    data = random_vector(info, 7).to_bytes()
    put = http.put("/v1/vectors/http-roundtrip", content=data)
    assert put.status_code == 201
    sha256 = put.json()["sha256"]
    got = http.get(f"/v1/vectors/{sha256}", headers={"Accept": "application/octet-stream"})
    assert got.content == data
    assert http.get("/v1/vectors/http-roundtrip").json()["metadata"]["chosen_layer"] == LAYER
    assert "http-roundtrip" in [entry["name"] for entry in http.get("/v1/vectors").json()["vectors"]]
    assert http.delete("/v1/vectors/http-roundtrip").status_code == 204
    assert "http-roundtrip" in message_of(http.get("/v1/vectors/http-roundtrip"), 404)


def test_names_have_versions_aliases_and_a_way_back(http, info):
    first, second = (random_vector(info, seed).to_bytes() for seed in (21, 22))
    for data in (first, second):
        http.put("/v1/vectors/http-versions", content=data).raise_for_status()
    shown = VectorInfo.model_validate(http.get("/v1/vectors/http-versions").json())
    assert [version.sha256 for version in shown.versions] == [sha256_of(first), sha256_of(second)]
    before = chat(http, steering=terms(sha256_of(first))).json()["steering"]["applied"][0]
    assert before["sha256"] == sha256_of(first)
    back = http.put("/v1/vectors/http-versions", json={"vector": sha256_of(first)})
    assert (back.status_code, back.json()["sha256"], back.json()["version"]) == (201, sha256_of(first), 3)
    alias = http.put("/v1/vectors/http-alias", json={"vector": "http-versions"})
    assert alias.json()["sha256"] == sha256_of(first)
    for body in ({"vector": "nothing-here"}, {"vector": "../x"}, {"vektor": "x"}, {"vector": 1}, []):
        assert http.put("/v1/vectors/http-alias", json=body).status_code in (400, 404), body
    for name in ("http-versions", "http-alias"):
        assert http.delete(f"/v1/vectors/{name}").status_code == 204


def test_an_upload_that_was_damaged_on_its_way_is_refused(http, info):
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    headers = {"Content-Digest": f"sha-256=:{digest}:"}
    response = http.put("/v1/vectors/http-damaged", content=random_vector(info, 9).to_bytes(), headers=headers)
    assert "damaged" in message_of(response, 400)
    assert http.get("/v1/vectors/http-damaged").status_code == 404


def test_a_vector_is_not_deleted_while_a_request_uses_it(http, info):
    http.put("/v1/vectors/http-used", content=random_vector(info, 23).to_bytes()).raise_for_status()
    body = {"prompt": "One", "max_tokens": 400, "ignore_eos": True, "stream": True, "steering": terms("http-used")}
    with http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()  # httpx hangs up when it is dropped
        next(lines)
        assert "1 running request" in message_of(http.delete("/v1/vectors/http-used"), 409)
        assert http.get("/v1/vectors/http-used").status_code == 200
    deadline = time.monotonic() + 30
    while http.delete("/v1/vectors/http-used").status_code == 409:
        assert time.monotonic() < deadline, "a client that has gone still holds its vector"
        time.sleep(0.2)
    assert http.get("/v1/vectors/http-used").status_code == 404


def test_a_vector_of_another_model_is_refused(http, info):
    other = random_vector(info, 8, config_digest="sha256:other").to_bytes()
    assert "allow_other_model" in message_of(http.put("/v1/vectors/http-other", content=other), 400)
    registered = http.put("/v1/vectors/http-other?allow_other_model=true", content=other)
    assert registered.status_code == 201
    metadata = VectorInfo.model_validate(registered.json()).metadata
    assert (metadata.config_digest, metadata.extracted_on.config_digest) == (info.config_digest, "sha256:other")
    assert metadata.extracted_on.sha256 == sha256_of(other)
    stored = http.get("/v1/vectors/http-other", headers={"accept": "application/octet-stream"}).content
    assert sha256_of(stored) == registered.json()["sha256"]
    # As of a base model: the same shape, other weights.
    tuned = random_vector(info, 8, weights_digest="sha256:other").to_bytes()
    assert info.weights_digest in message_of(http.put("/v1/vectors/http-other", content=tuned), 400)
    assert http.put("/v1/vectors/http-other", content=stored).status_code == 201
    assert http.delete("/v1/vectors/http-other").status_code == 204
    deeper = random_vector(info, 8, n_layers=31).to_bytes()
    assert "31" in message_of(http.put("/v1/vectors/http-other?allow_other_model=true", content=deeper), 400)
    assert "safetensors" in message_of(http.put("/v1/vectors/http-other", content=b"not a vector"), 400)


# --------------------------------------------------------------------------------------------------------- OpenAI's SDK


@pytest.fixture
def sdk(service_url):
    return openai.OpenAI(base_url=f"{service_url}/v1", api_key="none", max_retries=0)


def test_the_sdk_steers_with_extra_body(sdk, vector, info):
    answer = sdk.chat.completions.create(
        model=info.model, messages=QUESTION, max_tokens=4, extra_body={"steering": terms(vector)}
    )
    assert SteeringReport.model_validate(answer.model_extra["steering"]).applied[0].vector == vector


def test_the_sdk_steers_with_an_alias(sdk, vector, info):
    answer = sdk.chat.completions.create(model=f"{info.model}+{vector}@2", messages=QUESTION, max_tokens=4)
    assert answer.model_extra["steering"]["applied"][0]["coefficient"] == 2.0


def test_the_sdk_reads_a_stream_to_its_report(sdk, vector, info):
    stream = sdk.chat.completions.create(
        model=info.model, messages=QUESTION, max_tokens=4, stream=True, extra_body={"steering": terms(vector)}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].model_extra["steering"]["positions"]["generated"] == 3


def test_the_sdks_responses_are_refused_with_the_routes_that_steer(sdk, vector, info):
    with pytest.raises(openai.BadRequestError, match=r"does not read 'steering'.*/v1/chat/completions"):
        sdk.responses.create(model=info.model, input="Hi", extra_body={"steering": terms(vector)})
    with pytest.raises(openai.NotFoundError, match="this route does not steer"):
        sdk.responses.create(model=f"{info.model}+{vector}@1", input="Hi")


def test_the_sdk_raises_the_services_errors(sdk, info):
    with pytest.raises(openai.BadRequestError, match="'nope'") as caught:
        sdk.chat.completions.create(model=info.model, messages=QUESTION, extra_body={"steering": terms("nope")})
    assert caught.value.param == "steering.terms[0].vector"
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model=f"{info.model}+nope@1", messages=QUESTION)


# ---------------------------------------------------------------------------------------------------------- activations


def read(http, **body: object) -> tuple[dict[str, np.ndarray], ActivationsMetadata]:
    response = http.post("/v1/activations", json=body)
    assert response.status_code == 200, response.text
    header = json.loads(response.content[8 : 8 + int.from_bytes(response.content[:8], "little")])
    return safetensors.numpy.load(response.content), ActivationsMetadata.model_validate_json(
        header["__metadata__"][METADATA_KEY]
    )


@pytest.fixture(scope="module")
def reference(smollm2_path):
    """Residual stream and logprobs in transformers, float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    model = AutoModelForCausalLM.from_pretrained(smollm2_path, dtype=torch.float32)

    def run(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """After each block `(n_layers, n_tokens, d_model)`, and `(n_tokens, vocabulary)` logprobs."""
        after = []
        hooks = [
            block.register_forward_hook(lambda _m, _i, out: after.append(out[0] if isinstance(out, tuple) else out))
            for block in model.model.layers
        ]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        for hook in hooks:
            hook.remove()
        return torch.stack([stream.reshape(len(ids), -1) for stream in after]).numpy(), logits.log_softmax(-1).numpy()

    return tokenizer, run


def test_activations_are_those_of_transformers(http, reference):
    tokenizer, run = reference
    template = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    cases = [
        ({"messages": QUESTION, "response": ANSWER}, tokenizer.encode(template), ANSWER),
        (
            {"text": "Once upon a time there", "response": " was a king."},
            tokenizer.encode("Once upon a time there"),
            " was a king.",
        ),
        ({"token_ids": [100, 200, 300, 400, 500, 600], "n_prompt": 2}, [100, 200], None),
    ]
    positions = ["response[:]", "prompt[-1]", "all[4:]", "response[:2]"]
    tensors, metadata = read(http, inputs=[case[0] for case in cases], positions=positions, logprobs=True)
    assert metadata.layers == list(range(30))
    for i, (given, prompt, response) in enumerate(cases):
        ids = given.get("token_ids") or [*prompt, *tokenizer.encode(response, add_special_tokens=False)]
        n = len(prompt)
        stream, logits = run(ids)
        assert (tensors["n_prompt"][i], tensors["n_response"][i]) == (n, len(ids) - n)
        slices = {
            "response[:]": slice(n, None),
            "prompt[-1]": slice(n - 1, n),
            "all[4:]": slice(4, None),
            "response[:2]": slice(n, n + 2),
        }
        for name, where in slices.items():
            expected = stream[:, where].mean(1)
            assert np.abs(tensors[f"mean/{name}"][i] - expected).max() < 1e-4 * np.abs(expected).max()
            norms = np.linalg.norm(stream[:, where], axis=-1).mean(1)
            assert np.allclose(tensors[f"norm/{name}"][i], norms, rtol=1e-4)
            assert tensors[f"count/{name}"][i] == len(range(len(ids))[where])
        nll = -np.mean([logits[k - 1, ids[k]] for k in range(n, len(ids))])
        assert tensors["nll"][i] == pytest.approx(nll, abs=1e-3)


def test_generated_replies_are_read_while_they_are_generated(http, reference):
    tokenizer, run = reference
    tensors, metadata = read(
        http, inputs=[{"messages": QUESTION}], positions=["response[:]"], layers=[20, 4], generate={"max_tokens": 8}
    )
    assert metadata.responses == [ANSWER]
    assert metadata.layers == [4, 20]
    prompt = tokenizer.encode(tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False))
    ids = [*prompt, *tokenizer.encode(ANSWER, add_special_tokens=False)]
    stream, _ = run(ids)
    n_read = tensors["count/response[:]"][0]
    assert n_read in (len(ids) - len(prompt), len(ids) - len(prompt) - 1)
    expected = stream[[4, 20], len(prompt) : len(prompt) + n_read].mean(1)
    assert np.abs(tensors["mean/response[:]"][0] - expected).max() < 1e-4 * np.abs(expected).max()


def test_steered_reading_moves_the_layer_by_exactly_a(http, vector, info):
    inputs = [{"text": "The cat sat on", "response": " the mat."}]
    plain, _ = read(http, inputs=inputs)
    moved, metadata = read(http, inputs=inputs, steering=terms(vector, 2.0))
    key = "mean/response[:]"
    delta = moved[key][0] - plain[key][0]
    assert np.array_equal(moved[key][0][:LAYER], plain[key][0][:LAYER])
    direction = random_vector(info, 0).directions[LAYER]
    assert np.allclose(delta[LAYER], 0.2 * info.residual_norms[LAYER] * direction, atol=1e-2)
    assert metadata.steering.applied[0].layer == LAYER


def test_the_ablation_of_a_subspace_leaves_nothing_of_it(http, vector, info):
    """Every vector of the list has no projection left, at any position; an ablation of one after another would leave some."""
    spanning = [random_vector(info, 0).directions[LAYER].astype(np.float64)]
    noise = np.random.default_rng(1).standard_normal((2, info.d_model)) / np.sqrt(info.d_model)
    spanning += [spanning[0] + noise[0], spanning[0] - 0.5 * noise[0] + noise[1]]
    vectors = [vector, *(inline_vector(row).model_dump() for row in spanning[1:])]
    ablation = {"terms": [{"vector": vectors, "coefficient": 0.0, "operation": "ablate", "layers": [LAYER]}]}
    body = {"inputs": [{"text": "The cat sat on", "response": " the mat."}], "layers": [LAYER]}
    kept, metadata = read(http, **body, positions=["all[:]"], pooling="none", steering=ablation)
    plain, _ = read(http, **body, positions=["all[:]"], pooling="none")
    assert [term.vector for term in metadata.steering.applied] == [vector, "inline", "inline"]
    for row in spanning:
        along = row / np.linalg.norm(row)
        assert np.abs(plain["each/all[:]"][:, 0] @ along).max() > 1
        assert np.abs(kept["each/all[:]"][:, 0] @ along).max() < 1e-2
    basis, _ = np.linalg.qr(np.stack(spanning, 1))
    expected = plain["each/all[:]"][:, 0] - (plain["each/all[:]"][:, 0] @ basis) @ basis.T
    assert np.allclose(kept["each/all[:]"][:, 0], expected, atol=2e-2)


def test_a_chat_is_read_with_the_very_tokens_that_it_is_served_with(http):
    answer = chat(http, return_token_ids=True).json()
    ids = answer["prompt_token_ids"]
    assert len(ids) == answer["usage"]["prompt_tokens"]
    inputs = [{"messages": QUESTION}, {"token_ids": ids}, {"messages": QUESTION, "response": ANSWER}]
    tensors, _ = read(http, inputs=inputs, positions=["prompt[:]"])
    assert tensors["n_prompt"].tolist() == [len(ids)] * 3
    by_messages, by_ids, with_response = tensors["mean/prompt[:]"]
    np.testing.assert_allclose(by_messages, by_ids, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(with_response, by_ids, rtol=1e-4, atol=1e-3)


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
ANSWERED = {
    "role": "assistant",
    "content": "Hi",
    "refusal": None,
    "function_call": None,
    "tool_calls": [],
    "reasoning": None,
}
CHATS = {
    "no content beside tool calls": [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
    "a tool's answer": [
        *QUESTION,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "12 degrees"}]},
    ],
    "parts of text": [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]}
    ],
    "a developer": [{"role": "developer", "content": "Be brief."}, *QUESTION],
    "a role of one's own": [{"role": "critic", "content": "Hm."}, *QUESTION],
    "a name": [{"role": "user", "name": "bob", "content": "Hi"}],
    "a reply as the chat route gives it": [*QUESTION, ANSWERED],
    "an image": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}]}
    ],
    "a part that nobody knows": [{"role": "user", "content": [{"type": "smell", "smell": 1}]}],
    "a call without its name": [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]}],
}


@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS)
def test_activations_take_the_messages_that_the_chat_route_takes(http, messages):
    """The same tokens, or a refusal that names the input."""
    answer = chat(http, messages=messages, max_tokens=1, return_token_ids=True)
    if answer.status_code == 200:
        tensors, _ = read(http, inputs=[{"messages": messages}], positions=["prompt[:]"], layers=[3])
        assert tensors["n_prompt"].tolist() == [len(answer.json()["prompt_token_ids"])]
    else:
        body = {"inputs": [{"messages": QUESTION}, {"messages": messages}], "positions": ["prompt[:]"]}
        assert message_of(http.post("/v1/activations", json=body), answer.status_code).startswith("inputs[1]: ")


def test_many_inputs_are_read_in_order(http):
    inputs = [{"text": "Count:" + " one" * (i % 9), "response": " done"} for i in range(64)]
    tensors, _ = read(http, inputs=inputs, layers=[3], positions=["response[:]", "all[:]", "prompt[:]"])
    counts = tensors["count/prompt[:]"]
    assert counts.tolist() == tensors["n_prompt"].tolist()
    assert [int(count) for count in counts[:9]] == sorted(set(counts.tolist()))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": [{"text": "a", "response": "b"}, {"text": "word " * 20000, "response": "b"}]}, "inputs[1]"),
        ({"inputs": [{"token_ids": [1, 10**6]}], "positions": ["prompt[:]"]}, "inputs[0]"),
        (
            {"inputs": [{"token_ids": [1, 1, 5]}], "positions": ["prompt[:]"]},
            "inputs[0]: the prompt begins with two BOS",
        ),
        ({"inputs": [{"text": "no response"}]}, "inputs[0]: positions response[:] are empty"),
        ({"inputs": [{"text": "a"}], "positions": ["prompt[:]"], "logprobs": True}, "inputs[0]: logprobs need"),
        ({"inputs": [{"text": "a", "response": "b"}], "layers": [30]}, "0..29"),
        ({"inputs": [{"text": "a", "response": "b"}], "positions": ["reply[:]"]}, "not understood"),
        ({"inputs": [{"text": "a", "response": "b"}], "positions": ["answer[:]"]}, "--reasoning-markers"),
        ({"inputs": [{"text": "a"}], "generate": {"max_tokens": 4}, "positions": ["response[-1]"]}, "being generated"),
        ({"inputs": [{"text": "a", "response": "b"}], "model": "other"}, "not served"),
        ({"inputs": []}, "at least 1"),
        ({"input": []}, "inputs"),
    ],
)
def test_inputs_that_cannot_be_read_are_named(http, body, message):
    response = http.post("/v1/activations", json=body)
    assert message in message_of(response, 404 if "model" in body else 400)


# --------------------------------------------------------------------------------------------------------------- health


def test_health(http):
    assert http.get("/v1/health/live").json() == {"status": "live"}
    assert http.get("/v1/health/ready").json() == {"status": "ready"}
