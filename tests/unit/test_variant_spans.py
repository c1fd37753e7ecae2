"""Clauses and largest spans of a text that two models read."""

import numpy as np
import pytest
from trait_client.variants.spans import SHORTEST, Span, clauses, largest_spans


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["Tea", ",", " first", ".", " Then", " water"], ["Tea,", " first.", " Then water"]),
        (["He", " said", ' "', "no", '."', " Why", "?"], ['He said "no."', " Why?"]),
        (["He", " said", ' "', "no", ".", '"', " Why", "?"], ['He said "no."', " Why?"]),
        (["Pi", " is", " 3", ".", "14", " or", " 3", ".", " So", "?"], ["Pi is 3.14 or 3.", " So?"]),
        (["one", "\n", "two", "", "é", ";"], ["one\n", "twoé;"]),
        (["no", " end"], ["no end"]),
        ([], []),
    ],
)
def test_clauses_end_after_punctuation_and_line_breaks_and_cover_the_text(tokens, expected):
    found = clauses(tokens, 0, len(tokens))
    assert ["".join(tokens[start:stop]) for start, stop in found] == expected


def test_clauses_of_a_range_stay_in_it():
    assert clauses(["a", ".", "b", "c", ".", "d"], 2, 5) == [(2, 5)]


def test_the_largest_spans_do_not_overlap_and_come_largest_first():
    first = np.array([0, 0, 5, -5, 5, 5, 0, 0, 0, 2, 2, 2, 2.0])
    second = np.array([3, 3, 3, -3.0])
    assert largest_spans([first, second], 3) == [Span(0, 2, 6, 5.0), Span(1, 0, 4, 3.0), Span(0, 9, 13, 2.0)]


def test_no_longer_window_is_larger_than_those_that_are_searched():
    """Windows of `SHORTEST` to `2 SHORTEST - 1` tokens hold the largest mean of any window that long or longer."""
    for seed in range(50):
        values = np.random.default_rng(seed).standard_normal(30) ** 3
        every = max(np.abs(values[start:stop]).mean() for start in range(30) for stop in range(start + SHORTEST, 31))
        assert largest_spans([values], 1)[0].size == pytest.approx(every)


def test_a_short_text_is_one_span_and_small_differences_are_none():
    assert largest_spans([np.array([1.0, -1.0])], 5) == [Span(0, 0, 2, 1.0)]
    assert largest_spans([np.array([0.1, -0.1, 0.1, 0.1, 0.0])], 5, above=0.2) == []
    assert largest_spans([np.array([])], 5) == []
