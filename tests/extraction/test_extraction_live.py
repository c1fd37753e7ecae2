"""Extraction against a running service with SmolLM2: vectors of other tools steer as the same numbers do in transformers."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_harness import Reference
from trait_client.http import TraitClient
from trait_core.schema import ActivationInput, ActivationsRequest, Generation, Message, Steering, SteeringTerm
from trait_core.traits import default_traits_folder, find_trait
from trait_core.vectors.file import VectorFile
from trait_extraction.data.datasets import load_trait
from trait_extraction.pipeline import calibrated
from trait_extraction.plan import Plan, Settings, default_positions
from trait_extraction.reading.activations import read
from trait_extraction.reading.elicitation import checked
from trait_extraction.reading.generation import generate, missing_replies
from trait_extraction.reading.reply_check import ReplyCheck
from trait_extraction.reading.source import Source

pytestmark = pytest.mark.engine

REPENG = Path(__file__).resolve().parents[1] / "data" / "repeng_smollm2.gguf"
N_TOKENS = 10


@pytest.fixture(scope="module")
def client(service_url):
    with TraitClient(service_url) as made:
        yield made


@pytest.fixture(scope="module")
def reference(smollm2_path):
    return Reference(str(smollm2_path))


@pytest.fixture(scope="module")
def question(client):
    """Token ids of a chat up to the assistant's turn."""
    return client.tokenize([Message(role="user", content="What did you do last weekend?")])


COMMON = """le la les un une des du et est que qui dans vous nous je elle ils mais avec cette ses mon votre notre leur sont être
avoir tous bien aussi très où donc puis chez vers comme quand même ce cet ces au aux sa par peut deux autres ainsi après avant
encore toujours jamais rien tout toute"""
"""Common French words that are no English ones."""
ACCENTS = re.compile(r"[àâçèéêëîïôùûœ]")


def is_french(text):
    word = text.strip().lower()
    return word in COMMON.split() or ACCENTS.search(word) is not None


def reply(client, question, steering):
    """Greedy tokens, and the log-probability of each."""
    answer = client.complete(question, steering=steering, max_tokens=N_TOKENS, logprobs=0, token_ids=True)
    return answer.choices[0].token_ids, np.array([entry.logprob for entry in answer.choices[0].logprobs])


def test_a_vector_that_went_through_gguf_steers_the_same(client, question, trait_extract, service_url, tmp_path):
    (tmp_path / "refusal.safetensors").write_bytes(client.vector_bytes("refusal"))
    file = tmp_path / "refusal.gguf"
    export = ["export", tmp_path / "refusal.safetensors", file, "--layer", "13", "--coef", "1.5", "--unit", "dose"]
    assert trait_extract(*export)[0] == 0
    code, _, said = trait_extract(
        "import", file, "--trait", "refusal-back", "--numbering", "block", "--register",
        "--url", service_url, "--out", tmp_path / "back",
    )  # fmt: skip
    assert code == 0, said
    ours = Steering(terms=[SteeringTerm(vector="refusal", coefficient=1.5, layers=[13])])
    back = Steering(terms=[SteeringTerm(vector="refusal-back", coefficient=1.0, unit="separation")])
    tokens, logprobs = reply(client, question, ours)
    assert tokens != reply(client, question, None)[0], "the vector does something"
    same_tokens, same_logprobs = reply(client, question, back)
    assert same_tokens == tokens
    np.testing.assert_allclose(same_logprobs, logprobs, atol=1e-3)


def test_a_vector_that_repeng_made_steers_as_its_numbers_do_in_transformers(
    client, question, trait_extract, service_url, reference, tmp_path
):
    """The file is repeng's own (tests/data/make_repeng_vector.py); repeng adds strength x direction to a block's output."""
    strength = 12.0
    code, _, wrong = trait_extract(
        "import", REPENG, "--trait", "delighted", "--numbering", "block", "--register",
        "--url", service_url, "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, wrong
    made = VectorFile.load(tmp_path / "delighted" / "imported.safetensors")
    layers = sorted(made.directions)
    assert layers == [5, 9, 13]
    options = made.metadata.method_options
    assert (options["imported_from"], options["numbering"]) == ("GGUF control vector", "block"), "no maker is guessed"
    import gguf

    numbers = {int(t.name.partition(".")[2]): torch.tensor(t.data) for t in gguf.GGUFReader(REPENG).tensors}
    term = SteeringTerm(vector="delighted", coefficient=strength, unit="separation", layers=layers)
    tokens, logprobs = reply(client, question, Steering(terms=[term]))
    changes = {layer: lambda stream, _positions, added=strength * numbers[layer]: stream + added for layer in layers}
    expected, distribution = reference.greedy(question, N_TOKENS, changes)
    assert tokens == expected
    assert tokens != reference.greedy(question, N_TOKENS)[0], "the vector does something"
    chosen = distribution[torch.arange(N_TOKENS), torch.tensor(expected)].numpy()
    np.testing.assert_allclose(logprobs, chosen, atol=1e-3)


def test_the_massive_dimension_and_the_sink_of_smollm2_are_found(client, tmp_path):
    """Dimension 507 at the first position: 161 times the norm of the others, read by transformers in float32."""
    found = calibrated(client, tmp_path)
    assert {dimension for layer in found.dimensions.values() for dimension in layer} == {507}
    assert set(range(12, 25)) <= set(found.dimensions)
    assert list(found.sinks) == [0]
    assert found.sinks[0] > 20


def test_a_tree_of_folders_steers_as_its_numbers_do_in_transformers(
    client, question, trait_extract, service_url, reference, tmp_path
):
    """One file a layer, as trait-interp writes them; coefficient 1 of unit separation adds the numbers themselves."""
    folder = tmp_path / "tree/mood/calm/instruct/vectors/response__5/residual/probe"
    folder.mkdir(parents=True)
    norms = client.info().residual_norms
    numbers = {}
    for layer in (9, 13):
        drawn = np.random.default_rng(layer).normal(size=reference.d_model)
        numbers[layer] = torch.tensor(drawn / np.linalg.norm(drawn) * norms[layer] / 2, dtype=torch.float32)
    for layer, array in numbers.items():
        torch.save(array, folder / f"layer{layer}.pt")
    code, _, wrong = trait_extract(
        "import", tmp_path / "tree", "--register", "--url", service_url, "--out", tmp_path / "out"
    )
    assert code == 0, wrong
    assert client.vector("calm").metadata.positions == "response[:5]"
    term = SteeringTerm(vector="calm", coefficient=1.0, unit="separation", layers=[9, 13])
    tokens, logprobs = reply(client, question, Steering(terms=[term]))
    changes = {layer: lambda stream, _positions, added=array: stream + added for layer, array in numbers.items()}
    expected, distribution = reference.greedy(question, N_TOKENS, changes)
    assert tokens == expected
    unsteered = reference.greedy(question, N_TOKENS)[1]
    assert float((distribution[0] - unsteered[0]).abs().max()) > 0.05, "the vector does something"
    chosen = distribution[torch.arange(N_TOKENS), torch.tensor(expected)].numpy()
    np.testing.assert_allclose(logprobs, chosen, atol=1e-3)
    client.delete_vector("calm")


def test_a_vector_is_read_as_the_tokens_that_transformers_own_head_gives(client, reference):
    vector = client.vector_file("refusal")
    layers = [3, 13, 28]
    z = reference.lens(np.stack([vector.directions[layer] for layer in layers]))
    read = client.lens("refusal", layers=layers, top_k=15)
    assert read.sha256 == client.vector("refusal").sha256
    for at, expected in zip(read.layers, z, strict=True):
        for tokens, largest in ((at.promoted, True), (at.suppressed, False)):
            top = expected.topk(15, largest=largest)
            assert [token.id for token in tokens] == top.indices.tolist(), f"layer {at.layer}"
            np.testing.assert_allclose([token.z for token in tokens], top.values, atol=1e-3)
            assert [token.text for token in tokens] == [reference.tokenizer.decode(i) for i in top.indices.tolist()]
    assert client.lens(vector, layers=layers, top_k=15) == read, "a file that is not registered"
    assert [at.layer for at in client.lens("refusal").layers] == [vector.metadata.chosen_layer]


def test_the_lens_shows_french_in_a_french_direction_and_in_no_random_one(client):
    """By words, on the last layer: a common French word, or a French accent. Of 200 random directions none has more than 3."""
    french = load_trait(find_trait(default_traits_folder(), "french"), None)
    inputs = [
        ActivationInput(messages=[Message(role="user", content=pair.prompt)], response=pair.response)
        for side in (french.positive, french.negative)
        for pair in side[:12]
    ]
    info = client.info()
    last = info.n_layers - 1
    read = client.activations(ActivationsRequest(inputs=inputs, positions=["response[:]"], layers=[last]))
    positive, negative = read.mean("response[:]")[:, 0].reshape(2, 12, -1).mean(1)
    random = np.random.default_rng(0).normal(size=info.d_model)
    counts = {}
    for name, array in {"french": positive - negative, "random": random}.items():
        (at,) = client.lens(VectorFile.from_arrays(name, {last: array}, info), top_k=50).layers
        counts[name] = sum(is_french(token.text) for token in at.promoted)
    assert counts["french"] >= 9, counts
    assert counts["random"] <= 3, counts


def test_the_command_line_shows_the_tokens_of_a_name_and_of_a_file(client, trait_extract, service_url, tmp_path):
    file = tmp_path / "refusal.safetensors"
    file.write_bytes(client.vector_bytes("refusal"))
    outputs = []
    for vector in ("refusal", file):
        code, out, wrong = trait_extract("lens", vector, "--layer", "20", "--top-k", "5", "--url", service_url)
        assert code == 0, wrong
        outputs.append(out)
    assert outputs[0] == outputs[1]
    for token in client.lens("refusal", layers=[20], top_k=5).layers[0].promoted:
        assert repr(token.text) in outputs[0]
        assert f"{token.z:+.2f}" in outputs[0]
    code, _, wrong = trait_extract("lens", "nobody", "--url", service_url)
    assert code == 1
    assert "nobody" in wrong
    code, _, wrong = trait_extract("lens", "refusal", "--layer", "99", "--url", service_url)
    assert code == 1
    assert "layer 99 is not in vector" in wrong


def test_raw_completions_of_a_base_style_are_read_and_separated(trait_extract, service_url, tmp_path):
    """Written prose, no chat template: the direction separates held-out texts, and the file records the style."""
    code, _, said = trait_extract(
        "run", "--trait", "refusal", "--style", "completions", "--url", service_url, "--no-register",
        "--splits", "2", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, said
    made = VectorFile.load(tmp_path / "refusal" / "completions" / "mean_diff.safetensors")
    meta = made.metadata
    assert (meta.style, meta.derived, meta.positions) == ("completions", False, "all[4:]")
    assert meta.chat_template_digest is None
    assert meta.layers[meta.chosen_layer].auc > 0.7


SUNNY = [f"On {day} the sun was out, so I" for day in ("Monday", "Tuesday", "Friday", "Sunday")]
SUNNY += [f"The {thing} was warm and bright, and we" for thing in ("garden", "kitchen", "beach", "valley")]
RAINY = [line.replace("the sun was out", "it rained").replace("warm and bright", "cold and dark") for line in SUNNY]


def continued_against_transformers(client, model, folder):
    """Continues raw text and reads it back, as extraction does; then the same in transformers, float32.

    Returns:
        `(tokens, pools)`: whether the tokens of each text are the same, and the largest relative error of its mean over
        `response[:5]` on any layer.
    """
    dataset = load_trait(folder, "continued")
    plan = Plan.of(dataset, Settings(default_positions(dataset), generation=Generation(max_tokens=8, seed=0)))
    torch.set_num_threads(1)  # two that share a busy machine with the service wait for each other
    source, reference = Source(client, client.info()), Reference(str(model))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda task: generate(task, plan, source), missing_replies(plan, source)))
    plan = checked(plan, source, ReplyCheck())
    found = read(plan, source)
    same, errors = [], []
    scenarios = (*plan.dataset.positive, *plan.dataset.negative)
    for scenario, pooled in zip(scenarios, (*found.positive, *found.negative), strict=True):
        prompt, ids = reference.tokenizer(scenario.prompt).input_ids, list(scenario.token_ids)
        likeliest = reference.next_logprobs(prompt, ids).argmax(-1).tolist()
        same.append((list(scenario.prompt_ids), ids) == (prompt, likeliest[: len(ids)]))
        stream = reference.streams([*prompt, *ids])[:, len(prompt) : len(prompt) + 5].mean(1).numpy()
        errors.append(float((np.linalg.norm(pooled - stream, axis=-1) / np.linalg.norm(stream, axis=-1)).max()))
    return same, errors


def test_continuations_and_their_activations_equal_transformers(client, smollm2_path, trait_folder):
    folder = trait_folder(SUNNY, RAINY, suffix=".txt")
    same, errors = continued_against_transformers(client, smollm2_path, folder)
    assert (len(same), all(same)) == (16, True)
    assert max(errors) < 1e-3


def test_continued_makes_a_vector_of_raw_text_in_one_command(trait_extract, service_url, trait_folder, tmp_path):
    folder = trait_folder(SUNNY, RAINY, suffix=".txt")
    code, out, said = trait_extract(
        "run", "--trait", "warmth", "--style", "continued", "--temperature", "0.7", "--samples", "2", "--max-tokens", "8",
        "--splits", "1", "--no-register", "--url", service_url, "--datasets", folder.parents[1], "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, said
    meta = VectorFile.load(tmp_path / "warmth" / "continued" / "mean_diff.safetensors").metadata
    assert (meta.style, meta.positions, meta.n_positive) == ("continued", "response[:5]", 16)
    assert "generated 32 replies" in out
