"""The arithmetic of a score: which tokens are numbers, and their values."""

import math

import pytest
from trait_client.http.replies import TokenLogprob, TopLogprob
from trait_client.judge.weighting import expected_score, written_number


def token(text, **candidates):
    return TokenLogprob(
        token=text, logprob=-0.1, top_logprobs=[TopLogprob(token=t, logprob=math.log(p)) for t, p in candidates.items()]
    )


def test_the_value_is_the_mean_of_the_numbers_weighted_by_their_probability():
    found = expected_score([token("70", **{"70": 0.5, " 70": 0.1, "100": 0.2, "7": 0.1, "Score": 0.1})], 100)
    assert found.value == pytest.approx((70 * 0.6 + 100 * 0.2 + 7 * 0.1) / 0.9)
    assert found.mass == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("candidate", "value"),
    [
        ("7", 7),
        ("70", 70),
        (" 70", 70),
        ("100", 100),
        ("0", 0),
        ("70\n", 70),
        ("\u0120" + "70", 70),
        ("\u2581" + "70", 70),
    ],
)
def test_whole_numbers_of_the_scale_count(candidate, value):
    found = expected_score([token("50", **{"50": 0.4, candidate: 0.4})], 100)
    assert found.value == pytest.approx((50 + value) / 2)
    assert found.mass == pytest.approx(0.8)


@pytest.mark.parametrize(
    "candidate", ["101", "999", "070", "00", "7.", "-5", "seventy", "", "7a", "\u0667\u0660", "\u00b2"]
)
def test_a_token_that_is_not_a_number_of_the_scale_does_not_count(candidate):
    found = expected_score([token("50", **{"50": 0.4, candidate: 0.4})], 100)
    assert (found.value, found.mass) == (50, pytest.approx(0.4))


def test_without_any_number_there_is_no_value():
    assert expected_score([token("I", I=0.6, The=0.4)], 100) is None
    assert expected_score([], 100) is None


def test_a_number_that_continues_in_the_next_token_has_no_value():
    """If a model writes digit by digit, the candidates for the `7` of `70` are tens, and the full numbers are unknown."""
    assert expected_score([token("7", **{"7": 0.6, "8": 0.4}), token("0", **{"0": 0.9})], 100) is None


def test_single_digits_alone_have_no_value_on_a_scale_to_100():
    """`5` may be the whole answer, and its alternative `8` the beginning of 80."""
    assert expected_score([token("5", **{"5": 0.6, "8": 0.4}), token("<end>")], 100) is None


def test_a_scale_of_digits_is_weighted_digit_by_digit():
    found = expected_score([token("7", **{"7": 0.5, "8": 0.25, "10": 0.25})], 9)
    assert found.value == pytest.approx((7 * 0.5 + 8 * 0.25) / 0.75)


@pytest.mark.parametrize("before", [["Score", ":", " "], ["**"], ["\n"], ["The", " score", " is"], ["Answer", ":"]])
def test_the_answer_token_may_follow_a_preamble(before):
    found = expected_score([*(token(t, **{t: 1.0}) for t in before), token("80", **{"80": 0.5, "60": 0.5})], 100)
    assert found.value == pytest.approx(70)


def test_a_number_in_the_middle_of_prose_is_not_the_answer():
    assert expected_score([token("There", There=0.9), token(" are"), token("30", **{"30": 1.0})], 100) is None


def test_a_candidate_of_probability_0_does_not_count():
    top = [TopLogprob(token="90", logprob=-9999.0), TopLogprob(token="10", logprob=0.0)]
    assert expected_score([TokenLogprob(token="10", logprob=0.0, top_logprobs=top)], 100).value == pytest.approx(10)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("70", 70), (" 70\n", 70), ("**70**", 70), ("70.", 70), ("70/100", 70), ("70 / 100", 70), ("70%", 70),
        ("Score: 70", 70), ("The score is 70.", 70), ("final rating - 70", 70), ("Score: -5", None), ("70 because it shouts", 70), ("0", 0),
        ("100", 100), ("101", None), ("7/10", None), ("0.7", None), ("7,000", None), ("60-70", None), ("60 to 70", None),
        ("-5", None), ("070", None), ("1. Good", None), ("1) 70", None), ("70.\n", 70), ("", None), ("I count 3 signs", None), ("seventy", None), ("1000", None),
    ],
)  # fmt: skip
def test_a_written_number_is_read_strictly(text, value):
    assert written_number(text, 100) == value


def test_a_written_digit_must_be_of_the_scale():
    assert (written_number("7", 9), written_number("7/9", 9), written_number("10", 9), written_number("70", 9)) == (
        7,
        7,
        None,
        None,
    )
