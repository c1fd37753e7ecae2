"""The position syntax."""

import pytest
from trait_core.errors import InvalidRequestError
from trait_core.positions import UNBOUNDED, Positions


@pytest.mark.parametrize(
    ("text", "given", "generating"),
    [
        ("prompt[:]", (0, 10), (0, 10)),
        ("prompt[-1]", (9, 10), (9, 10)),
        ("prompt[-3:-1]", (7, 9), (7, 9)),
        ("prompt[2]", (2, 3), (2, 3)),
        ("response[:]", (10, 16), (10, UNBOUNDED)),
        ("response[:5]", (10, 15), (10, 15)),
        ("response[:50]", (10, 16), (10, 60)),
        ("all[4:]", (4, 16), (4, UNBOUNDED)),
        ("all[:]", (0, 16), (0, UNBOUNDED)),
    ],
)
def test_positions_are_absolute_half_open_intervals(text, given, generating):
    positions = Positions.parse(text)
    assert str(positions) == text
    assert positions.interval(10, 16) == given
    assert positions.interval(10, None) == generating


@pytest.mark.parametrize(
    "text", ["", "response", "response[]", "prompt[1:2:3]", "reply[:]", "prompt[a]", "prompt[:] ", "x" * 99]
)
def test_text_that_is_not_a_slice_is_refused_with_examples(text):
    with pytest.raises(InvalidRequestError, match="write prompt"):
        Positions.parse(text)


def test_counting_from_the_end_of_an_unfinished_response_is_refused():
    assert Positions.parse("response[-2:]").interval(10, 16) == (14, 16)
    with pytest.raises(InvalidRequestError, match="still being generated"):
        Positions.parse("response[-1]").interval(10, None)


@pytest.mark.parametrize(
    ("text", "expected"), [("turn[0]", (0, 5)), ("turn[-1]", (9, 12)), ("turn[1]", (5, 9)), ("all[2:3]", (2, 3))]
)
def test_a_turn_is_the_tokens_of_one_message(text, expected):
    turns = [(0, 5), (5, 9), (9, 12)]
    assert Positions.parse(text).turn(turns).interval(9, 12) == expected


def test_a_turn_outside_the_chat_is_refused():
    with pytest.raises(InvalidRequestError, match="the chat has 2 turns"):
        Positions.parse("turn[2]").turn([(0, 5), (5, 9)])
    with pytest.raises(InvalidRequestError, match="a turn has an index"):
        Positions.parse("turn[:]")
