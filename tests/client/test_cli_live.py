"""The client and its command line against a running service: SmolLM2, with `refusal` and other vectors registered."""

import asyncio
import json

import pytest
from cli_harness import Run, runner
from trait_client.http import AsyncTraitClient, TraitClient
from trait_core.errors import ServiceError, UnknownVectorError
from trait_core.schema import ActivationInput, ActivationsRequest, Message, Steering, SteeringTerm
from trait_core.storage import sha256_of

pytestmark = pytest.mark.engine

PROMPT = "Write one sentence about the sea."
STEERED = Steering(terms=[SteeringTerm(vector="refusal", coefficient=3.0)])


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path, service_url) -> Run:
    """Run the command against the service: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAIT_SERVICE_URL", service_url)
    monkeypatch.setenv("COLUMNS", "120")
    return runner(monkeypatch, capsys)


def test_steer_moves_the_projection_of_the_reply(cli):
    """The reply differs from the baseline, what was applied is reported, and the read-back lies on the trait's side."""
    code, stdout, stderr = cli("steer", "-t", "refusal", "-c", "3", "--max-tokens", "24", "--json", PROMPT)
    assert (code, stderr) == (0, "")
    (result,) = json.loads(stdout)["results"]
    assert result["steered"]["text"] != result["baseline"]["text"]
    (applied,) = result["applied"]
    assert applied["relative_dose"] == pytest.approx(0.3, rel=1e-3)
    assert result["positions"]["prompt"] == result["steered"]["usage"]["prompt_tokens"]
    (projection,) = result["projections"]
    assert projection["layer"] == applied["layer"]
    assert projection["steered"] > projection["baseline"]


def test_steer_with_coefficient_0_is_the_baseline(cli):
    """Nothing is added, and greedy text is the same."""
    _, stdout, _ = cli("steer", "-t", "refusal", "-c", "0", "--max-tokens", "16", "--json", PROMPT)
    (result,) = json.loads(stdout)["results"]
    assert result["steered"]["text"] == result["baseline"]["text"]


def test_steer_prints_side_by_side(cli):
    """For people: two panels and one row."""
    code, stdout, _ = cli("steer", "-t", "refusal", "-c", "3", "--max-tokens", "8", PROMPT)
    assert code == 0
    assert "baseline" in stdout
    assert "steered" in stdout
    assert "dose" in stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-t", "refusal", "-c", "500"], "relative dose"),
        (["-t", "refusal", "-c", "1", "-l", "99"], "99"),
        (["-t", "no-such-trait", "-c", "1"], "refusal"),
    ],
)
def test_a_refusal_of_the_service_exits_1_with_its_message(cli, arguments, message):
    """Over the dose limit, a layer the model does not have, a vector that is not registered: no text is printed."""
    code, stdout, stderr = cli("steer", *arguments, PROMPT)
    assert (code, stdout) == (1, "")
    assert message in stderr
    assert "Traceback" not in stderr


def test_status_describes_the_service(cli):
    """The layers of SmolLM2, and the vectors."""
    code, stdout, _ = cli("status", "--json")
    document = json.loads(stdout)
    assert (code, document["ready"]) == (0, True)
    assert (document["service"]["n_layers"], document["service"]["d_model"]) == (30, 576)
    assert "refusal" in document["vectors"]
    assert cli("status")[0] == 0


def test_vectors_are_uploaded_and_downloaded_byte_for_byte(cli, tmp_path, service_url):
    """Fetched, registered under another name, shown, deleted."""
    assert cli("vectors", "get", "refusal", "r.safetensors")[0] == 0
    data = (tmp_path / "r.safetensors").read_bytes()
    assert cli("vectors", "put", "refusal-copy", "r.safetensors")[0] == 0
    shown = json.loads(cli("vectors", "show", "refusal-copy", "--json")[1])
    assert shown["sha256"] == sha256_of(data)
    assert "refusal-copy" in cli("vectors", "list")[1]
    code, said, _ = cli("vectors", "alias", "refusal-alias", "refusal-copy")
    assert (code, "version 1" in said) == (0, True)
    assert cli("vectors", "delete", "refusal-alias")[0] == 0
    assert cli("vectors", "delete", "refusal-copy")[0] == 0
    assert cli("vectors", "show", "refusal-copy")[0] == 1
    with TraitClient(service_url) as client, pytest.raises(UnknownVectorError, match="refusal-copy"):
        client.delete_vector("refusal-copy")


def test_a_stream_gives_the_text_of_the_whole_reply_and_ends_with_the_report(service_url):
    """Greedy, so both are the same."""
    with TraitClient(service_url) as client:
        whole = client.chat(PROMPT, steering=STEERED, max_tokens=16)
        deltas = list(client.chat_stream(PROMPT, steering=STEERED, max_tokens=16))
    assert "".join(delta.text for delta in deltas) == whole.text
    (report,) = [delta.steering for delta in deltas if delta.steering]
    assert report.applied == whole.steering.applied
    assert any(delta.usage and delta.usage.completion_tokens == whole.usage.completion_tokens for delta in deltas)


def test_a_refused_stream_raises_the_services_error(service_url):
    """Before the first piece of text."""
    too_much = Steering(terms=[SteeringTerm(vector="refusal", coefficient=500.0)])
    with TraitClient(service_url) as client, pytest.raises(ServiceError, match="dose") as caught:
        list(client.chat_stream(PROMPT, steering=too_much))
    assert caught.value.status == 400


def test_concurrent_requests_keep_their_own_steering(service_url):
    """Baselines between steered requests are the baseline, and each reports its own coefficient."""
    coefficients = [0.0, 3.0, -3.0, 1.5] * 4

    async def send() -> list:
        async with AsyncTraitClient(service_url) as client:
            calls = [
                client.chat(
                    PROMPT,
                    max_tokens=12,
                    steering=Steering(terms=[SteeringTerm(vector="refusal", coefficient=c)]) if c else None,
                )
                for c in coefficients
            ]
            return await asyncio.gather(*calls)

    results = asyncio.run(send())
    for coefficient, result in zip(coefficients, results, strict=True):
        if coefficient:
            assert result.steering.applied[0].coefficient == coefficient
        else:
            assert result.steering is None
            assert result.text == results[0].text


def test_activations_read_a_reply_and_its_likelihood(service_url):
    """Shapes, token counts, a norm and a projection on the chosen layer."""
    item = ActivationInput(messages=[Message(role="user", content=PROMPT)], response="The sea is wide and blue.")
    request = ActivationsRequest(
        inputs=[item, item], layers=[9, 13], positions=["prompt[-1]", "response[:]"], logprobs=True
    )
    with TraitClient(service_url) as client:
        read = client.activations(request)
    assert read.mean("response[:]").shape == (2, 2, 576)
    assert read.count("prompt[-1]").tolist() == [1, 1]
    assert read.count("response[:]").tolist() == read.n_response.tolist()
    assert (read.nll > 0).all()
    assert (read.norm("response[:]") > 0).all()


def test_completions_continue_text_and_token_ids(service_url):
    """With candidates beside each token."""
    with TraitClient(service_url) as client:
        text = client.complete("The capital of France is", max_tokens=4, logprobs=2)
        assert client.complete([504, 3575], max_tokens=2).usage.prompt_tokens == 2
    assert len(text.logprobs) == text.usage.completion_tokens
    assert len(text.logprobs[0].top_logprobs) >= 2
