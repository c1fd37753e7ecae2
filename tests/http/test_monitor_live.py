"""Monitoring over HTTP: projections of every token equal those of transformers' hidden states, however they are asked for."""

import json

import httpx
import numpy as np
import pytest
import torch
from trait_core.schema import MonitorReport
from trait_core.vectors.file import VectorFile

pytestmark = pytest.mark.engine

VECTORS = ["refusal", "sycophancy"]
LAYER = 13
QUESTION = [{"role": "user", "content": "Can you explain to me in a few words how bread is baked in an oven?"}]
STEER = {"terms": [{"vector": "refusal", "coefficient": 1.5, "layers": [LAYER]}]}


@pytest.fixture(scope="module")
def http(service_url):
    with httpx.Client(base_url=service_url, timeout=300) as client:
        yield client


@pytest.fixture(scope="module")
def files(http) -> dict[str, VectorFile]:
    return {
        name: VectorFile.from_bytes(
            http.get(f"/v1/vectors/{name}", headers={"accept": "application/octet-stream"}).raise_for_status().content
        )
        for name in VECTORS
    }


@pytest.fixture(scope="module")
def reference(smollm2_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm2_path, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(smollm2_path)


def ask(http, **fields) -> dict:
    body = {
        "messages": QUESTION,
        "max_tokens": 12,
        "temperature": 0,
        "return_token_ids": True,
        "monitor": {"vectors": VECTORS, "layers": [LAYER]},
        **fields,
    }
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(http, **fields) -> list[dict]:
    body = {
        "messages": QUESTION,
        "max_tokens": 12,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "monitor": {"vectors": VECTORS, "layers": [LAYER]},
        **fields,
    }
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]", lines[-1]
    return [json.loads(line) for line in lines[:-1]]


def expected(reference, files, ids: list[int], *, steered: bool = False, cosine: bool = False) -> np.ndarray:
    """`(n_tokens, n_vectors)`: centred projections of transformers' hidden states after the block."""
    model, _ = reference
    kept = {}
    file = files["refusal"]
    a = 1.5 * file.evidence(LAYER).residual_norm / 10

    def hook(_module, _args, output):
        stream = output[0] if isinstance(output, tuple) else output
        if steered:
            stream = stream + a * torch.from_numpy(file.directions[LAYER].copy())
        kept["stream"] = stream[0]
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handle = model.model.layers[LAYER].register_forward_hook(hook)
    try:
        with torch.no_grad():
            model(torch.tensor([ids]), use_cache=False)
    finally:
        handle.remove()
    stream = kept["stream"].numpy()
    columns = []
    for name in VECTORS:
        projection = stream @ files[name].directions[LAYER]
        columns.append(
            projection / np.linalg.norm(stream, axis=1) if cosine else projection - files[name].evidence(LAYER).centre
        )
    return np.stack(columns, axis=1)


def assert_equal_to_transformers(answer: dict, reference, files, **options) -> None:
    prompt, reply = answer["prompt_token_ids"], answer["choices"][0]["token_ids"]
    (choice,) = answer["monitor"]["choices"]
    table = expected(reference, files, [*prompt, *reply], **options)
    n = len(prompt)
    assert len(choice["prompt"]) == n == answer["usage"]["prompt_tokens"]
    assert len(choice["generated"]) == len(reply) == answer["usage"]["completion_tokens"]
    got = np.array([*choice["prompt"], *choice["generated"]])
    want = np.concatenate([table[:n], table[n - 1 : n - 1 + len(reply)]])
    assert np.abs(got - want).max() / np.abs(want).max() < 1e-3
    assert np.corrcoef(got[:, 0], want[:, 0])[0, 1] > 0.9999


def test_every_token_has_its_projection_on_every_vector(http, reference, files):
    answer = ask(http)
    assert [d["vector"] for d in answer["monitor"]["directions"]] == VECTORS
    assert answer["monitor"]["directions"][0]["centre"] == pytest.approx(files["refusal"].evidence(LAYER).centre)
    assert_equal_to_transformers(answer, reference, files)


def test_a_steered_request_is_monitored_after_steering(http, reference, files):
    answer = ask(http, steering=STEER)
    assert answer["steering"]["applied"][0]["vector"] == "refusal"
    assert_equal_to_transformers(answer, reference, files, steered=True)


def test_a_prompt_that_stands_in_the_prefix_cache_is_projected_all_the_same(http, reference, files):
    long = [{"role": "user", "content": "Well then, tell me about rivers. " * 60}]
    plain = {"messages": long, "max_tokens": 2, "temperature": 0}
    for _ in range(2):
        cached = http.post("/v1/chat/completions", json=plain).raise_for_status().json()
    assert cached["usage"]["prompt_tokens"] > 300
    answer = ask(http, messages=long, max_tokens=4)
    assert_equal_to_transformers(answer, reference, files)
    only_reply = ask(
        http, messages=long, max_tokens=4, monitor={"vectors": VECTORS, "layers": [LAYER], "prompt": False}
    )
    (choice,) = only_reply["monitor"]["choices"]
    assert choice["prompt"] == []
    assert np.abs(np.array(choice["generated"]) - answer["monitor"]["choices"][0]["generated"]).max() < 0.05


def test_the_chunks_of_a_stream_add_up_to_the_whole_and_come_with_their_tokens(http):
    whole = ask(http, steering=STEER)
    chunks = stream(http, steering=STEER)
    parts = [choice for chunk in chunks if "monitor" in chunk for choice in chunk["monitor"]["choices"]]
    generated = [row for part in parts for row in part["generated"]]
    (choice,) = whole["monitor"]["choices"]
    assert np.abs(np.array(generated) - choice["generated"]).max() < 0.05
    assert np.abs(np.array(parts[0]["prompt"]) - choice["prompt"]).max() < 0.05
    assert sum(len(part["prompt"]) for part in parts) == whole["usage"]["prompt_tokens"]
    assert sum(bool(part["generated"]) for part in parts) >= 6, "projections come while the reply is generated"
    (reported,) = [chunk for chunk in chunks if "steering" in chunk]
    assert reported["choices"][0]["finish_reason"]


def test_each_of_several_completions_has_its_own_projections(http):
    answer = ask(http, n=2, temperature=1.0, seed=3, max_tokens=6, ignore_eos=True)
    first, second = answer["monitor"]["choices"]
    assert [first["index"], second["index"]] == [0, 1]
    assert [len(c["generated"]) for c in (first, second)] == [len(c["token_ids"]) for c in answer["choices"]]
    assert first["generated"][0] == pytest.approx(second["generated"][0], abs=1e-2)  # one prompt, one first position
    ids = [c["token_ids"] for c in answer["choices"]]
    assert (ids[0] == ids[1]) == bool(np.allclose(first["generated"], second["generated"], atol=1e-2))


def test_cosines_lie_between_minus_one_and_one(http, reference, files):
    monitor = {"vectors": VECTORS, "layers": [LAYER], "cosine": True}
    answer = ask(http, monitor=monitor)
    assert_equal_to_transformers(answer, reference, files, cosine=True)


def test_a_bound_ends_the_reply_before_the_token_that_would_follow(http):
    free = ask(http, steering=STEER)
    values = [row[0] for row in free["monitor"]["choices"][0]["generated"]]
    at = int(np.argmax(values))
    assert at > 0, f"the first projection is the largest, so that a bound would leave no text: {values}"
    bound = (max(values[:at]) + values[at]) / 2
    monitor = {"vectors": VECTORS, "layers": [LAYER], "bounds": [{"vector": "refusal", "above": bound}]}
    answer = ask(http, steering=STEER, monitor=monitor)
    (choice,) = answer["choices"]
    crossed = answer["monitor"]["choices"][0]["crossed"]
    assert choice["finish_reason"] == "content_filter"
    assert choice["stop_reason"].startswith(f"monitor: refusal at layer {LAYER}")
    assert (crossed["vector"], crossed["token"], crossed["action"]) == ("refusal", at, "stop")
    assert crossed["value"] == pytest.approx(values[at], abs=0.05)
    assert choice["token_ids"][:at] == free["choices"][0]["token_ids"][:at]
    assert len(choice["token_ids"]) == at + 1
    assert choice["message"]["content"] == "" or free["choices"][0]["message"]["content"].startswith(
        choice["message"]["content"]
    )
    chunks = stream(http, steering=STEER, monitor=monitor)
    ends = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert ends == ["content_filter"]
    marked = ask(
        http, steering=STEER, monitor=monitor | {"bounds": [{"vector": "refusal", "above": bound, "action": "mark"}]}
    )
    assert marked["choices"][0]["token_ids"] == free["choices"][0]["token_ids"]
    assert marked["monitor"]["choices"][0]["crossed"]["token"] == at


def test_completions_of_several_prompts_are_monitored_each(http):
    body = {
        "prompt": ["The sun rises in the", "One, two, three, four,"],
        "max_tokens": 3,
        "temperature": 0,
        "monitor": {"vectors": ["refusal"]},
    }
    answer = http.post("/v1/completions", json=body).raise_for_status().json()
    report = MonitorReport.model_validate(answer["monitor"])
    assert [choice.index for choice in report.choices] == [0, 1]
    assert [len(choice.generated) for choice in report.choices] == [3, 3]
    assert sum(len(choice.prompt) for choice in report.choices) == answer["usage"]["prompt_tokens"]


LENS = {"layers": [LAYER, 29], "top_k": 3}


def said(reference, files, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of what two layers of the steered model say next, `(n_tokens, 2, vocabulary)`, by transformers."""
    model, _ = reference
    streams = {}
    added = 1.5 * files["refusal"].evidence(LAYER).residual_norm / 10 * files["refusal"].directions[LAYER]

    def hook(layer):
        def keep(_module, _args, output):
            stream = output[0] if isinstance(output, tuple) else output
            stream = stream + torch.from_numpy(added) if layer == LAYER else stream
            streams[layer] = stream[0]
            return (stream, *output[1:]) if isinstance(output, tuple) else stream

        return keep

    handles = [model.model.layers[layer].register_forward_hook(hook(layer)) for layer in LENS["layers"]]
    try:
        with torch.no_grad():
            model(torch.tensor([ids]), use_cache=False)
            read = [model.lm_head(model.model.norm(streams[layer])) for layer in LENS["layers"]]
    finally:
        for handle in handles:
            handle.remove()
    return torch.log_softmax(torch.stack(read, 1), -1)


def test_the_lens_says_what_the_steered_model_would_from_each_layer_streamed_or_not(http, reference, files):
    monitor = {"lens": LENS, "tokens": True}
    answer = ask(http, steering=STEER, monitor=monitor)
    prompt, reply = answer["prompt_token_ids"], answer["choices"][0]["token_ids"]
    (choice,) = answer["monitor"]["choices"]
    assert (answer["monitor"]["lens_layers"], answer["monitor"]["directions"]) == (LENS["layers"], [])
    expected = said(reference, files, [*prompt, *reply[:-1]])[len(prompt) - 1 :]
    ids = torch.tensor([[[guess["id"] for guess in layer] for layer in token] for token in choice["lens"]])
    logprobs = torch.tensor([[[guess["logprob"] for guess in layer] for layer in token] for token in choice["lens"]])
    assert ids.shape == (len(reply), 2, 3)
    assert float((expected.topk(3).values - logprobs).abs().max()) < 1e-3
    assert float((expected.gather(2, ids) - logprobs).abs().max()) < 1e-3
    assert ids[:, 1, 0].tolist() == reply, "the last layer says the token"
    assert [token[1][0]["text"] for token in choice["lens"]] == choice["generated_tokens"]
    chunks = [chunk["monitor"] for chunk in stream(http, steering=STEER, monitor=monitor) if "monitor" in chunk]
    assert [chunk["lens_layers"] for chunk in chunks] == [LENS["layers"], *[[]] * (len(chunks) - 1)]
    streamed = [token for chunk in chunks for part in chunk["choices"] for token in part["lens"]]
    assert [[layer[0]["id"] for layer in token] for token in streamed] == ids[:, :, 0].tolist()
    again = torch.tensor([[[guess["logprob"] for guess in layer] for layer in token] for token in streamed])
    assert float((again - logprobs).abs().max()) < 1e-3


def test_projections_and_a_lens_of_several_prompts_select_their_positions(http):
    body = {
        "prompt": ["The sun rises in the", "One, two, three, four,"],
        "max_tokens": 5,
        "temperature": 0,
        "monitor": {"vectors": ["refusal"], "lens": LENS, "positions": "response[::2]"},
    }
    report = MonitorReport.model_validate(http.post("/v1/completions", json=body).raise_for_status().json()["monitor"])
    for choice in report.choices:
        assert len(choice.lens) == len(choice.generated) == len(choice.generated_positions) == 2
    whole = http.post("/v1/completions", json=body | {"monitor": {"lens": LENS}}).raise_for_status().json()
    for choice, every in zip(report.choices, whole["monitor"]["choices"], strict=True):
        assert [layers[0][0].id for layers in choice.lens] == [layers[0][0]["id"] for layers in every["lens"][1::2]]


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ({"vectors": ["missing"]}, "missing"),
        ({"vectors": ["refusal"], "layers": [99]}, "layer 99 is out of range: 0..29"),
        ({"vectors": ["refusal"], "bounds": [{"vector": "refusal"}]}, "above or below"),
        ({"vectors": []}, "needs vectors, a lens, or both"),
        ({"lens": {"layers": [30]}}, "layer 30 is out of range: the model has layers 0..29"),
        ({"lens": {"layers": [3], "top_k": 51}}, "50"),
        ({"lens": {"layers": [3, 3]}}, "name one layer twice"),
        ({"lens": {"layers": list(range(30))}}, "30 layers of 20 completions, 600 in a step; allowed: 1..512"),
        ({"vectors": ["refusal"], "centered": True}, "centered"),
    ],
)
def test_what_cannot_be_monitored_is_refused(http, monitor, message):
    n = 20 if len(monitor.get("lens", {}).get("layers", ())) == 30 else 1
    body = {"messages": QUESTION, "max_tokens": 2, "monitor": monitor, "n": n}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code in (400, 404)
    assert message in answer.json()["error"]["message"]
