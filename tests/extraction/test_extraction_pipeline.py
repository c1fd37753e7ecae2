"""From datasets to vector files, through the protocol that the service's client has."""

import hashlib
import json

import numpy as np
import pytest
from trait_client.http import TraitClient
from trait_core.errors import DatasetError, InvalidRequestError, ServiceError
from trait_core.positions import Positions
from trait_core.storage import sha256_of
from trait_core.traits import find_trait
from trait_core.vectors.file import VectorFile
from trait_extraction.data.datasets import load_trait
from trait_extraction.data.split import split_scenarios
from trait_extraction.pipeline import RunOptions, extract, run
from trait_extraction.plan import Plan, Settings, default_positions
from trait_extraction.reading.activations import read, residual_norms
from trait_extraction.reading.source import Source, VectorService


def at(positions, **options):
    return Settings(Positions.parse(positions), **options)


def read_at(service, dataset, positions):
    return read(Plan.of(dataset, at(positions)), Source(service, service.info()))


RESPONSE = at("response[:]")


def test_the_http_client_has_what_extraction_needs():
    service: VectorService = TraitClient("http://127.0.0.1:9")
    assert callable(service.activations)


def test_one_capture_gives_a_file_for_each_method_with_its_provenance(trait_folder, gaussians, tmp_path):
    service, dataset = gaussians(), load_trait(trait_folder())
    results = run(service, [(dataset, RESPONSE)], ["mean_diff", "probe", "random"], tmp_path / "out")
    assert service.n_requests == 1
    assert [r.path.name for r in results] == ["mean_diff.safetensors", "probe.safetensors", "random.safetensors"]
    vector = VectorFile.load(tmp_path / "out" / "warmth" / "probe.safetensors")
    meta = vector.metadata
    assert (meta.trait, meta.model, meta.method, meta.positions) == ("warmth", "toy", "probe", "response[:]")
    assert (meta.n_positive, meta.n_negative, meta.n_held_out, meta.seed) == (16, 16, 4, 0)
    assert meta.dataset_digest == dataset.digest
    assert meta.method_options["C"] == 1.0
    assert sorted(meta.layers) == list(range(10))
    assert meta.layers[6].residual_norm == pytest.approx(7.0)
    assert meta.layers[6].auc == 1.0
    assert results[0].vector.directions[6].argmax() == 0
    assert results[2].vector.metadata.layers[6].separation < meta.layers[6].separation
    assert service.registered == {}


def test_vectors_of_what_an_mlp_adds_are_files_of_their_own_with_the_norms_of_the_stream(
    trait_folder, gaussians, tmp_path
):
    service, dataset = gaussians(), load_trait(trait_folder())
    mlp = at("response[:]", at="mlp_out")
    with pytest.raises(InvalidRequestError, match="no hook point mlp_out: start it with --hook-points mlp_out"):
        run(service, [(dataset, mlp)], ["mean_diff"], tmp_path / "out")
    asked = []
    service = gaussians(hook_points=["resid_post", "mlp_out"])
    info, activations = service.info(), service.activations
    service.activations = lambda request: asked.append((request.at, request.positions)) or activations(request)
    options = RunOptions(register=True)
    (stream,), (inside,) = (
        run(service, [(dataset, each)], ["mean_diff"], tmp_path / "out", options) for each in (RESPONSE, mlp)
    )
    assert asked == [("resid_post", ["response[:]", "all[4:]"]), ("mlp_out", ["response[:]"])]
    assert (stream.path.name, inside.path.name) == ("mean_diff.safetensors", "mean_diff.mlp_out.safetensors")
    assert (stream.registered, inside.registered) == ("warmth", "warmth.mean_diff.mlp_out")
    meta = inside.vector.metadata
    assert (meta.hook_point, stream.vector.metadata.hook_point) == ("mlp_out", "resid_post")
    assert [meta.layers[layer].residual_norm for layer in meta.layers] == pytest.approx(info.residual_norms)
    again = run(service, [(dataset, mlp)], ["mean_diff"], tmp_path / "out", options)
    assert (again[0].reused, len(asked)) == (True, 2)


def test_extract_makes_the_same_vectors_in_memory_and_reads_a_cache(trait_folder, gaussians, tmp_path):
    class ReadOnly:
        """Just what written pairs need of a model: no chat, no registry."""

        def __init__(self, service):
            self.info, self.activations = service.info, service.activations

    service, dataset = gaussians(), load_trait(trait_folder())
    files = run(gaussians(), [(dataset, RESPONSE)], ["mean_diff", "pca"], tmp_path / "out")
    vectors = extract(ReadOnly(service), dataset, ["mean_diff", "pca"])
    assert list(vectors) == ["mean_diff", "pca"]
    assert [sha256_of(v.to_bytes()) for v in vectors.values()] == [r.sha256 for r in files]
    for _ in range(2):
        extract(ReadOnly(service), dataset, ["pca"], RESPONSE, cache=tmp_path / "cache")
    assert service.n_requests == 2, "the first call read them, the first of the cached ones too, the second did not"
    with pytest.raises(InvalidRequestError, match="unknown method 'median'"):
        extract(ReadOnly(service), dataset, ["median"])


def test_all_methods_steer_on_one_layer_chosen_from_the_middle(trait_folder, gaussians, tmp_path):
    gap = (9.0, 9.0, 9.0, 9.0, 1.0, 4.0, 9.0, 9.0, 9.0, 9.0)
    results = run(gaussians(gap=gap), [(load_trait(trait_folder()), RESPONSE)], ["probe", "random"], tmp_path)
    assert {r.vector.metadata.chosen_layer for r in results} == {5}
    assert "Cohen's d" in results[0].vector.metadata.chosen_because


def test_directions_know_nothing_of_held_out_scenarios(trait_folder, gaussians, tmp_path):
    """Held-out replies replaced by others, on both sides: the same directions, another evidence."""
    held_out = set(split_scenarios(16, 0.25, seed=0).held_out.positive)

    def lines(word):
        return [
            {"prompt": f"Question {i}?", "response": f"{word} {i}{' indeed' if i in held_out else ''}."}
            for i in range(16)
        ]

    plain = run(gaussians(), [(load_trait(trait_folder()), RESPONSE)], ["mean_diff", "probe"], tmp_path / "a")
    folder = trait_folder(lines("YES"), lines("NO"), name="changed")
    other = run(gaussians(), [(load_trait(folder), RESPONSE)], ["mean_diff", "probe"], tmp_path / "b")
    for first, second in zip(plain, other, strict=True):
        for layer in range(10):
            np.testing.assert_array_equal(first.vector.directions[layer], second.vector.directions[layer])
            ours, theirs = first.vector.metadata.layers[layer], second.vector.metadata.layers[layer]
            assert ours.separation == theirs.separation
            assert ours.cohens_d != theirs.cohens_d


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(trait_folder, gaussians, tmp_path):
    dataset = load_trait(trait_folder())

    def digests(folder, seed):
        settings = at("response[:]", seed=seed)
        results = run(gaussians(), [(dataset, settings)], ["mean_diff", "probe", "random"], tmp_path / folder)
        return [hashlib.sha256(r.path.read_bytes()).hexdigest() for r in results]

    assert digests("a", 0) == digests("b", 0)
    assert not set(digests("a", 0)) & set(digests("c", 1))


def test_an_existing_file_is_reused_until_its_inputs_change(trait_folder, gaussians, tmp_path):
    folder, service, out, captured = trait_folder(), gaussians(), tmp_path / "out", []

    def reused(settings=RESPONSE, methods=("mean_diff",), **options):
        before = service.n_requests
        results = run(service, [(load_trait(folder), settings)], methods, out, RunOptions(**options))
        captured.append(service.n_requests - before)
        return [r.reused for r in results]

    assert reused() == [False]
    assert reused() == [True]
    assert reused(methods=("mean_diff", "random")) == [True, False]
    assert reused(force=True) == [False]
    assert reused(at("response[:]", seed=5)) == [False]
    assert reused(at("all[:]", seed=5)) == [False]
    assert reused(at("all[:]", seed=5, held_out=0.5)) == [False]
    service.fake.change(config_digest="sha256:other")
    assert reused(at("all[:]", seed=5, held_out=0.5)) == [False]
    (folder / "positive.jsonl").write_text((folder / "positive.jsonl").read_text().replace("YES 1.", "YES 1!"))
    assert reused(at("all[:]", seed=5, held_out=0.5)) == [False]
    (out / "warmth" / "mean_diff.safetensors").write_bytes(b"torn")
    assert reused(at("all[:]", seed=5, held_out=0.5)) == [False]
    assert reused(at("all[:]", seed=5, held_out=0.5)) == [True]
    # Another method, seed or split is fitted on the activations that stand; a torn file is made of them again.
    assert captured == [1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0]


def test_vectors_are_registered_under_the_trait_and_under_trait_dot_method(trait_folder, gaussians, tmp_path):
    service, jobs = gaussians(), [(load_trait(trait_folder()), RESPONSE)]
    results = run(service, jobs, ["probe", "mean_diff"], tmp_path, RunOptions(register=True))
    assert [r.registered for r in results] == ["warmth", "warmth.mean_diff"]
    assert sha256_of(service.registered["warmth"]) == results[0].sha256
    restarted = gaussians()
    run(restarted, jobs, ["probe", "mean_diff"], tmp_path, RunOptions(register=True))
    assert restarted.registered == service.registered
    assert restarted.n_requests == 0


def test_requests_stay_within_the_services_limit(trait_folder, gaussians):
    dataset = load_trait(trait_folder())
    whole = read_at(gaussians(), dataset, "response[:]")
    service = gaussians(limits={"max_activation_inputs": 7})
    parts = read_at(service, dataset, "response[:]")
    assert service.n_requests == 5
    np.testing.assert_array_equal(whole.positive, parts.positive)
    np.testing.assert_array_equal(whole.negative, parts.negative)


def test_the_residual_norm_is_weighted_by_positions(trait_folder, gaussians):
    dataset = load_trait(trait_folder())

    class Uneven(gaussians):
        def activations(self, request):
            answer = super().activations(request)
            answer.tensors["count/all[4:]"][:] = [1, 3, *[0] * 30]
            answer.tensors["norm/all[4:]"] = np.full((32, 10), np.nan, np.float32)
            answer.tensors["norm/all[4:]"][:2] = [[8.0], [4.0]]
            return answer

    found = read_at(Uneven(), dataset, "response[:]")
    np.testing.assert_allclose(found.residual_norms, 5.0)


def test_a_scenario_without_the_positions_is_named(trait_folder, gaussians):
    class Short(gaussians):
        def activations(self, request):
            answer = super().activations(request)
            answer.tensors["count/response[40:]"][18] = 0
            return answer

    with pytest.raises(DatasetError, match=r"negative\.jsonl:3: has no position response\[40:\] \(1 of 32"):
        read_at(Short(), load_trait(trait_folder()), "response[40:]")


def written(without=()):
    """Pairs as `trait_folder` writes them; the positive reply of pair 2 and the negative one of pair 9 are cut off."""
    cut = {("YES", 2), ("NO", 9)}
    return [
        [
            {"prompt": f"Question {i}?", "response": f"{word} {'CUT' if (word, i) in cut else ''}{i}."}
            for i in range(16)
            if i not in without
        ]
        for word in ("YES", "NO")
    ]


@pytest.fixture
def reasoning(gaussians):
    """A service whose replies with the word CUT have no answer: as the real one, it answers zeros and the count 0."""

    class Reasoning(gaussians):
        def activations(self, request):
            found = super().activations(request)
            cut = ["CUT" in item.response for item in request.inputs]
            for kind in ("mean", "norm", "count"):
                found.tensors[f"{kind}/answer[:]"][cut] = 0
            return found

    return Reasoning


def test_a_reply_without_an_answer_is_left_out_with_its_pair(trait_folder, reasoning, tmp_path):
    """The directions are those of the other pairs, as if the two had never been written."""
    service, said = reasoning(), []
    job = [(load_trait(trait_folder(*written())), at("answer[:]"))]
    options = RunOptions(report=said.append)
    (found,) = run(service, job, ["mean_diff"], tmp_path / "out", options)
    fewer = load_trait(trait_folder(*written(without=(2, 9)), name="fewer"))
    (same,) = run(reasoning(), [(fewer, at("answer[:]"))], ["mean_diff"], tmp_path / "out")
    for layer, direction in same.vector.directions.items():
        np.testing.assert_array_equal(found.vector.directions[layer], direction)
    meta = found.vector.metadata
    assert (meta.n_positive, meta.n_negative, meta.method_options["left_out"]) == (14, 14, [2, 2])
    assert meta.dataset_digest == job[0][0].digest
    assert "warmth: 2 pairs left out, without a token at answer[:]" in said
    (again,) = run(service, job, ["mean_diff"], tmp_path / "out", options)
    assert (again.reused, service.n_requests) == (True, 1)


def test_texts_without_an_answer_are_left_out_of_the_side_that_they_are_on(trait_folder, reasoning):
    positive, negative = written()
    found = read_at(reasoning(), load_trait(trait_folder(positive, negative[:-1])), "answer[:]")
    assert (len(found.positive), len(found.negative)) == (15, 14)
    assert (found.plan.left_out.positive, found.plan.left_out.negative) == (1, 1)


def test_a_trait_without_any_answer_is_refused(trait_folder, reasoning):
    cut = [[{"prompt": f"{i}?", "response": f"{word} CUT {i}"} for i in range(16)] for word in ("YES", "NO")]
    with pytest.raises(DatasetError, match=r"no position answer\[:\] \(32 of 32"):
        read_at(reasoning(), load_trait(trait_folder(*cut)), "answer[:]")
    few = [side[:5] + kept for side, kept in zip(cut, written(without=range(3, 16)), strict=True)]
    with pytest.raises(InvalidRequestError, match="of 2 scenarios leaves fewer than 2"):
        read_at(reasoning(), load_trait(trait_folder(*few)), "answer[:]")


def test_activations_that_are_not_finite_are_the_services_error(trait_folder, gaussians, tmp_path):
    class Overflowing(gaussians):
        def activations(self, request):
            answer = super().activations(request)
            answer.tensors["mean/response[:]"][4, 7, 2] = np.inf
            return answer

    with pytest.raises(ServiceError, match="layer 7 are not finite"):
        run(Overflowing(), [(load_trait(trait_folder()), RESPONSE)], ["mean_diff"], tmp_path)
    assert list(tmp_path.glob("**/*.safetensors")) == []


def test_positions_at_which_the_sides_cannot_differ_are_refused(trait_folder, gaussians, tmp_path):
    with pytest.raises(InvalidRequestError, match=r"same prompt on both sides in 16 of 16.*prompt\[-1\]"):
        run(gaussians(), [(load_trait(trait_folder()), at("prompt[-1]"))], ["mean_diff"], tmp_path)
    raw = load_trait(
        trait_folder([f"YES {i}" for i in range(9)], [f"NO {i}" for i in range(9)], name="raw", suffix=".txt")
    )
    with pytest.raises(InvalidRequestError, match="no response"):
        run(gaussians(), [(raw, RESPONSE)], ["mean_diff"], tmp_path)


def test_prompts_of_instructed_scenarios_are_read_without_replies(trait_folder, gaussians, tmp_path):
    sides = [[{"prompt": f"Q {i}?", "system_prompt": word} for i in range(16)] for word in ("Say YES.", "Say NO.")]
    service = gaussians()
    (result,) = run(service, [(load_trait(trait_folder(*sides)), at("prompt[-1]"))], ["mean_diff"], tmp_path)
    assert (service.n_requests, result.vector.metadata.elicitation) == (1, None)
    with pytest.raises(InvalidRequestError, match="generate them first"):
        read_at(service, load_trait(trait_folder(*sides)), "response[:]")


@pytest.mark.parametrize(
    ("methods", "reason"), [(["median"], "unknown method 'median'.*mean_diff, probe"), ([], "no method")]
)
def test_methods_are_checked_before_anything_is_read(trait_folder, gaussians, tmp_path, methods, reason):
    service = gaussians()
    with pytest.raises(InvalidRequestError, match=reason):
        run(service, [(load_trait(trait_folder()), RESPONSE)], methods, tmp_path)
    assert service.n_requests == 0


# ---- a real model


@pytest.fixture(scope="module")
def refusal(smollm2, traits_root, tmp_path_factory):
    """Vectors of the repository's refusal dataset on SmolLM2, made by transformers."""
    dataset = load_trait(find_trait(traits_root, "refusal"))
    out = tmp_path_factory.mktemp("vectors")
    results = run(smollm2, [(dataset, RESPONSE)], ["mean_diff", "probe", "random"], out)
    return {r.vector.metadata.method: r.vector for r in results}


def test_on_smollm2_a_middle_layer_separates_refusals_it_never_saw(refusal):
    for method in ("mean_diff", "probe"):
        meta = refusal[method].metadata
        at = meta.layers[meta.chosen_layer]
        assert (meta.n_layers, meta.d_model) == (30, 576)
        assert meta.chosen_layer in range(12, 18)
        assert at.auc > 0.98
        assert at.accuracy > 0.95
        assert at.cohens_d > 4
        assert 0.05 < at.separation / at.residual_norm < 1


def test_on_smollm2_the_residual_norm_leaves_the_attention_sink_out(refusal):
    """The first position's norm is some thousands in the middle layers; every other token's is between 50 and 400."""
    assert 50 < refusal["mean_diff"].metadata.layers[13].residual_norm < 400


def test_on_smollm2_a_random_direction_separates_little(refusal):
    trait, control = (refusal[m].metadata for m in ("mean_diff", "random"))
    layer = trait.chosen_layer
    assert control.chosen_layer == layer
    assert control.layers[layer].separation < 0.2 * trait.layers[layer].separation
    cosine = refusal["mean_diff"].directions[layer] @ refusal["random"].directions[layer]
    assert abs(cosine) < 0.2


def test_on_smollm2_adding_the_direction_makes_refusals_likelier(smollm2, refusal):
    """The vector does what it is for: a refusal's first words gain probability, and lose it the other way."""
    import torch

    meta = refusal["mean_diff"].metadata
    layer = meta.chosen_layer
    a = 0.15 * meta.layers[layer].residual_norm
    prompt = smollm2.fake.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Name a fruit that is yellow."}], tokenize=False, add_generation_prompt=True
    )
    ids = [
        smollm2.fake.tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, "I'm sorry, but I can't")
    ]

    def log_likelihood(sign):
        delta = torch.tensor(sign * a * refusal["mean_diff"].directions[layer])
        hook = smollm2.fake.layers[layer].register_forward_hook(
            lambda _m, _i, out: (out[0] + delta, *out[1:]) if isinstance(out, tuple) else out + delta
        )
        try:
            with torch.no_grad():
                logits = smollm2.fake.model(torch.tensor([ids[0] + ids[1]])).logits[0].log_softmax(-1)
        finally:
            hook.remove()
        return sum(float(logits[len(ids[0]) + i - 1, token]) for i, token in enumerate(ids[1]))

    assert log_likelihood(1) > log_likelihood(0) + 1
    assert log_likelihood(0) > log_likelihood(-1)


def test_on_smollm2_raw_text_is_read_without_the_attention_sink(smollm2, traits_root, trait_folder, tmp_path):
    """Replies as plain lines: over all[:] the first position hides the trait, over the default it does not."""
    chat = load_trait(find_trait(traits_root, "question_asking"))
    sides = [[s.response for s in side[:32]] for side in (chat.positive, chat.negative)]
    dataset = load_trait(trait_folder(*sides, suffix=".txt"))
    assert str(default_positions(dataset)) == "all[4:]"
    found = {}
    for positions in ("all[4:]", "all[:]"):
        (result,) = run(smollm2, [(dataset, at(positions))], ["mean_diff"], tmp_path)
        found[positions] = result.vector.metadata.layers[15]
    assert found["all[4:]"].auc > 0.98
    assert found["all[:]"].auc < 0.9
    assert found["all[:]"].residual_norm == pytest.approx(found["all[4:]"].residual_norm)


def test_residual_norms_need_a_fifth_position(gaussians):
    service = gaussians()
    from trait_core.schema import ActivationInput, ActivationsRequest

    answer = service.activations(ActivationsRequest(inputs=[ActivationInput(text="x")], positions=["all[4:]"]))
    answer.tensors["count/all[4:]"][:] = 0
    with pytest.raises(DatasetError, match="longer than 4 tokens"):
        residual_norms([answer])


def test_metadata_is_json_that_anyone_can_read(trait_folder, gaussians, tmp_path):
    (result,) = run(gaussians(), [(load_trait(trait_folder()), RESPONSE)], ["mean_diff"], tmp_path)
    data = result.path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["trait"])["layer_convention"] == "output of 0-based decoder block"
