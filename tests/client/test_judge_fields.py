"""Judges that take other fields: renamed, left out or refused ones, and judges that think."""

import asyncio
import json
import logging
import tomllib

import pytest
from fake_judge import Fault, JudgeServer, completion, honest, judge_listening
from pydantic import ValidationError
from trait_client.judge import Judge, JudgeAnswerError, JudgeConfig, JudgeEndpointError, Rubric

RUBRIC = Rubric("shouting", "Shouting: 0 is calm, 100 is all in capital letters.")

NO_MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
NO_LOGPROBS = "You are not allowed to request logprobs from this model"
NO_TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) is supported."
)


@pytest.fixture
def server():
    with judge_listening(JudgeServer()) as listening:
        yield listening


def ask(server, *replies, **values):
    async def go():
        async with Judge(server.config(**values)) as judge:
            asked = [judge.judge(RUBRIC, "Hello?", reply) for reply in replies]
            return await asyncio.gather(*asked, return_exceptions=True), judge.usage

    return asyncio.run(go())


def refusing(message: str, *fields: str, status: int = 400, param: str | None = None):
    """A judge that refuses requests with any of the fields."""

    def behave(number: int, body: dict) -> object:
        if set(fields) & body.keys():
            return Fault(status, json.dumps({"error": {"message": message, "type": "x", "param": param}}).encode())
        logprobs = "logprobs" in body
        return honest(number, body) if logprobs else completion("90")

    return behave


# ------------------------------------------------------------------------------------------------------------ adapting


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (NO_MAX_TOKENS, "max_tokens"),
        ("Unrecognized request argument supplied: max_tokens", None),
        ("max_tokens: Extra inputs are not permitted", None),
        ("this model does not support max_tokens", None),
    ],
)
def test_a_judge_that_wants_the_other_name_of_the_limit_gets_it_once_and_for_all(server, message, param):
    server.behave = refusing(message, "max_tokens", param=param)
    judgements, usage = ask(server, *"ABC", concurrency=1)
    assert [j.mode for j in judgements] == ["logprobs"] * 3
    assert ["max_tokens" in body for body in server.bodies] == [True, False, False, False]
    assert [body.get("max_completion_tokens") for body in server.bodies] == [None, 8, 8, 8]
    assert usage.calls == 4


def test_questions_in_flight_adapt_each_once(server):
    server.behave, server.delay = refusing(NO_MAX_TOKENS, "max_tokens"), 0.02
    judgements, _ = ask(server, *(f"R{i}" for i in range(20)), concurrency=5)
    assert [j.value for j in judgements] == [pytest.approx(90)] * 20
    assert sum("max_tokens" in body for body in server.bodies) <= 5


def test_an_older_server_gets_the_older_name_where_the_newer_was_asked_for(server):
    server.behave = refusing("unknown field: max_completion_tokens", "max_completion_tokens")
    ((judgement,), _) = ask(server, "A", fields={"max_tokens": "max_completion_tokens"})
    assert judgement.mode == "logprobs"
    assert [body.get("max_tokens") for body in server.bodies] == [None, 8]


def test_a_judge_that_refuses_both_names_is_not_asked_again_and_again(server):
    server.behave = refusing(
        "Unsupported parameter: 'max_tokens' and 'max_completion_tokens'", "max_tokens", "max_completion_tokens"
    )
    ((error,), usage) = ask(server, "A")
    assert "fields = {max_tokens = false}" in str(error)
    assert usage.calls == 2


def test_a_limit_whose_value_is_wrong_keeps_its_name(server):
    server.behave = refusing("max_tokens is too small: 8; the minimum is 16", "max_tokens", param="max_tokens")
    ((error,), usage) = ask(server, "A")
    assert "the minimum is 16" in str(error)
    assert usage.calls == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, NO_LOGPROBS),
        (400, "logprobs is not supported by this model"),
        (400, "This model does not support logprobs."),
        (422, "top_logprobs: Extra inputs are not permitted"),
        (404, "logprobs are not available with this model"),
    ],
)
def test_a_judge_that_forbids_logprobs_is_read_as_written(server, status, message):
    server.behave = refusing(message, "logprobs", "top_logprobs", status=status)
    judgements, usage = ask(server, *"ABC", concurrency=1)
    assert [(j.value, j.mode, j.mass) for j in judgements] == [(90, "sampled", None)] * 3
    assert [{"logprobs", "top_logprobs"} <= body.keys() for body in server.bodies] == [True, False, False, False]
    assert (usage.sampled, usage.calls) == (3, 4)


def test_a_judge_may_refuse_both(server):
    def behave(number, body):
        if "max_tokens" in body:
            return refusing(NO_MAX_TOKENS, "max_tokens")(number, body)
        return refusing(NO_LOGPROBS, "logprobs", status=403)(number, body)

    server.behave = behave
    ((judgement,), usage) = ask(server, "A")
    assert (judgement.value, judgement.mode, usage.calls) == (90, "sampled", 3)


def test_the_endpoints_words_are_shown_and_the_key_is_not(server, monkeypatch):
    monkeypatch.setenv("MY_JUDGE_KEY", "sk-very-secret")
    says = json.dumps({"error": {"message": "region not\nallowed for sk-very-secret"}}).encode()
    server.behave = lambda *_: Fault(403, says)
    ((error,), _) = ask(server, "x", api_key_env="MY_JUDGE_KEY")
    assert "the judge refuses the key in MY_JUDGE_KEY (403 region not allowed for ***)" in str(error)
    assert len(server.bodies) == 1


def test_a_temperature_is_left_out_only_where_the_configuration_says_so(server):
    """It changes the answer, so that it is part of the judge's identity."""
    server.behave = refusing(NO_TEMPERATURE, "temperature", param="temperature")
    ((error,), _) = ask(server, "A")
    assert isinstance(error, JudgeEndpointError)
    assert "fields = {temperature = false}" in str(error)
    ((judgement,), _) = ask(server, "A", fields={"temperature": None})
    assert judgement.value == pytest.approx(90)
    assert "temperature" not in server.bodies[-1]


# ------------------------------------------------------------------------------------------------------- configuration


def test_fields_are_sent_under_the_configured_names(server):
    given = {"max_tokens": "limit", "temperature": "heat", "logprobs": "probs", "top_logprobs": "n_probs"}
    ask(server, "A", fields=given)
    assert {name: server.bodies[0][name] for name in given.values()} == {
        "limit": 8, "heat": 0.0, "probs": True, "n_probs": 20,
    }  # fmt: skip
    assert not given.keys() & server.bodies[0].keys()


@pytest.mark.parametrize("written", ["false", '"null"'])
def test_toml_has_no_null_and_says_false(server, written):
    text = f'fields = {{max_tokens = {written}, logprobs = {written}, temperature = "heat"}}'
    config = server.config(**tomllib.loads(text))
    assert config.fields == {"max_tokens": None, "logprobs": None, "temperature": "heat"}
    assert JudgeConfig.model_validate_json(config.model_dump_json()) == config
    server.behave = refusing("no", "max_tokens", "logprobs", "top_logprobs", "temperature")
    ((judgement,), _) = ask(server, "A", fields=config.fields)
    assert judgement.mode == "sampled"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stop": None}, "'stop' is not one of temperature"),
        ({"max_tokens": "model"}, "'model' cannot be the name of max_tokens"),
        ({"max_tokens": "temperature"}, "cannot be the name"),
        ({"max_tokens": "a b"}, "cannot be the name"),
        ({"max_tokens": 5}, "valid string"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        JudgeConfig(url="http://h", model="j", fields=fields)


def test_what_is_left_out_is_part_of_the_identity_and_a_name_is_not():
    plain = JudgeConfig(url="http://h", model="j")

    def definition(**values) -> str:
        return JudgeConfig(url="http://h", model="j", **values).definition(RUBRIC)

    assert "left_out" not in plain.asking(), "judgements of before keep their identity"
    assert definition(fields={"max_tokens": "max_completion_tokens"}) == definition()
    assert definition(fields={"logprobs": None}) == definition(logprobs=False)
    assert len({definition(), definition(fields={"temperature": None}), definition(fields={"max_tokens": None})}) == 3


# ------------------------------------------------------------------------------------------------------------ thinking


@pytest.mark.parametrize(
    "answer",
    [
        completion(None, ends="length", reasoning_content="Let me see."),
        completion("", ends="length", reasoning="Let me see."),
        completion(None, ends="length"),
        completion("<think>\nLet me see. It is 70 or", ends="length"),
    ],
)
def test_a_judge_that_thinks_until_the_limit_is_told_from_one_that_gives_no_number(server, answer):
    server.behave = lambda *_: answer
    ((error,), _) = ask(server, "A")
    assert isinstance(error, JudgeEndpointError)
    assert "cut while thinking" in str(error)
    assert "max_answer_tokens (now 8" in str(error)
    assert len(server.bodies) == 1, "another try would be cut as well"


def test_a_judge_that_is_always_cut_while_thinking_is_given_up(server):
    server.behave = lambda *_: completion(None, ends="length")
    errors, _ = ask(server, *(f"R{i}" for i in range(30)), concurrency=1, give_up_after=5)
    assert len(server.bodies) == 5
    assert "cut while thinking" in str(errors[-1])


def test_an_answer_that_is_cut_before_its_number_says_so(server):
    server.behave = lambda *_: completion("The reply that I was given to", ends="length")
    ((error,), _) = ask(server, "A")
    assert isinstance(error, JudgeAnswerError)
    assert "cut at max_answer_tokens = 8" in str(error)


@pytest.mark.parametrize(
    "text", ["<think>It is 20. No.</think>\n\n70", "It is 20. No.\n</think>\n70", "<thinking>\n</thinking>70"]
)
def test_thoughts_before_the_number_are_not_read(server, text):
    server.behave = lambda *_: completion(text)
    ((judgement,), _) = ask(server, "A", max_answer_tokens=4000)
    assert (judgement.value, judgement.answer.strip()) == (70, "70")


def test_after_thoughts_the_numbers_probabilities_still_count(server):
    document = completion("<think>20</think>70", {"70": 1.0})
    spelt = [("<think>", {}), ("20", {"20": 0.0}), ("</think>", {}), ("70", {"70": -0.2231, "60": -1.6094})]
    document["choices"][0]["logprobs"]["content"] = [
        {"token": t, "logprob": 0.0, "top_logprobs": [{"token": k, "logprob": v} for k, v in tops.items()]}
        for t, tops in spelt
    ]
    server.behave = lambda *_: document
    ((judgement,), _) = ask(server, "A")
    assert (judgement.value, judgement.mode) == (pytest.approx(68, abs=0.01), "logprobs")


def test_what_was_adapted_is_in_the_log(server, caplog):
    caplog.set_level(logging.WARNING)
    server.behave = refusing(NO_MAX_TOKENS, "max_tokens")
    ask(server, *"AB", concurrency=1)
    assert caplog.text.count("refuses a field") == 1
    assert "max_completion_tokens" in caplog.text
