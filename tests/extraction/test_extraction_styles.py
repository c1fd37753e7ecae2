"""The styles of contrastive pairs: those of a folder, their scenarios, and their faults."""

import json

import pytest
from trait_core.errors import DatasetError
from trait_core.traits import list_traits
from trait_extraction.data.completions import cut_in_mid_sentence, ends_a_sentence
from trait_extraction.data.datasets import load_trait
from trait_extraction.data.instructed import system_prompts_of
from trait_extraction.data.styles import styles_of
from trait_extraction.plan import default_positions
from trait_extraction.reading.inputs import activation_input

ALIGNMENT = {
    "conflicted",
    "deception",
    "gaming",
    "helpfulness_expressed",
    "helpfulness_intent",
    "honesty_observed",
    "refusal",
    "self_serving",
    "sycophancy",
}


def instructed(n=5, **changes):
    content = {"system_prompts": [{"positive": f"Say YES {i}.", "negative": f"Say NO {i}."} for i in range(n)]}
    return json.dumps(content | changes, indent=1)


def long_replies(word):
    return [{"prompt": f"Question {i}?", "response": f"{word}, it is so. Number {i} is fine."} for i in range(16)]


@pytest.fixture
def rich_folder(trait_folder):
    """A folder with written pairs and system prompts."""
    return lambda **files: trait_folder(
        long_replies("Yes"), long_replies("No"), **({"instructed__json": instructed()} | files)
    )


def refused(folder, style):
    with pytest.raises(DatasetError) as caught:
        load_trait(folder, style)
    return str(caught.value)


def test_written_pairs_stay_the_default_whatever_other_files_exist(trait_folder, rich_folder):
    plain = load_trait(trait_folder(long_replies("Yes"), long_replies("No"), name="plain"))
    folder = rich_folder()
    for side in ("positive", "negative"):
        (folder / f"{side}.txt").write_text("".join(f"{side} text number {i} is\n" for i in range(9)))
    assert styles_of(folder) == ["written", "instructed", "completions"]
    dataset = load_trait(folder)
    assert (dataset.style, dataset.name, dataset.default_style) == ("written", "warmth", True)
    assert dataset.digest == plain.digest
    raw = load_trait(folder, "completions")
    assert (raw.n_scenarios, raw.derived, raw.name) == (9, False, "warmth.completions")
    assert str(default_positions(raw)) == "all[4:]"


def test_instructed_scenarios_ask_the_written_prompts_under_each_pair_in_turn(rich_folder):
    dataset = load_trait(rich_folder(), "instructed")
    assert (dataset.n_scenarios, dataset.name, dataset.is_generated) == (16, "warmth.instructed", True)
    assert [s.prompt for s in dataset.positive] == [s.prompt for s in dataset.negative]
    assert [s.system_prompt for s in dataset.positive[3:7]] == [f"Say YES {i}." for i in (3, 4, 0, 1)]
    assert dataset.negative[6].system_prompt == "Say NO 1."
    assert [len(side) for side in system_prompts_of((dataset.positive, dataset.negative), paired=True)] == [5, 5]
    own = load_trait(rich_folder(instructed__json=instructed(prompts=[f"Own {i}?" for i in range(8)])), "instructed")
    assert [s.prompt for s in own.positive] == [f"Own {i}?" for i in range(8)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (instructed(4), "system_prompts"),
        (instructed(prompts=["Same?"] * 8), "prompts: 1 remain, and 8 are needed at least. "),
        (
            instructed().replace("Say NO 3.", "Say YES 1."),
            "2 pairs are left out, with a text that is on both sides: pairs 2 and 4",
        ),
        (instructed().replace('"negative"', '"negativ"', 1), "system_prompts.0.negative is missing"),
        (instructed()[:-2], "not JSON"),
    ],
)
def test_a_fault_in_instructed_json_is_named(rich_folder, content, reason):
    message = refused(rich_folder(instructed__json=content), "instructed")
    assert "instructed.json" in message
    assert reason in message


def test_an_evaluation_question_is_left_out_of_the_prompts_and_an_unknown_field_is_reported(rich_folder):
    content = instructed(prompts=["How are you?", *(f"Own {i}?" for i in range(8))], questions=[])
    dataset = load_trait(rich_folder(instructed__json=content), "instructed")
    for side in (dataset.positive, dataset.negative):
        assert [s.prompt for s in side] == [f"Own {i}?" for i in range(8)]
    assert dataset.left_out == (
        f"{dataset.folder}: 1 pair is left out, with an evaluation question of steering.json as the prompt",
    )
    assert [remark.what for remark in dataset.remarks] == ["unknown fields are not used: 'questions'"]
    few = instructed(prompts=["How are you?", *(f"Own {i}?" for i in range(7))])
    assert "7 scenarios remain, which are too few" in refused(rich_folder(instructed__json=few), "instructed")


def test_repeated_prompts_and_system_prompts_are_left_out_with_a_warning(rich_folder):
    pairs = [{"positive": f"Say YES {i}.", "negative": f"Say NO {i}."} for i in range(7)]
    pairs[2] = {"positive": "Say it.", "negative": "Say it."}
    pairs[5] = {"positive": "Say YES 0.", "negative": "Say no."}
    prompts = [f"Own {i}?" for i in range(9)] + ["Own 3?"]
    content = json.dumps({"system_prompts": pairs, "prompts": prompts})
    dataset = load_trait(rich_folder(instructed__json=content), "instructed")
    assert [s.prompt for s in dataset.positive] == prompts[:9]
    assert {s.system_prompt for s in dataset.positive} == {f"Say YES {i}." for i in (0, 1, 3, 4, 6)}
    said = [sentence.partition("instructed.json: ")[2] for sentence in dataset.left_out]
    assert said == [
        "system_prompts: 1 pair is left out, with a text that is on both sides: pair 3",
        "system_prompts: 1 pair is left out, with a text that occurs before on the same side: pair 6 (pair 6 repeats pair 1)",
        "1 of the prompts are left out, since they occur before: 'Own 3?'",
    ]


def test_derived_completions_that_begin_alike_are_left_out(trait_folder):
    """The replies differ only behind the cut."""
    positive, negative = long_replies("Yes"), long_replies("No")
    positive[3]["response"] = "It is so as one can see here and there oh yes indeed."
    negative[3]["response"] = "It is so as one can see here and there not at all."
    folder = trait_folder(positive, negative)
    assert (load_trait(folder).n_scenarios, load_trait(folder).left_out) == (16, ())
    derived = load_trait(folder, "completions")
    assert derived.n_scenarios == 15
    assert "1 pair is left out, with a text that is on both sides: line 4" in derived.left_out[0]
    assert derived.where(3).endswith("positive.jsonl:5")


def test_a_missing_style_is_refused_with_the_styles_that_exist(trait_folder):
    assert "has no instructed style: it has written. Write instructed.json" in refused(trait_folder(), "instructed")
    alone = trait_folder(name="alone", instructed__json=instructed())
    for side in ("positive", "negative"):
        (alone / f"{side}.jsonl").unlink()
    assert "prompts are missing" in refused(alone, None)
    (alone / "instructed.json").write_text(instructed(prompts=[f"Own {i}?" for i in range(8)]))
    assert (load_trait(alone).name, load_trait(alone).style) == ("alone", "instructed")
    assert "has no completions style: it has instructed" in refused(alone, "completions")
    doubled = [[{"prompt": f"Q{i}?", "system_prompt": s} for i in range(9)] for s in ("Be warm.", "Be cold.")]
    assert "keep one of the two" in refused(trait_folder(*doubled, name="both", instructed__json=instructed()), None)


def test_derived_completions_are_the_written_pairs_cut_in_mid_sentence(rich_folder):
    written, dataset = load_trait(rich_folder()), load_trait(rich_folder(), "completions")
    assert (dataset.derived, dataset.n_scenarios, str(default_positions(dataset))) == (True, 16, "response[:]")
    for whole, cut in zip((*written.positive, *written.negative), (*dataset.positive, *dataset.negative), strict=True):
        assert cut.prompt == f"{whole.prompt}\n\n"
        assert whole.response.startswith(f"{cut.response} ")
        assert not ends_a_sentence(cut.response)
    item = activation_input(dataset, dataset.positive[2])
    assert (item.messages, item.text, item.response) == (None, "Question 2?\n\n", "Yes, it is so. Number 2")


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One two three four five six seven eight nine ten.", "One two three four five six seven"),
        ("One two three four five six seven. Eight nine ten.", "One two three four five six"),
        ('He "Go!" "Stop!" now', "He"),
        ("Yes 3.", "Yes"),
        ("No. Never.", None),
        ("No.", None),
        ("", None),
    ],
)
def test_a_cut_never_ends_a_sentence(text, cut):
    assert cut_in_mid_sentence(text) == cut


def test_replies_that_are_too_short_to_be_cut_are_named(trait_folder):
    lines = long_replies("Yes")
    lines[4]["response"] = "Yes."
    assert "positive.jsonl:5: the reply is too short" in refused(trait_folder(lines, long_replies("No")), "completions")


def test_check_covers_every_style_and_warns_about_completions_that_end_with_a_sentence(trait_extract, rich_folder):
    folder = rich_folder()
    for side in ("positive", "negative"):
        (folder / f"{side}.txt").write_text("".join(f"The {side} text number {i} is.\n" for i in range(9)))
    root = folder.parents[1]
    code, out, _ = trait_extract("check", "--datasets", root, "--json")
    rows = json.loads(out)["valid"]
    assert (code, [r["style"] for r in rows]) == (0, ["written", "instructed", "completions"])
    assert rows[1]["balance"]["words_accuracy"] is None
    assert rows[1]["balance"]["mean_words"] == [3.0, 3.0]
    assert "18 of 18 texts end with a complete sentence" in rows[2]["balance"]["warnings"][-1]
    (folder / "instructed.json").write_text("{")
    code, _, err = trait_extract("check", "--datasets", root)
    assert (code, "instructed.json:1: not JSON" in err) == (1, True), "nothing could be used"
    assert trait_extract("check", "--datasets", root, "--style", "written")[0] == 0


def test_every_alignment_trait_has_sixty_scenarios_of_each_style(traits_root):
    folders = [f for f in list_traits(traits_root) if f.parent.name == "alignment"]
    assert {f.name for f in folders} == ALIGNMENT
    for folder in folders:
        told = load_trait(folder, "instructed")
        assert told.n_scenarios >= 60
        assert len(system_prompts_of((told.positive, told.negative), paired=True)[0]) >= 5
        raw = load_trait(folder, "completions")
        assert raw.n_scenarios >= 60
        assert raw.derived == (folder.name not in {"deception", "refusal", "sycophancy"})
        texts = [s.response or s.prompt for s in (*raw.positive, *raw.negative)]
        assert [t for t in texts if ends_a_sentence(t)] == []
