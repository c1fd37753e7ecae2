"""Corpora on a running service: what is captured and projected equals transformers' hidden states."""

import json

import numpy as np
import pytest
from cli_harness import Run, runner
from trait_client.http import TraitClient
from trait_client.prompt_sets import read_capture
from trait_client.results import ResultStore

pytestmark = pytest.mark.engine

LAYER = 13
VECTORS = ["refusal", "sycophancy"]
LINES = [
    *({"id": f"open-{i}", "prompt": f"Name {i + 2} things that one finds in a kitchen."} for i in range(4)),
    *(
        {
            "id": f"given-{i}",
            "prompt": f"What is {i} plus {i}?",
            "response": f"That is {2 * i}, naïve as it is: {i}+{i}.",
        }
        for i in range(4)
    ),
    *(
        {"id": f"text-{i}", "text": f"Once, {i} years ago, a king", "response": " lived 🙂 by the sea"}
        for i in range(3)
    ),
    {
        "id": "chat",
        "messages": [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": "Hello!"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "Is the earth flat?"},
        ],
    },
]


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path, service_url) -> Run:
    """Run the command against the service: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAIT_SERVICE_URL", service_url)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    return runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def hidden(smollm2_path):
    """`hidden(ids) -> (n_tokens, d_model)`: transformers' stream after block 13."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2_path, dtype=torch.float32).eval()

    def read(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            output = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        return output.hidden_states[LAYER + 1][0].numpy()

    return read


def test_a_corpus_is_captured_and_projected_as_transformers_reads_it(cli, tmp_path, service_url, hidden):
    """12 prompts, chats and raw text, given replies and generated ones; both commands find the same tokens."""
    positions = ("--positions", "prompt[:]", "--positions", "prompt[-1]", "--positions", "response[:]")
    options = ("--prompts", "p.jsonl", "--max-tokens", "10", "--json")
    code, stdout, stderr = cli("capture", *options, *positions, "--layers", "12-14", "--out", "c", "--shard-size", "5")
    assert (code, stderr, json.loads(stdout)["n_captured"]) == (0, "", 12)
    vectors = [argument for name in VECTORS for argument in ("--vector", name)]
    code, stdout, stderr = cli("project", *options, *vectors, "--layer", str(LAYER), "--db", "r.duckdb")
    assert (code, stderr, json.loads(stdout)["n_projected"]) == (0, "", 12)

    captured = read_capture(tmp_path / "c")
    store = ResultStore(tmp_path / "r.duckdb")
    readings = {
        row[0]: row[1:]
        for row in store.query("select prompt_id, token_ids, tokens, n_prompt, n_response, response from readings")[1]
    }
    assert list(captured.ids) == [line["id"] for line in LINES]
    with TraitClient(service_url) as client:
        files = {name: client.vector_file(name) for name in VECTORS}
    for i, line in enumerate(LINES):
        ids, tokens, n_prompt, n_response, response = readings[line["id"]]
        stream = hidden(ids)
        assert captured.n_prompt[i] == n_prompt
        assert_close(captured.mean("prompt[:]", LAYER)[i], stream[:n_prompt].mean(0))
        assert_close(captured.mean("prompt[-1]", LAYER)[i], stream[n_prompt - 1])
        if "response" in line:
            assert captured.n_response[i] == n_response
            assert_close(captured.mean("response[:]", LAYER)[i], stream[n_prompt:].mean(0))
            assert "".join(tokens[n_prompt:]) == response == line["response"]
        else:
            assert 1 <= n_response <= 10
            assert "".join(tokens[n_prompt:]).removesuffix("<|im_end|>") == response
        read_at = [*range(n_prompt), *range(n_prompt - 1, len(ids) - 1)]
        for name, file in files.items():
            want = stream @ file.directions[LAYER] - file.evidence(LAYER).centre
            rows = store.query(
                "select part, token, value from token_projections "
                f"where prompt_id = '{line['id']}' and vector = '{name}' order by position"
            )[1]
            assert [part for part, _, _ in rows] == ["prompt"] * n_prompt + ["response"] * n_response
            assert [token for _, token, _ in rows] == tokens
            assert_close(np.array([value for _, _, value in rows]), want[read_at])

    assert json.loads(cli("capture", *options, *positions, "--layers", "12-14", "--out", "c", "--shard-size", "5")[1])[
        "n_resumed"
    ] == len(LINES)
    added = json.loads(cli("project", *options, "--vector", "question_asking", "--layer", "13", "--db", "r.duckdb")[1])
    assert added["n_projected"] == len(LINES)
    assert store.query("select count(*) from readings")[1] == [(len(LINES),)]


def test_fingerprints_of_a_json_set_are_the_means_of_transformers_stream(
    cli, tmp_path, service_url, hidden, monkeypatch
):
    """A system prompt and notes as they are; vectors by pattern, one direction a request, cosines among them."""
    monkeypatch.setattr("trait_client.prompt_sets.project.MAX_MONITORED", 1)
    questions = [{"id": i, "text": f"What is {i} plus one?", "note": ("odd", "even")[i % 2 == 0]} for i in range(3)]
    (tmp_path / "sums.json").write_text(json.dumps({"system_prompt": "You are terse.", "prompts": questions}))
    vectors = ("--vector", "refus[a]l", "--vector", "sycophanc?", "--layer", str(LAYER))
    options = ("--prompts", "sums.json", *vectors, "--cosine", "--max-tokens", "6", "--db", "f.duckdb", "--json")
    code, stdout, stderr = cli("project", *options)
    assert (code, stderr, json.loads(stdout)["n_projected"]) == (0, "", 3)
    store = ResultStore(tmp_path / "f.duckdb")
    with TraitClient(service_url) as client:
        files = {name: client.vector_file(name) for name in VECTORS}
    for prompt_id, ids, n_prompt, tokens, note in store.query(
        "select prompt_id, token_ids, n_prompt, tokens, metadata->>'note' from readings order by prompt_id"
    )[1]:
        assert "You are terse." in "".join(tokens[:n_prompt])
        assert note == questions[int(prompt_id.removeprefix("sums/"))]["note"]
        stream = hidden(ids)
        norms = np.linalg.norm(stream, axis=1)
        for part, positions in (("prompt", slice(4, n_prompt)), ("response", slice(n_prompt - 1, len(ids) - 1))):
            for name, file in files.items():
                along, evidence = (stream @ file.directions[LAYER])[positions], file.evidence(LAYER)
                mean = along.mean() - evidence.centre
                ((*got, n),) = store.query(
                    "select projection, separations, cosine, n from fingerprints "
                    f"where prompt_id = '{prompt_id}' and part = '{part}' and vector = '{name}'"
                )[1]
                assert n == len(along)
                wanted = [mean, mean / evidence.separation, (along / norms[positions]).mean()]
                assert np.allclose(got, wanted, rtol=2e-3, atol=1e-3)
    answer = cli("fingerprint", "--text", "I am sorry, but I cannot help you with that.", *vectors, "--json")[1]
    assert sorted(place["vector"] for place in json.loads(answer)["places"]) == VECTORS


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    assert np.abs(got - want).max() / np.abs(want).max() < 1e-3


def test_a_model_compared_with_itself_differs_in_nothing(cli, tmp_path):
    """Both sides read the same token ids in requests of their own: what rounding makes of that is below the tolerance."""
    options = ("--prompts", "p.jsonl", "--vector", "refusal", "--variant", "smollm2", "--responses-from", "both")
    code, stdout, stderr = cli("compare-variants", *options, "--max-tokens", "8", "--db", "v.duckdb", "--json")
    assert (code, stderr) == (0, "")
    document = json.loads(stdout)
    assert (document["n_texts"], document["n_compared"]) == (2 * len(LINES), 2 * len(LINES))
    assert {row["text"] for row in document["effects"]} == {"prompt", "base", "variant", "own"}
    assert {row["verdict"] for row in document["effects"]} == {"no difference"}
    assert document["spans"] == []
    sql = "select text, count(*), max(abs(difference)) < 0.01 * max(abs(base)) from variant_differences group by 1 order by 1"
    assert [row[0] for row in ResultStore(tmp_path / "v.duckdb").query(sql).rows] == ["base", "prompt", "variant"]
    assert all(same for *_, same in ResultStore(tmp_path / "v.duckdb").query(sql).rows)
