"""Trait folders: everything that can be used is, with remarks on the rest; every error names file and line."""

import json

import pytest
from trait_core.errors import DatasetError
from trait_core.traits import find_trait, grouped, list_traits
from trait_extraction.data.datasets import load_trait
from trait_extraction.data.split import split_sides


def pairs(n=16, **changes):
    return [{"prompt": f"Question {i}?", "response": f"Reply {i}."} | changes for i in range(n)]


def without(scenarios, field):
    return [{k: v for k, v in s.items() if k != field} for s in scenarios]


def refused(folder):
    with pytest.raises(DatasetError) as caught:
        load_trait(folder)
    return str(caught.value)


def test_a_folder_of_written_pairs_is_read_in_order(trait_folder):
    dataset = load_trait(trait_folder())
    assert (dataset.trait, dataset.category, dataset.style, dataset.n_scenarios) == ("warmth", "tone", "written", 16)
    assert dataset.positive[3].response == "YES 3."
    assert dataset.negative[3].response == "NO 3."
    assert dataset.steering.questions == ["How are you?"]


def test_scenarios_without_responses_are_instructed_and_txt_lines_are_completions(trait_folder):
    sides = [without(pairs(system_prompt=word), "response") for word in ("Be warm.", "Be cold.")]
    assert load_trait(trait_folder(*sides, name="told")).style == "instructed"
    lines = [[f"{word} {i}" for i in range(9)] for word in ("Oui", "Yes")]
    raw = load_trait(trait_folder(*lines, name="raw", suffix=".txt"))
    assert raw.style == "completions"
    assert raw.positive[0].prompt == "Oui 0"


def test_the_digest_follows_the_scenarios_and_not_the_layout(trait_folder):
    folder = trait_folder()
    before = load_trait(folder).digest
    path = folder / "positive.jsonl"
    lines = [
        json.dumps(json.loads(line), indent=None, separators=(" ,", " :")) for line in path.read_text().splitlines()
    ]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    (folder / "definition.txt").write_text("Another rubric, 0 to 100.")
    assert load_trait(folder).digest == before
    path.write_text(path.read_text().replace("YES 3.", "YES 33."))
    assert load_trait(folder).digest != before


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "x", "response": ', "not JSON"),
        ('{"prompt": "x", "response": "  "}', "response is empty"),
        ('{"response": "y"}', "prompt"),
        ('{"prompt": 3, "response": "y"}', "prompt"),
        ('["x", "y"]', "JSON object"),
        ('{"prompt": "\\ud800", "response": "y"}', "surrogate"),
        ('{"prompt": "x"}', "mixed styles: 31 of 32"),
        ('{"prompt": "x", "respons": "y"}', "mixed styles: 31 of 32"),
    ],
)
def test_a_bad_line_is_named(trait_folder, line, reason):
    lines = pairs()
    lines[4] = line
    message = refused(trait_folder(None, lines))
    assert "negative.jsonl:5: " in message
    assert reason in message


def test_bytes_that_are_not_utf8_are_named_by_line(trait_folder):
    folder = trait_folder()
    path = folder / "positive.jsonl"
    path.write_bytes(path.read_bytes().replace(b"YES 2", b"Caf\xe9 2"))
    assert "positive.jsonl:3: not UTF-8 (byte 0xe9)" in refused(folder)


def test_sides_that_do_not_differ_are_refused(trait_folder):
    message = refused(trait_folder(pairs(), pairs()))
    assert "negative.jsonl: has the same texts as positive.jsonl: the two sides must differ" in message
    texts = [f"Text {i}" for i in range(9)]
    for name, other in (("raw", texts[1:] + texts[:1]), ("uneven", [*texts, texts[0]])):
        message = refused(trait_folder(texts, other, name=name, suffix=".txt"))
        assert "negative.txt: has the same texts as positive.txt: the two sides must differ" in message


def test_missing_and_ambiguous_sides_are_refused(trait_folder):
    folder = trait_folder()
    (folder / "negative.jsonl").rename(folder / "negative.txt")
    assert "found positive.jsonl, negative.txt" in refused(folder)
    (folder / "positive.jsonl").unlink()
    (folder / "negative.txt").unlink()
    assert "found neither" in refused(folder)
    assert "2 scenarios are too few" in refused(trait_folder(pairs(2), pairs(2), name="few"))


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ('{\n "questions": ["a"],\n "direction": "up"\n}', 3, "direction"),
        ('{\n "questions": [\n}', 3, "not JSON"),
        ('{\n "questions": [\n3]}', 2, "questions"),
    ],
)
def test_a_fault_in_steering_json_is_named_by_line(trait_folder, content, line, reason):
    message = refused(trait_folder(steering__json=content))
    assert f"steering.json:{line}: " in message
    assert reason in message


def test_an_empty_or_missing_rubric_is_reported(trait_folder):
    folder = trait_folder(definition__txt=" \n")
    for _ in range(2):
        dataset = load_trait(folder)
        assert (dataset.definition, [remark.what for remark in dataset.remarks]) == (
            None,
            ["is missing or empty: a judge has no rubric for this trait"],
        )
        (folder / "definition.txt").unlink(missing_ok=True)


def test_the_rubric_is_the_eval_prompt_where_there_is_one(trait_folder):
    assert load_trait(trait_folder()).rubric == "Rate 0 to 100 how warm the reply is."
    content = json.dumps({"questions": ["q"], "eval_prompt": "Rate warmth."})
    assert load_trait(trait_folder(name="other", steering__json=content)).rubric == "Rate warmth."


def test_a_trait_is_found_by_its_name_or_its_category(trait_folder, tmp_path):
    folder, root = trait_folder(), tmp_path / "traits"
    trait_folder(name="humour")
    assert find_trait(root, "warmth") == find_trait(root, "tone/warmth") == folder
    with pytest.raises(DatasetError, match="did you mean 'warmth'"):
        find_trait(root, "warmt")
    (root / "affect" / "warmth").mkdir(parents=True)
    (root / "affect" / "warmth" / "positive.txt").touch()
    with pytest.raises(DatasetError, match="affect/warmth or tone/warmth"):
        find_trait(root, "warmth")
    with pytest.raises(DatasetError, match="no such folder"):
        list_traits(tmp_path / "nowhere")


def test_every_dataset_of_the_repository_is_valid(traits_root):
    for folder in list_traits(traits_root):
        dataset = load_trait(folder)
        assert dataset.style == "written"
        assert dataset.n_scenarios >= 40
        asked = {s.prompt for s in dataset.positive}
        assert not asked & set(dataset.steering.questions), f"{folder.name}: evaluation questions are also scenarios"


# ---- pairs that cannot help are left out, and everything else is used


def test_a_line_that_is_on_both_sides_of_completions_is_left_out_with_a_warning(trait_folder):
    """On the same line or on another one; the lines that are named are those of the files."""
    sides = [[f"{word} {i}" for i in range(14)] for word in ("Oui", "Yes")]
    sides[1][2] = sides[0][2]
    sides[1][9] = sides[0][5]
    folder = trait_folder(*sides, name="raw", suffix=".txt")
    dataset = load_trait(folder)
    used = [i for i in range(14) if i not in {2, 5, 9}]
    assert [s.prompt for s in dataset.positive] == [f"Oui {i}" for i in used]
    assert [s.prompt for s in dataset.negative] == [f"Yes {i}" for i in used]
    (said,) = dataset.left_out
    assert said == (
        f"{folder}: positive.txt and negative.txt: 3 pairs are left out, with a text that is on both sides: "
        "lines 3, 6 and 10"
    )
    assert dataset.where(2) == f"{folder / 'positive.txt'}:4"
    assert dataset.where(len(used) + 2) == f"{folder / 'negative.txt'}:4"
    assert (
        dataset.with_replies(([2, 3], [2, 3]), "abcdefghijk", "lmnopqrstuv").where(1) == f"{folder / 'positive.txt'}:5"
    )


def test_a_line_that_occurs_before_on_its_side_is_left_out_with_its_partner(trait_folder):
    sides = [[f"{word} {i}" for i in range(10)] for word in ("Oui", "Yes")]
    sides[1][7] = sides[1][1]
    dataset = load_trait(trait_folder(*sides, name="raw", suffix=".txt"))
    assert [s.prompt for s in dataset.positive] == [f"Oui {i}" for i in range(10) if i != 7]
    assert (
        "1 pair is left out, with a text that occurs before on the same side: line 8 (line 8 repeats line 2)"
        in (dataset.left_out[0])
    )


def test_written_pairs_that_are_the_same_or_repeated_are_left_out(trait_folder):
    positive = [{"prompt": f"Question {i}?", "response": f"YES {i}."} for i in range(12)]
    negative = [{"prompt": f"Question {i}?", "response": f"NO {i}."} for i in range(12)]
    negative[4] = positive[4]
    positive[8], negative[8] = positive[1], negative[1]
    dataset = load_trait(trait_folder(positive, negative))
    assert [s.response for s in dataset.positive] == [f"YES {i}." for i in range(12) if i not in {4, 8}]
    assert [sentence.partition(" left out")[2] for sentence in dataset.left_out] == [
        ", with a text that is on both sides: line 5",
        ", with a text that occurs before on the same side: line 9 (line 9 repeats line 2)",
    ]


def test_too_few_remaining_pairs_are_refused_with_what_was_left_out(trait_folder):
    sides = [[f"{word} {i}" for i in range(9)] for word in ("Oui", "Yes")]
    sides[1][:2] = sides[0][:2]
    message = refused(trait_folder(*sides, name="raw", suffix=".txt"))
    assert "positive.txt: 7 scenarios remain, which are too few: write at least 8" in message
    assert "lines 1 and 2" in message


def test_a_long_list_of_lines_is_cut(trait_folder):
    sides = [[f"{word} {i}" for i in range(40)] for word in ("Oui", "Yes")]
    sides[1][:20] = sides[0][:20]
    (said,) = load_trait(trait_folder(*sides, name="raw", suffix=".txt")).left_out
    assert said.endswith(": lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 8 more")


def test_the_digest_is_that_of_the_pairs_that_are_used(trait_folder):
    clean = [[f"{word} {i}" for i in range(10)] for word in ("Oui", "Yes")]
    with_shared = [[*side, "the same"] for side in clean]
    first, second = (
        load_trait(trait_folder(*sides, name=name, suffix=".txt"))
        for name, sides in (("clean", clean), ("shared", with_shared))
    )
    assert first.digest == second.digest
    assert (len(first.left_out), len(second.left_out)) == (0, 1)


# ---- sides that are not paired, and files of other projects


def texts(word, n):
    return [f"{word} {i}" for i in range(n)]


def test_sides_of_different_numbers_are_unpaired_and_none_is_cut_to_the_other(trait_folder):
    positive, negative = texts("Oui", 12), texts("Yes", 9)
    positive[3], negative[5] = "the same", "the same"
    negative[7] = negative[0]
    folder = trait_folder(positive, [*negative, "No"], name="raw", suffix=".txt")
    dataset = load_trait(folder)
    assert not dataset.paired
    assert [s.prompt for s in dataset.positive] == [t for t in positive if t != "the same"]
    assert [s.prompt for s in dataset.negative] == [*(f"Yes {i}" for i in (0, 1, 2, 3, 4, 6, 8)), "No"]
    assert dataset.left_out == (
        f"{folder / 'positive.txt'}: 1 line is left out, with a text that is on both sides: line 4",
        f"{folder / 'negative.txt'}: 1 line is left out, with a text that is on both sides: line 6",
        (
            f"{folder / 'negative.txt'}: 1 line is left out, with a text that occurs before on the same side: line 8 "
            "(line 8 repeats line 1)"
        ),
    )
    assert [remark.what for remark in dataset.remarks] == [
        "positive.txt has 12 scenarios and negative.txt 10: the two sides are read as unpaired"
    ]
    assert (dataset.n_scenarios, dataset.n_texts) == (8, 19)
    assert dataset.where(10) == f"{folder / 'positive.txt'}:12"
    assert dataset.where(11 + 7) == f"{folder / 'negative.txt'}:10"


def test_unpaired_sides_that_keep_equal_numbers_stay_unpaired(trait_folder):
    dataset = load_trait(trait_folder(texts("Oui", 10), [*texts("Yes", 10), "Yes 0"], name="raw", suffix=".txt"))
    assert (len(dataset.positive), len(dataset.negative), dataset.paired) == (10, 10, False)
    paired = load_trait(trait_folder(texts("Oui", 10), texts("Yes", 10), name="pairs", suffix=".txt"))
    assert paired.digest != dataset.digest


def test_blank_lines_are_skipped_and_lines_keep_their_numbers(trait_folder):
    positive = [*texts("Oui", 5), "", *texts("Non", 5)]
    dataset = load_trait(trait_folder(positive, texts("Yes", 10), name="raw", suffix=".txt"))
    assert (dataset.paired, dataset.n_scenarios) == (True, 10)
    assert dataset.where(5).endswith("positive.txt:7")
    assert dataset.where(15).endswith("negative.txt:6")
    assert [remark.what for remark in dataset.remarks] == ["blank lines are skipped"]


def test_lines_in_another_order_are_unpaired_and_one_prompt_stays_in_one_part_of_the_split(trait_folder):
    shuffled = [{"prompt": f"Question {(i + 1) % 16}?", "response": f"NO {i}."} for i in range(16)]
    dataset = load_trait(trait_folder(None, shuffled))
    assert [remark.what for remark in dataset.remarks] == [
        "the prompt of negative.jsonl:1 is that of positive.jsonl:2: the two sides are read as unpaired"
    ]
    split = split_sides(dataset.groups, 0.25, 0)
    held = [
        {side[i].prompt for i in at}
        for side, at in ((dataset.positive, split.held_out.positive), (dataset.negative, split.held_out.negative))
    ]
    assert held[0] == held[1]
    assert len(held[0]) == 4


def test_unknown_fields_of_lines_are_reported_once_and_prompts_may_be_in_a_json_list(trait_folder):
    lines = [
        [{"id": i, "prompt": f"Ask {i}?", "system_prompt": told, "note": "x"} for i in range(10)]
        for told in ("Be warm.", "Be cold.")
    ]
    dataset = load_trait(trait_folder(*lines, name="told"))
    assert (dataset.style, dataset.paired, dataset.n_scenarios) == ("instructed", True, 10)
    assert [r.what for r in dataset.remarks] == [
        "unknown fields are not used: 'id', 'note' (the fields are prompt, response, system_prompt)"
    ] * 2
    assert len(grouped(dataset.remarks)) == 1
    folder = trait_folder(*lines, name="listed")
    for side, entries in zip(("positive", "negative"), lines, strict=True):
        (folder / f"{side}.jsonl").unlink()
        (folder / f"{side}.json").write_text(json.dumps({"prompts": entries} if side == "positive" else entries))
    listed = load_trait(folder)
    assert (listed.digest, listed.where(12)) == (dataset.digest, f"{folder / 'negative.json'}: negative scenario 3")


def test_prompts_without_system_prompts_may_differ_between_the_sides(trait_folder):
    sides = [{"prompt": f"Harm {i}?"} for i in range(12)], [{"prompt": f"Help {i}?"} for i in range(9)]
    dataset = load_trait(trait_folder(*sides, name="asked"))
    assert (dataset.style, dataset.paired, len(dataset.positive), len(dataset.negative)) == ("instructed", False, 12, 9)


def test_an_evaluation_question_is_left_out_of_its_side_or_of_its_pair(trait_folder):
    sides = [
        [{"prompt": f"Ask {i}?", "system_prompt": told} for i in range(n)] for n, told in ((12, "Yes"), (10, "No"))
    ]
    content = json.dumps(["Ask 3?", "Ask 11?"])
    dataset = load_trait(trait_folder(*sides, name="asked", steering__json=content))
    assert (len(dataset.positive), len(dataset.negative)) == (10, 9)
    assert "3 scenarios are left out, with an evaluation question" in dataset.left_out[0]
    paired = load_trait(trait_folder(sides[0][:10], sides[1], name="pairs", steering__json=content))
    assert paired.n_scenarios == 9
    assert "1 pair is left out, with an evaluation question" in paired.left_out[0]


def test_a_folder_whose_name_no_vector_may_have_is_renamed_or_refused(trait_folder):
    dataset = load_trait(trait_folder(name="Dry Wit"))
    assert (dataset.name, dataset.remarks[0].what) == (
        "dry_wit",
        "its vectors are called 'dry_wit', since names are lower case letters, digits, _ . and -",
    )
    assert "a vector cannot be called" in refused(trait_folder(name="x" * 70))
