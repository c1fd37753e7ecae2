"""The labelled replies of surface and intent: both factors are crossed, in balance."""

import json
from collections import Counter

import pytest
from surface_and_intent import build_labels


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("path", "rows"), build_labels.sets().items(), ids=lambda value: getattr(value, "stem", ""))
def test_labelled_replies_cross_every_content_with_both_tones(path, rows):
    """So that neither openings nor contents tell the class that a monitor should find."""
    assert lines(path) == rows
    assert len(set(Counter(row["outcome"] for row in rows).values())) == 1
    items = {row["id"].split("/")[0] for row in rows}
    openings = Counter(row["response"].partition(". ")[0] + "|" + row["outcome"].split()[1] for row in rows)
    assert len(rows) == 4 * len(items)
    for opening, count in openings.items():
        tone_and = opening.partition("|")[0]
        assert {openings[f"{tone_and}|{content}"] for content in {row["outcome"].split()[1] for row in rows}} == {count}


@pytest.mark.parametrize("rows", build_labels.sets().values(), ids=["helpfulness", "sycophancy"])
def test_the_two_contents_of_a_prompt_are_of_like_length(rows):
    words = {row["id"]: len(row["response"].split()) for row in rows}
    means = Counter()
    for name, n in words.items():
        means[name.split("/")[2]] += n
    first, second = means.values()
    assert 0.9 < first / second < 1.1
