"""`POST /v1/activations` without pooling, and turns of a chat: equal to transformers' hidden states at every position."""

import numpy as np
import pytest
import torch
from trait_client.http import TraitClient
from trait_core.errors import ServiceError
from trait_core.schema import ActivationInput, ActivationsRequest, Generation, Message, Steering, SteeringTerm

pytestmark = pytest.mark.engine

LAYERS = [3, 13]
CHAT = [
    Message(role="user", content="Name a fruit."),
    Message(role="assistant", content="An apple."),
    Message(role="user", content="And a colour?"),
]
STEER = Steering(terms=[SteeringTerm(vector="refusal", coefficient=2.0, layers=[13])])


@pytest.fixture(scope="module")
def client(service_url):
    with TraitClient(service_url) as made:
        yield made


@pytest.fixture(scope="module")
def reference(smollm2_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm2_path, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(smollm2_path)


def hidden_states(reference, ids: list[int]) -> np.ndarray:
    """`(n_tokens, n_layers_read, d_model)`."""
    model, _ = reference
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return np.stack([states[layer + 1][0].numpy() for layer in LAYERS], axis=1)


def ids_of(reference, messages, *, reply: str = "", header: bool = True) -> list[int]:
    _, tokenizer = reference
    turns = [message.model_dump() for message in messages]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=header, return_dict=False)
    return [*ids, *tokenizer.encode(reply, add_special_tokens=False)]


def read(client, *inputs, **fields):
    return client.activations(ActivationsRequest(inputs=list(inputs), layers=LAYERS, pooling="none", **fields))


def assert_close(got, want):
    assert got.shape == want.shape
    assert np.abs(got - want).max() / np.abs(want).max() < 1e-3


def test_every_position_of_every_text_equals_transformers(client, reference):
    long = ActivationInput(
        messages=[Message(role="user", content="Tell me about rivers. " * 40)], response="They flow."
    )
    short = ActivationInput(messages=CHAT, response="Blue.")
    read_back = read(client, long, short, positions=["all[:]"])
    for i, item in enumerate((long, short)):
        assert_close(read_back.each(i), hidden_states(reference, ids_of(reference, item.messages, reply=item.response)))


def test_a_generated_reply_is_kept_while_it_is_generated(client, reference):
    item = ActivationInput(messages=CHAT)
    read_back = read(client, item, positions=["response[:]"], generate=Generation(max_tokens=6))
    reply = read_back.metadata.responses[0]
    prompt = ids_of(reference, CHAT)
    n = len(read_back.each(0))
    assert n == read_back.n_response[0] - 1, "the last token of a reply never goes through the model"
    states = hidden_states(reference, ids_of(reference, CHAT, reply=reply))
    assert_close(read_back.each(0), states[len(prompt) : len(prompt) + n])


def test_the_stream_is_read_before_or_after_steering(client):
    item = ActivationInput(messages=CHAT, response="Blue.")
    after = read(client, item, positions=["response[:]"], steering=STEER).each(0)
    before = read(client, item, positions=["response[:]"], steering=STEER, before_steering=True).each(0)
    plain = read(client, item, positions=["response[:]"]).each(0)
    added = after - before
    assert np.abs(added[:, 0]).max() < 1e-2, "layer 3 is not steered"
    norms = np.linalg.norm(added[:, 1], axis=1)
    assert norms == pytest.approx([norms[0]] * len(norms), rel=1e-3)
    assert norms[0] > 1
    assert_close(before[:, 0], plain[:, 0])


def test_a_turn_of_a_chat_is_pooled_alone(client, reference):
    item = ActivationInput(messages=CHAT, response="Blue.")
    pools = ["turn[0]", "turn[1]", "turn[2]", "turn[-1]"]
    pooled = client.activations(ActivationsRequest(inputs=[item], layers=LAYERS, positions=pools))
    ids = ids_of(reference, CHAT, reply="Blue.")
    states = hidden_states(reference, ids)
    ends = [0, *(len(ids_of(reference, CHAT[:n], header=False)) for n in (1, 2, 3)), len(ids)]
    for name, start, stop in zip(pools, ends, ends[1:], strict=False):
        assert pooled.count(name)[0] == stop - start
        assert_close(pooled.mean(name)[0], states[start:stop].mean(0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": ["turn[7]"]}, "the chat has 4 turns"),
        ({"positions": ["all[:]", "prompt[:]"]}, "takes one entry of positions"),
    ],
)
def test_what_cannot_be_kept_is_refused(client, fields, message):
    item = ActivationInput(messages=CHAT, response="Blue.")
    body = {"inputs": [item.model_dump(exclude_none=True)], "pooling": "none", **fields}
    answer = client._http.post("/v1/activations", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_turns_go_with_chats_only(client):
    with pytest.raises(ServiceError, match=r"turn\[i\] need an input with messages"):
        read(client, ActivationInput(text="Raw text."), positions=["turn[0]"])
