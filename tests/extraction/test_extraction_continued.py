"""Natural elicitation: a base model continues raw text, and its own tokens are read back."""

import json

import pytest
from fake_service import ACTIVATIONS, COMPLETIONS
from trait_core.errors import InvalidRequestError, ServiceError
from trait_core.positions import Positions
from trait_core.schema import Generation
from trait_core.vectors.file import VectorFile
from trait_extraction.data.datasets import load_trait
from trait_extraction.pipeline import RunOptions, run
from trait_extraction.plan import Plan, Settings, default_max_tokens, default_positions
from trait_extraction.reading.reply_check import ElicitationError

BASE = {"has_chat_template": False, "chat_template_digest": None}
LINES = [[f"{word} begins scenario {i}" for i in range(16)] for word in ("YES", "NO")]
WARM = Settings(
    Positions.parse("response[:5]"), generation=Generation(max_tokens=8, temperature=1.0, seed=0), samples=3
)


def steering(metric=None):
    return json.dumps({"questions": ["How are you?"]} | ({"metric": metric} if metric else {}))


@pytest.fixture
def raw(trait_folder):
    """A factory of traits of raw text, of 16 lines a side unless others are given."""

    def make(positive=LINES[0], negative=LINES[1], name="warmth", metric=None):
        folder = trait_folder(positive, negative, name=name, suffix=".txt", steering__json=steering(metric))
        return load_trait(folder, "continued")

    return make


def settings(dataset, **options):
    return Settings(default_positions(dataset), generation=Generation(max_tokens=8, seed=0), **options)


def test_the_models_own_tokens_are_read_after_the_raw_text(raw, gaussians, tmp_path):
    service, dataset = gaussians(**BASE), raw()
    (made,) = run(service, [(dataset, settings(dataset))], ["mean_diff"], tmp_path, RunOptions(register=True))
    sent, fake = service.fake.requests[COMPLETIONS], service.fake
    assert [body["prompt"] for body in sent][:1] == [LINES[0][0]]
    assert {(body["temperature"], body["max_tokens"], "steering" in body) for body in sent} == {(0.0, 8, False)}
    (read,) = fake.requests[ACTIVATIONS]
    item = read["inputs"][0]
    words = [fake.words[i] for i in item["token_ids"]]
    assert words == ["<bos>", *LINES[0][0].split(), "YES,", "and", "0", "goes", "on", "and", "on"], "not the end"
    assert (item["n_prompt"], read["positions"]) == (5, ["response[:5]", "all[4:]"])
    meta = made.vector.metadata
    assert (meta.style, meta.positions, meta.chat_template_digest) == ("continued", "response[:5]", None)
    assert (meta.method_options["generation"]["max_tokens"], meta.method_options["samples"]) == (8, 1)
    assert (made.registered, made.path.parent.name) == ("warmth.continued", "continued")
    assert meta.layers[meta.chosen_layer].auc == 1.0


def test_what_nothing_can_check_is_used_and_recorded_as_unchecked(raw, gaussians, tmp_path):
    dataset = raw()
    (made,) = run(gaussians(**BASE), [(dataset, settings(dataset))], ["mean_diff"], tmp_path)
    found = made.vector.metadata.elicitation
    assert (found.checked_by, found.passed, found.n_generated, found.n_kept) == ("nothing", False, 16, 16)
    assert "unchecked" in found.fault


def test_a_metric_checks_continuations_as_it_checks_replies(raw, gaussians, tmp_path):
    shown, absent = (
        raw(name=name, metric={"kind": "matches", "patterns": [pattern]})
        for name, pattern in (("shown", "yes"), ("absent", "never said"))
    )
    (made,) = run(gaussians(**BASE), [(shown, settings(shown))], ["mean_diff"], tmp_path)
    assert (made.vector.metadata.elicitation.auc, made.vector.metadata.elicitation.passed) == (1.0, True)
    with pytest.raises(ElicitationError, match=r"AUC 0\.50.*scenarios that lead to the trait"):
        run(gaussians(**BASE), [(absent, settings(absent))], ["mean_diff"], tmp_path)


def test_continuations_that_end_at_once_are_left_out_with_their_number(raw, gaussians, tmp_path):
    service, dataset, lines = gaussians(**BASE), raw(), []
    silent = {LINES[0][3], LINES[0][5], LINES[1][5]}
    usual = service.fake.continuation
    service.fake.continuation = lambda body, prompt: "" if body["prompt"] in silent else usual(body, prompt)
    options = RunOptions(report=lines.append)
    (made,) = run(service, [(dataset, settings(dataset))], ["mean_diff"], tmp_path, options)
    assert "warmth.continued: 3 continuations left out, without a token at response[:5]" in lines
    found = made.vector.metadata
    assert (found.elicitation.n_generated, found.elicitation.n_kept, found.n_positive) == (16, 14, 14), "pairs 3 and 5"


def test_samples_of_a_scenario_have_their_own_seeds_and_stay_in_one_part_of_the_split(raw, gaussians, tmp_path):
    service, dataset = gaussians(**BASE), raw()
    service.fake.continuation = lambda body, prompt: f"{'YES' if 'YES' in prompt else 'NO'} by seed {body['seed']}"
    (made,) = run(service, [(dataset, WARM)], ["mean_diff"], tmp_path)
    asked = {(body["prompt"], body["seed"]) for body in service.fake.requests[COMPLETIONS]}
    assert asked == {(line, seed) for side in LINES for line in side for seed in range(3)}
    assert (made.vector.metadata.n_positive, made.vector.metadata.method_options["samples"]) == (48, 3)
    plan = Plan.of(dataset, WARM)
    for split in plan.splits:
        parts = [{plan.dataset.positive[i].prompt for i in part.positive} for part in (split.train, split.held_out)]
        assert parts[0].isdisjoint(parts[1])


def test_further_samples_keep_the_first_ones(raw, gaussians, tmp_path):
    service, dataset = gaussians(**BASE), raw()
    for n, more in ((1, 32), (3, 64)):
        before = len(service.fake.requests[COMPLETIONS])
        job = (dataset, Settings(WARM.positions, generation=WARM.generation, samples=n))
        run(service, [job], ["mean_diff"], tmp_path)
        assert len(service.fake.requests[COMPLETIONS]) - before == more


def test_prompts_are_read_without_continuations(raw, gaussians, tmp_path):
    service = gaussians(**BASE)
    run(service, [(raw(), Settings(Positions.parse("prompt[-1]")))], ["mean_diff"], tmp_path)
    assert service.fake.requests[COMPLETIONS] == []
    assert service.fake.requests[ACTIVATIONS][0]["inputs"][0]["text"] == LINES[0][0]


def test_an_interrupted_run_continues_only_what_is_missing(raw, gaussians, tmp_path):
    service, dataset = gaussians(fails_after=11, limits={"max_num_seqs": 1}, **BASE), raw()
    with pytest.raises(ServiceError, match="the engine has stopped"):
        run(service, [(dataset, settings(dataset))], ["mean_diff"], tmp_path)
    service.fake.fails_after = None
    run(service, [(dataset, settings(dataset))], ["mean_diff"], tmp_path)
    answered = [body["prompt"] for body in service.fake.answered[COMPLETIONS]]
    assert len(answered) == len(set(answered)) == 32


def test_written_pairs_and_system_prompts_are_raw_text_to_continue(trait_folder):
    words = "one two three four five six seven eight nine ten"
    pairs = [[{"prompt": f"Q {i}?", "response": f"{side} {words}"} for i in range(9)] for side in ("YES", "NO")]
    derived = load_trait(trait_folder(*pairs), "continued")
    assert derived.derived
    assert derived.positive[0].prompt == "Q 0?\n\nYES one two three four five six seven"
    told = [[{"prompt": f"Q {i}?", "system_prompt": f"Say {side}."} for i in range(9)] for side in ("YES", "NO")]
    dataset = load_trait(trait_folder(*told, name="told"), "continued")
    assert (dataset.style, dataset.default_style) == ("continued", False)
    assert default_max_tokens(dataset) == 16


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"samples": 2}, "at temperature 0 are all the same"), ({"samples": 0}, "must be 1 or more")],
)
def test_samples_that_make_no_sense_are_refused(raw, options, reason):
    dataset = raw()
    with pytest.raises(InvalidRequestError, match=reason):
        Plan.of(dataset, settings(dataset, **options))


def test_the_command_line_continues_with_temperature_and_samples(serve, trait_extract, raw, tmp_path):
    url, service = serve
    service.change(**BASE)
    dataset = raw()
    call = [
        "run",
        "--trait",
        "warmth",
        "--style",
        "continued",
        "--url",
        url,
        "--api-key",
        "key",
        "--temperature",
        "0.7",
    ]
    call += ["--samples", "2", "--datasets", dataset.folder.parents[1], "--out", tmp_path / "vectors"]
    code, out, err = trait_extract(*call)
    assert code == 0, err
    assert {(b["temperature"], b["seed"], b["max_tokens"]) for b in service.requests[COMPLETIONS]} == {
        (0.7, 0, 16),
        (0.7, 1, 16),
    }
    meta = VectorFile.load(tmp_path / "vectors" / "warmth" / "continued" / "mean_diff.safetensors").metadata
    assert (meta.n_positive, meta.elicitation.checked_by) == (32, "nothing")
    assert "generated 64 replies" in out
    assert "replies unchecked" in err
    code, _, err = trait_extract(*call[:-6], *call[-4:], "--samples", "2", "--temperature", "0")
    assert (code, "all the same" in err) == (2, True)
