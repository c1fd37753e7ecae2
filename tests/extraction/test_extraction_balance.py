"""Differences between the two sides of a dataset besides the trait are measured and reported."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from trait_core.traits import list_traits
from trait_extraction.data.balance import MAX_LENGTH_GAP, MAX_WORDS_ACCURACY, balance_warnings, measure_balance
from trait_extraction.data.datasets import load_trait

WORDS = ["river", "stone", "lamp", "bread", "window", "garden", "letter", "winter", "paper", "music", "road", "apple"]


def replies(seed, n=32, n_words=8):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, n_words)) + "." for _ in range(n)]


@pytest.fixture
def measure(trait_folder):
    """Measure the balance of two lists of replies."""

    def call(positive, negative):
        sides = [[{"prompt": f"Q{i}?", "response": r} for i, r in enumerate(side)] for side in (positive, negative)]
        return measure_balance(load_trait(trait_folder(*sides)))

    return call


def test_sides_of_the_same_words_and_length_are_at_chance_and_give_no_warning(measure):
    balance = measure(replies(1), replies(2))
    assert balance.mean_words == (8.0, 8.0)
    assert balance.length_auc == 0.5
    assert balance.shared_words == 1.0
    assert 0.3 < balance.words_accuracy < 0.7
    assert balance_warnings(balance) == []


def test_a_word_of_one_side_is_found_and_named(measure):
    balance = measure([f"{r} Indeed so" for r in replies(1)], [f"{r} Perhaps not" for r in replies(2)])
    assert balance.words_accuracy == 1.0
    assert {(m.text, m.positive, m.negative) for m in balance.uneven} >= {("indeed", 1.0, 0.0), ("perhaps", 0.0, 1.0)}
    (warning,) = balance_warnings(balance)
    assert "words alone reveal the side of 100% of held-out replies" in warning
    assert "indeed 100%/0%" in warning


def test_opening_words_punctuation_and_capitals_are_found(measure):
    openings = measure([f"Lamp stone {r}" for r in replies(1)], [f"Stone lamp {r}" for r in replies(2)])
    assert [m.text for m in openings.uneven[:2]] == ["^lamp", "^stone"]
    marks = measure([r.replace(".", "!") for r in replies(1)], replies(2))
    assert [m.text for m in marks.uneven[:2]] == ["!", "."]
    capitals = measure([r.upper() for r in replies(1)], replies(2))
    assert capitals.words_accuracy == 1.0
    assert capitals.shared_words == 1.0


def test_both_replies_of_a_scenario_are_held_out_together(measure):
    # Both hold the scenario's own word. Fitted on one of them, the classifier would be wrong about the other each time.
    positive = [f"Road lamp stone topic{i}." for i in range(32)]
    negative = [f"Road stone lamp topic{i}." for i in range(32)]
    assert measure(positive, negative).words_accuracy == pytest.approx(0.5, abs=0.02)


def test_a_longer_side_gives_a_warning(measure):
    balance = measure(replies(1, n_words=12), replies(2, n_words=8))
    assert balance.length_auc == 1.0
    assert balance_warnings(balance)[:2] == [
        "one side is longer by 50% (at most 15%)",
        "a positive reply is the longer one with probability 1.00",
    ]


def test_sides_without_a_common_word_give_a_warning(measure):
    balance = measure(replies(1), [r.replace(" ", "s ").replace(".", "s.") for r in replies(2)])
    assert balance.shared_words == 0.0
    assert "only 0% of the running words occur on both sides" in balance_warnings(balance)


def test_raw_texts_are_measured_and_replies_that_are_not_generated_yet_are_not(trait_folder):
    raw = trait_folder([f"Oui {i}" for i in range(9)], [f"Yes {i}" for i in range(9)], name="raw", suffix=".txt")
    assert measure_balance(load_trait(raw)).mean_words == (2.0, 2.0)
    sides = [[{"prompt": f"Q{i}?", "system_prompt": s} for i in range(9)] for s in ("Be warm.", "Be cold.")]
    assert measure_balance(load_trait(trait_folder(*sides, name="told"))) is None


def test_the_same_dataset_gives_the_same_numbers(measure):
    assert measure(replies(1), replies(2)) == measure(replies(1), replies(2))


def test_without_scikit_learn_everything_but_the_classifier_is_measured(measure, monkeypatch):
    whole = measure(replies(1), replies(2))
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert measure(replies(1), replies(2)) == replace(whole, words_accuracy=None) != whole


def test_every_dataset_of_the_repository_is_balanced_in_length(traits_root):
    for folder in list_traits(traits_root):
        shorter, longer = sorted(measure_balance(load_trait(folder)).mean_words)
        assert longer <= shorter * (1 + MAX_LENGTH_GAP), folder.name


@pytest.mark.parametrize(
    "trait", ["conflicted", "deception", "gaming", "helpfulness_intent", "honesty_observed", "self_serving"]
)
def test_words_do_not_give_away_a_trait_that_is_not_made_of_words(traits_root, trait):
    dataset = load_trait(traits_root / "alignment" / trait)
    assert dataset.n_scenarios >= 60
    assert len(dataset.steering.questions) >= 24
    assert measure_balance(dataset).words_accuracy <= MAX_WORDS_ACCURACY
