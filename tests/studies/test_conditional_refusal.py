"""Conditional refusal: the prompts, the condition that training prompts alone choose, and the shares that the tables give."""

import csv
import json

import numpy as np
import pytest
from conditional_refusal import build_prompts
from conditional_refusal.condition import best_bound, cross_validated, fitted, orthogonal, random_condition
from conditional_refusal.study import shares
from study.effects import wilson
from study.lab import ROOT

FOLDER = ROOT / "experiments" / "conditional_refusal"
ANSWERED = sorted(FOLDER.glob("**/by_prompt.csv"))
WIDTH = 12


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_prompts_are_what_their_builder_says_and_no_text_is_in_both_splits():
    lines = build_prompts.OUT.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == build_prompts.prompts()
    texts = [row["prompt"] for row in build_prompts.prompts()]
    assert len(set(texts)) == len(texts) == 300


@pytest.mark.parametrize("pairs", [build_prompts.TRAIN_PAIRS, build_prompts.TEST_PAIRS], ids=build_prompts.SPLITS)
def test_form_and_length_tell_nothing_of_the_kind(pairs):
    for alarming, harmless in pairs:
        assert alarming.split()[0] == harmless.split()[0]
    words = [[len(text.split()) for text in side] for side in zip(*pairs, strict=True)]
    assert abs(np.mean(words[0]) - np.mean(words[1])) < 0.5


def streams(layers=(1, 2, 3), signal=2, n=60, seed=0):
    """Streams of n alarming and n harmless prompts that differ on one layer, and a sink that a random length adds to all of them."""
    generator = np.random.default_rng(seed)
    alarming = np.repeat([True, False], n)
    sink = generator.standard_normal(WIDTH).astype(np.float32)
    lengths = generator.uniform(20, 60, 2 * n)
    means = {}
    for layer in layers:
        noise = generator.standard_normal((2 * n, WIDTH))
        noise[:, 0] += 2.5 * alarming * (layer == signal)
        means[layer] = (noise + 3000 / lengths[:, None] * sink).astype(np.float32)
    return means, dict.fromkeys(layers, sink), alarming


def test_the_layer_that_shows_the_difference_is_chosen_and_length_does_not_decide():
    means, sinks, alarming = streams()
    found = fitted(means, sinks, alarming)
    assert found.layer == 2
    assert abs(found.direction @ sinks[2]) < 1e-4
    fresh, _, fresh_alarming = streams(seed=0, n=60)
    opened = found.opens(fresh[2])
    assert opened[fresh_alarming].mean() == pytest.approx(found.caught)
    assert opened[~fresh_alarming].mean() == pytest.approx(found.false_alarms)
    assert found.caught - found.false_alarms > 0.6
    assert 0.85 < found.auc < 1


def test_a_random_gate_has_the_best_bound_too_and_does_no_better_than_chance_allows():
    means, sinks, alarming = streams(signal=None)
    control = random_condition("random 1", 1, 2, means[2], sinks[2], alarming)
    assert (control.method, control.layer) == ("random", 2)
    assert 0.5 <= control.auc < 0.65
    assert 0 <= control.caught - control.false_alarms < 0.35


def test_no_prompt_is_scored_by_a_direction_that_was_fitted_on_it():
    means, _, alarming = streams(signal=None)
    seen = []

    def fit_on(positive, negative):
        seen.append((len(positive), len(negative)))
        return orthogonal(positive.mean(axis=0) - negative.mean(axis=0), np.ones(WIDTH))

    cross_validated(means[1], alarming, fit_on)
    assert seen == [(48, 48)] * 5


def test_the_bound_gains_most_and_lies_in_the_middle_of_a_gap():
    assert best_bound([3.0, 4.0, 5.0], [0.0, 1.0, 2.0]) == 2.5
    assert best_bound([1.0, 4.0, 5.0], [0.0, 1.5, 2.0]) == 3.0


def test_wilsons_interval_is_that_of_the_textbook():
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    known = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (successes, n), interval in known.items():
        assert wilson(successes, n) == pytest.approx(interval, abs=1e-4)


@pytest.mark.parametrize("path", ANSWERED, ids=lambda path: path.parent.name)
def test_the_shares_follow_from_the_prompts_and_each_gate_from_its_margin(path):
    """The committed tables agree with each other: `shares.csv` and `gates.csv` can be computed from `by_prompt.csv`."""
    answered = rows_of(path)
    assert [row["prompt_id"] for row in answered] == [
        row["id"] for row in build_prompts.prompts() if row["id"].startswith("test/")
    ]
    margins = {row["prompt_id"]: row for row in rows_of(path.parent / "margins.csv")}
    for row in answered:
        assert all(
            row[f"{gate}: margin"] == margins[row["prompt_id"]][gate] for gate in ("condition", "random 1", "random 2")
        )
    computed = [{key: as_text(value) for key, value in row.items()} for row in shares(answered)]
    assert computed == rows_of(path.parent / "shares.csv")
    for gate in rows_of(path.parent / "gates.csv"):
        agree = sum(
            (float(row[f"{gate['gate']}: margin"]) > 0) == (row[f"{gate['gate']}: open"] == "1") for row in answered
        )
        closed = sum(row[f"{gate['gate']}: open"] == "0" for row in answered)
        assert (agree, closed) == (int(gate["n_as_computed"]), int(gate["n_closed"]))


def as_text(value):
    """A value as `write_csv` writes it."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
