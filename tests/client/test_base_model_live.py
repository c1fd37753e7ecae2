"""Models whose tokenizers are a trouble, served by the real engine: a base model, and one whose template refuses a lot."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cli_harness import Run, runner
from service_harness import BIN, serving
from template_models import STRICT, with_template
from tiny_models import make_llama
from trait_client.http import TraitClient
from trait_core.errors import ServiceError
from trait_core.schema import ActivationInput, ActivationsRequest, Message, Monitor, Steering, SteeringTerm
from vector_fixtures import random_vector

pytestmark = pytest.mark.engine

LAYER = 2
FLAGS = ("--max-model-len", "512", "--max-num-seqs", "16")
HELLO = [Message(role="user", content="Say hello to the sea.")]
OFF = {"enable_thinking": False}


@pytest.fixture(scope="module")
def tiny(smollm2_path, tmp_path_factory) -> Path:
    return make_llama(tmp_path_factory.mktemp("tiny") / "llama", smollm2_path)


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory) -> Iterator[str]:
    """A service of a model without a chat template and without a pad token."""
    folder = tmp_path_factory.mktemp("base")
    with serving(with_template(tiny, folder / "model", None), folder, *FLAGS) as url:
        yield url


@pytest.fixture(scope="module")
def strict(tiny, tmp_path_factory) -> Iterator[str]:
    """A service of a model whose template refuses a lot, with the vector `mood`."""
    folder = tmp_path_factory.mktemp("strict")
    with serving(with_template(tiny, folder / "model", STRICT), folder, *FLAGS) as url:
        with TraitClient(url) as client:
            client.put_vector("mood", random_vector(client.info(), 1, LAYER).to_bytes())
        yield url


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return runner(monkeypatch, capsys)


def test_a_base_model_says_that_it_takes_raw_text_only(base):
    with TraitClient(base) as client:
        info = client.info()
        assert (info.has_chat_template, info.chat_template_variables, info.chat_template_digest) == (False, [], None)
        with pytest.raises(ServiceError, match=r"no chat template.*--raw") as refused:
            client.chat(HELLO)
        assert (refused.value.status, refused.value.param) == (400, "messages")
        with pytest.raises(ServiceError, match="no chat template") as refused:
            client.activations(ActivationsRequest(inputs=[ActivationInput(messages=HELLO, response="Hello.")]))
        assert (refused.value.status, refused.value.param) == (400, "inputs[0].messages")


def test_a_base_model_works_with_every_command(base, cli, tmp_path):
    """From the extraction of a trait to sweeps, captures and projections, all on raw text."""
    extract = [BIN / "trait-extract", "run", "--trait", "refusal", "--url", base, "--out", tmp_path / "vectors"]
    chats = subprocess.run(extract, check=False, capture_output=True, text=True)
    assert chats.returncode != 0
    assert "use --style completions" in " ".join(chats.stderr.split())
    subprocess.run([*extract, "--style", "completions"], check=True, capture_output=True)

    steer = ("steer", "-t", "refusal", "-c", "3", "--max-tokens", "8", "--url", base)
    code, out, err = cli(*steer, "The sea is", "--raw", "--json")
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    assert result["steered"]["text"] != result["baseline"]["text"]
    assert result["positions"]["prompt"] == result["steered"]["usage"]["prompt_tokens"]
    code, _, err = cli(*steer, "The sea is")
    assert (code, "--raw" in err) == (2, True)
    assert cli("chat", "--url", base)[0] == 2

    (tmp_path / "x.toml").write_text(
        'name = "x"\ntraits = ["refusal"]\ncoefficients = [2.0]\nn_prompts = 2\nmax_tokens = 8\nraw = true\n'
        "[control]\nrandom_directions = 1\n"
    )
    code, out, err = cli("sweep", "x.toml", "--db", "r.duckdb", "--json", "--url", base)
    assert (code, json.loads(out)["unscored"]) == (0, 0), err

    (tmp_path / "p.txt").write_text("The sea is\nThe sky is\n")
    positions = ("--positions", "prompt[-1]", "--positions", "response[:]", "--max-tokens", "4")
    code, _, err = cli("capture", "--prompts", "p.txt", "--raw", "--out", "c", *positions, "--url", base)
    assert code == 0, err
    code, _, err = cli(
        "project", "--prompts", "p.txt", "--raw", "-v", "refusal.completions", "--max-tokens", "4", "--db", "r.duckdb",
        "--url", base,
    )  # fmt: skip
    assert code == 0, err


def test_replies_are_read_back_after_the_prompt_that_they_were_written_after(strict):
    with TraitClient(strict) as client:
        assert client.info().chat_template_variables == ["enable_thinking"]
        lengths = []
        for kwargs in (None, OFF):
            monitor = Monitor(vectors=["mood"])
            steering = Steering(terms=[SteeringTerm(vector="mood", coefficient=1.0)])
            reply = client.chat(HELLO, chat_template_kwargs=kwargs, monitor=monitor, steering=steering, max_tokens=4)
            item = ActivationInput(messages=HELLO, response="Hello.", chat_template_kwargs=kwargs)
            read = client.activations(ActivationsRequest(inputs=[item], layers=[LAYER]))
            ids = client.tokenize(HELLO, chat_template_kwargs=kwargs)
            n_prompt = reply.usage.prompt_tokens
            assert (len(ids), int(read.n_prompt[0]), len(reply.monitor.choices[0].prompt)) == (n_prompt,) * 3
            lengths.append(n_prompt)
    assert lengths[1] > lengths[0]


def test_a_variable_that_the_template_does_not_use_is_refused(strict):
    item = ActivationInput(messages=HELLO, chat_template_kwargs={"enable_thinkng": False})
    with TraitClient(strict) as client, pytest.raises(ServiceError, match="it uses enable_thinking") as refused:
        client.activations(ActivationsRequest(inputs=[item], positions=["prompt[-1]"]))
    assert refused.value.param == "inputs[0].chat_template_kwargs"


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (["system", "user"], "refuses messages of system, user: System role not supported"),
        (["user", "user"], "refuses messages of user, user: Conversation roles must alternate"),
    ],
)
def test_the_templates_own_words_are_in_the_refusal_of_a_reading_and_of_a_capture(strict, cli, tmp_path, roles, words):
    messages = [Message(role=role, content="Hello.") for role in roles]
    with TraitClient(strict) as client, pytest.raises(ServiceError, match=words) as refused:
        client.activations(ActivationsRequest(inputs=[ActivationInput(messages=messages)], positions=["prompt[-1]"]))
    assert (refused.value.status, refused.value.param) == (400, "inputs[0].messages")
    line = json.dumps({"messages": [message.model_dump() for message in messages]})
    (tmp_path / "p.jsonl").write_text(line + "\n")
    code, _, err = cli("capture", "--prompts", "p.jsonl", "--out", "c", "--positions", "prompt[-1]", "--url", strict)
    assert (code, words in " ".join(err.split())) == (2, True)


def test_odd_variables_are_a_400_of_the_chat_route(strict):
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    for kwargs in ({"return_dict": True}, {"tokenize": True}, {"chat_template": "x"}, {"tools": 3}, {"messages": 1}, 3):
        answer = httpx.post(f"{strict}/v1/chat/completions", json=body | {"chat_template_kwargs": kwargs}, timeout=60)
        assert answer.status_code in {200, 400}, (kwargs, answer.text)
