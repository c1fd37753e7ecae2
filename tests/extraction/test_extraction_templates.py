"""Chat templates in extraction: variables, base models, and templates that refuse."""

import json

import pytest
from fake_registry import service_info
from fake_service import ACTIVATIONS, CHATS
from trait_core.errors import ChatTemplateError, InvalidRequestError, ServiceError
from trait_core.schema import ActivationInput, ActivationsRequest, Generation, Message
from trait_core.storage import json_sha256
from trait_extraction.data.datasets import load_trait
from trait_extraction.data.scenarios import Scenario
from trait_extraction.pipeline import extract, run
from trait_extraction.plan import RESPONSE, Settings
from trait_extraction.reading.activations import request_identity
from trait_extraction.reading.generation import reply_key

THINKING = {"enable_thinking": False}
PLAIN, OFF = Settings(RESPONSE), Settings(RESPONSE, chat_template_kwargs=THINKING)
SYSTEM_PROMPTS = [{"positive": f"Say YES {i}.", "negative": f"Say NO {i}."} for i in range(5)]
STEERING = {"questions": ["How?"], "direction": "positive", "metric": {"kind": "matches", "patterns": ["yes"]}}


@pytest.fixture
def instructed(trait_folder):
    files = {"steering__json": STEERING, "instructed__json": {"system_prompts": SYSTEM_PROMPTS}}
    return load_trait(trait_folder(**{name: json.dumps(value) for name, value in files.items()}), "instructed")


def test_replies_and_readings_carry_the_variables_and_the_file_says_so(instructed, gaussians):
    client = gaussians(chat_template_variables=["enable_thinking"])
    (vector,) = extract(client, instructed, settings=OFF).values()
    assert vector.metadata.method_options["chat_template_kwargs"] == THINKING
    chats, readings = client.fake.requests[CHATS], client.fake.requests[ACTIVATIONS]
    assert [body["chat_template_kwargs"] for body in chats] == [THINKING] * 32
    assert all(item["chat_template_kwargs"] == THINKING for body in readings for item in body["inputs"])


def test_a_file_is_made_again_for_other_variables_only(trait_folder, gaussians, tmp_path):
    dataset = load_trait(trait_folder())

    def reused(settings):
        client = gaussians(chat_template_variables=["enable_thinking"])
        return [each.reused for each in run(client, [(dataset, settings)], ["mean_diff"], tmp_path)]

    assert [reused(PLAIN), reused(PLAIN), reused(OFF), reused(OFF)] == [[False], [True], [False], [True]]


def test_stored_replies_and_activations_of_plain_chats_keep_their_keys():
    """Folders hold them: these values may never change."""
    scenario = Scenario(prompt="Why?", system_prompt="Be kind.")
    plain, off = (reply_key(service_info(), scenario, Generation(), kwargs) for kwargs in (None, THINKING))
    assert plain == "e4c9d09c102ca61779a298ffc14beefee09b56fa5c7874939c1eebc0a0dbdf31" != off
    chat = ActivationInput(messages=[Message(role="user", content="Hi")], response="Yes.")
    other = chat.model_copy(update={"chat_template_kwargs": THINKING})
    plain, off = (json_sha256(request_identity(ActivationsRequest(inputs=[each]))) for each in (chat, other))
    assert plain == "cb7164bb9448455fc5e1d1e7caba236cdd8f9151b13e0146289c43741a9f5dab" != off


def test_a_base_model_is_told_to_use_completions_and_they_work(trait_folder, gaussians):
    folder, base = trait_folder(), gaussians(has_chat_template=False, chat_template_digest=None)
    with pytest.raises(ChatTemplateError, match="use --style completions"):
        extract(base, load_trait(folder))
    assert base.fake.requests[ACTIVATIONS] == []
    long = [
        [{"prompt": f"Question {i}?", "response": f"{word} it is indeed so {i}"} for i in range(16)]
        for word in ("YES", "NO")
    ]
    assert extract(base, load_trait(trait_folder(*long), "completions"))
    with pytest.raises(InvalidRequestError, match="leave --template-kwargs out"):
        extract(base, load_trait(folder, "completions"), settings=OFF)


def test_an_unknown_variable_is_refused_before_anything_is_read(trait_folder, gaussians):
    client = gaussians(chat_template_variables=["thinking"])
    with pytest.raises(ChatTemplateError, match="does not use 'enable_thinking'"):
        extract(client, load_trait(trait_folder()), settings=OFF)
    assert client.fake.requests[ACTIVATIONS] == []


def test_a_template_that_refuses_system_prompts_costs_one_chat(instructed, gaussians):
    client = gaussians()

    def refuse(*_):
        raise InvalidRequestError("System role not supported")

    client.fake.template = refuse
    with pytest.raises(ServiceError, match=r"messages of system, user.*System role not supported.*--style instructed"):
        extract(client, instructed)
    assert len(client.fake.requests[CHATS]) == 1
