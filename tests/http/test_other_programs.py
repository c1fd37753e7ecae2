"""lm-evaluation-harness and Inspect on a model alias, each with a task of our own; recipes: docs/howto-other-programs.md."""

import json
import shutil
from pathlib import Path

import httpx
import pytest
from capability_under_steering.study import HERE, QUESTIONS, accuracies, answers, ask
from other_programs import MISSING, run_program
from trait_core.schema import ActivationInput, ActivationsRequest, Steering, SteeringTerm
from trait_steering import TraitClient

pytestmark = [pytest.mark.engine, pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}")]

TASKS = Path(__file__).resolve().parents[1] / "data" / "other_programs"
BASE = "smollm2"
STEERED = {
    BASE: None,
    f"{BASE}+sycophancy@3": Steering(terms=[SteeringTerm(vector="sycophancy", coefficient=3)]),
}


@pytest.fixture(scope="module")
def scored(service_url, smollm2_path, tmp_path_factory) -> dict[str, dict]:
    """What lm-eval finds for each model."""
    folder = tmp_path_factory.mktemp("lm-eval")
    for name in ("friends.py", "friends.yaml", "friends.jsonl"):
        shutil.copy(TASKS / name, folder)
    run_program("python", "friends.py", service_url, smollm2_path, "out.json", *STEERED, folder=folder)
    return json.loads((folder / "out.json").read_text())


def choices(scored: dict) -> list[tuple[str, str, float]]:
    """Context, continuation and log-likelihood of each choice of each claim."""
    return [
        (arguments[0], arguments[1], float(answers[0][0]))
        for sample in scored["samples"]
        for arguments, answers in zip(sample["arguments"], sample["resps"], strict=True)
    ]


def test_lm_eval_finds_other_log_likelihoods_on_an_alias_than_on_the_base(scored):
    base, steered = ([number for _, _, number in choices(scored[model])] for model in STEERED)
    assert len(base) == len(steered) == 6
    differences = [abs(a - b) for a, b in zip(base, steered, strict=True)]
    assert max(differences) > 0.5
    assert {0.0, 1 / 3, 2 / 3, 1.0} >= {scored[model]["acc"] for model in STEERED}


@pytest.mark.parametrize("model", STEERED)
def test_lm_evals_log_likelihoods_are_those_of_our_own_readings(model, scored, service_url):
    """Ours come by another way: `/v1/activations` with the field `steering`."""
    found = choices(scored[model])
    with TraitClient(service_url) as client:
        inputs = []
        for context, continuation, _ in found:
            n_prompt = len(tokens(service_url, context))
            inputs.append(ActivationInput(token_ids=tokens(service_url, context + continuation), n_prompt=n_prompt))
        request = ActivationsRequest(
            inputs=inputs, positions=["response[:]"], layers=[0], logprobs=True, steering=STEERED[model]
        )
        read = client.activations(request)
    ours = [-nll * (len(each.token_ids) - each.n_prompt) for nll, each in zip(read.nll, inputs, strict=True)]
    assert [number for _, _, number in found] == pytest.approx(ours, abs=0.02)


def tokens(url: str, text: str) -> list[int]:
    body = {"model": BASE, "prompt": text, "add_special_tokens": False}
    return httpx.post(f"{url}/tokenize", json=body, timeout=60).raise_for_status().json()["tokens"]


def test_inspect_scores_an_alias_beside_the_base(service_url, tmp_path):
    shutil.copy(TASKS / "refusing.py", tmp_path)
    models = f"openai-api/trait/{BASE},openai-api/trait/{BASE}+refusal@1.5"
    options = ["--max-tokens", "12", "--temperature", "0", "--display", "plain", "--log-format", "json"]
    environment = {"TRAIT_BASE_URL": f"{service_url}/v1", "TRAIT_API_KEY": "none"}
    run_program("inspect", "eval", "refusing.py", "--model", models, *options, folder=tmp_path, **environment)
    logs = [json.loads(path.read_text()) for path in (tmp_path / "logs").glob("*.json")]
    assert {log["status"] for log in logs} == {"success"}
    accuracy = {log["eval"]["model"]: log["results"]["scores"][0]["metrics"]["accuracy"]["value"] for log in logs}
    assert accuracy == dict(zip(models.split(","), (0.0, 1.0), strict=True))


def test_the_study_of_capability_asks_both_harnesses_the_same_questions(service_url, smollm2_path, tmp_path):
    for source in (*(HERE / name for name in ("choices.yaml", "choices.py", "letters.py")), QUESTIONS):
        shutil.copy(source, tmp_path)
    steered = f"{BASE}+sycophancy@4"
    ask(tmp_path, service_url, smollm2_path, [BASE, steered], limit=4)
    found = answers(tmp_path)
    ids = [json.loads(line)["id"] for line in QUESTIONS.read_text().splitlines()[:4]]
    for right in found.values():
        assert set(right) == {BASE, steered}
        for each in right.values():
            assert sorted(each) == sorted(ids)
            assert set(each.values()) <= {0.0, 1.0}
    rows = accuracies(found, BASE)
    assert [(row["harness"], row["vector"], row["coefficient"], row["n"]) for row in rows] == [
        (harness, vector, coefficient, 4)
        for harness in ("lm-eval", "inspect")
        for vector, coefficient in (("none", 0), ("sycophancy", 4))
    ]
