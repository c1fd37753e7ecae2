"""The damage set: passages without a trait and questions with one right answer, and what its readers refuse."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from trait_client.scoring.damage_set import CHOICES, LETTERS, NEUTRAL, read_choices, read_passages
from trait_client.scoring.evaluation import EvaluationSpec
from trait_core.errors import DatasetError
from trait_core.traits import trait_places

ROOT = Path(__file__).resolve().parents[2]
DAMAGE = ROOT / "datasets" / "damage"
TRAITS = ROOT / "datasets" / "traits"

RIGHT = {"id": "a", "question": "Which?", "options": ["one", "two", "three", "four"], "answer": "B"}


def written(folder, *entries):
    path = folder / "file.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n")
    return path


def test_a_question_is_asked_with_its_four_options_and_without_the_letter(tmp_path):
    (choice,) = read_choices(written(tmp_path, RIGHT))
    assert choice.prompt() == "Which?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    assert choice.right == "two"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": ["one", "two", "three", " TWO"]}, ":1: .*'two' occurs twice"),
        ({"options": ["one", "two", "three"]}, ":1: options"),
        ({"options": ["one", "two", "three", " "]}, ":1: options"),
        ({"answer": "E"}, ":1: answer"),
        ({"subject": "x"}, ":1: subject"),
    ],
)
def test_a_malformed_question_is_named_with_its_line(tmp_path, change, words):
    with pytest.raises(DatasetError, match=words):
        read_choices(written(tmp_path, RIGHT | change))


def test_nothing_occurs_twice(tmp_path):
    with pytest.raises(DatasetError, match=":2: the same id is already on line 1"):
        read_choices(written(tmp_path, RIGHT, RIGHT | {"question": "What?"}))
    with pytest.raises(DatasetError, match=":2: the same text is already on line 1"):
        read_choices(written(tmp_path, RIGHT, RIGHT | {"id": "b", "question": "WHICH? "}))
    with pytest.raises(DatasetError, match=":2: the same text is already on line 1"):
        read_passages(written(tmp_path, {"id": "a", "text": "Tea."}, {"id": "b", "text": "Tea."}))
    with pytest.raises(DatasetError, match="write one passage on each line"):
        read_passages(tmp_path / "none.jsonl")


# ---- the set of this repository


def test_the_right_letters_are_balanced_and_give_nothing_away():
    choices = read_choices(DAMAGE / CHOICES)
    assert Counter(choice.answer for choice in choices) == dict.fromkeys(LETTERS, 25)
    others = [max(len(o) for o in choice.options if o != choice.right) for choice in choices]
    longest = sum(len(choice.right) > other for choice, other in zip(choices, others, strict=True))
    shortest = sum(len(c.right) < min(len(o) for o in c.options if o != c.right) for c in choices)
    assert max(longest, shortest) <= 25  # no more often than by chance
    runs = re.findall(r"(.)\1\1", "".join(choice.answer for choice in choices))
    assert runs == []


def test_passages_are_of_one_length_and_without_the_traits_that_metrics_measure():
    passages = read_passages(DAMAGE / NEUTRAL)
    assert len(passages) == 60
    assert {passage.id for passage in passages if not 60 <= len(passage.text.split()) <= 120} == set()
    metrics = {place.name: EvaluationSpec.load(TRAITS, place.name).metric for place in trait_places(TRAITS)}
    assert [passage.id for passage in passages if re.search(r"\b(I|we|my|our)\b", passage.text)] == []
    for name in ("refusal", "sycophancy", "helpfulness_expressed", "question_asking", "french"):
        assert [passage.id for passage in passages if metrics[name].score(passage.text) > 0] == []


def test_no_text_of_the_set_is_a_trait_s_question_or_scenario():
    texts = [passage.text for passage in read_passages(DAMAGE / NEUTRAL)]
    texts += [choice.question for choice in read_choices(DAMAGE / CHOICES)]
    known = "\n".join(path.read_text() for path in TRAITS.rglob("*.json*"))
    assert [text for text in texts if json.dumps(text, ensure_ascii=False) in known] == []
