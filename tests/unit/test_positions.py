"""The position syntax."""

import numpy as np
import pytest
from trait_core.errors import InvalidRequestError
from trait_core.intervals import UNBOUNDED, Interval, disjoint
from trait_core.positions import Landmarks, Positions


@pytest.mark.parametrize(
    ("text", "given", "generating"),
    [
        ("prompt[:]", (0, 10), (0, 10)),
        ("prompt[-4:]", (6, 10), (6, 10)),
        ("response[1::4]", (11, 16, 4), (11, UNBOUNDED, 4)),
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
    assert positions.intervals(10, 16) == [Interval(*given)]
    assert positions.intervals(10, None) == [Interval(*generating)]


@pytest.mark.parametrize("text", ["", "response", "response[]", "reply[:]", "prompt[a]", "prompt[:] ", "x" * 99])
def test_text_that_is_not_a_slice_is_refused_with_examples(text):
    with pytest.raises(InvalidRequestError, match="write prompt"):
        Positions.parse(text)


def test_counting_from_the_end_of_an_unfinished_response_is_refused():
    assert Positions.parse("response[-2:]").intervals(10, 16) == [(14, 16, 1)]
    for text in ("response[-1]", "all[:-2]", "prompt[:] except response[-1]"):
        with pytest.raises(InvalidRequestError, match="still being generated"):
            Positions.parse(text).intervals(10, None)


@pytest.mark.parametrize(
    ("text", "expected"), [("turn[0]", (0, 5)), ("turn[-1]", (9, 12)), ("turn[1]", (5, 9)), ("all[2:3]", (2, 3))]
)
def test_a_turn_is_the_tokens_of_one_message(text, expected):
    places = Landmarks(turns=[(0, 5), (5, 9), (9, 12)])
    assert Positions.parse(text).located(places).intervals(9, 12) == [(*expected, 1)]


def test_a_turn_outside_the_chat_is_refused():
    with pytest.raises(InvalidRequestError, match="the chat has 2 turns"):
        Positions.parse("turn[2]").located(Landmarks(turns=[(0, 5), (5, 9)]))
    with pytest.raises(InvalidRequestError, match="a turn has an index"):
        Positions.parse("turn[:]")


def test_parts_of_the_reply_and_spelt_tokens_are_where_the_text_has_them():
    places = Landmarks(thinking=(6, 9), answer=(11, 20), tokens={"</think>": [(9, 11)], "no": []})
    for text, expected in {
        "thinking[:]": [6, 7, 8],
        "thinking[-1]": [8],
        "answer[:4:2]": [11, 13],
        'tokens["</think>"]': [9, 10],
        'tokens["no"]': [],
        'thinking[:], answer[0], tokens["</think>"] except tokens["</think>"], thinking[0]': [7, 8, 11],
    }.items():
        assert Positions.parse(text).located(places).indices(5, 20) == expected, text
    gone = Positions.parse('tokens["no"], thinking[3:]').located(places)
    assert Positions.parse(str(gone)).indices(5, 20) == []
    with pytest.raises(InvalidRequestError, match="no markers of reasoning"):
        Positions.parse("answer[:]").located(Landmarks())
    with pytest.raises(InvalidRequestError, match="found in a text's tokens"):
        Positions.parse("answer[:]").intervals(5, 20)


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("prompt[-4:], response[:8] except response[0], response[2]", [6, 7, 8, 9, 11, *range(13, 18)]),
        ("response[:5], response[3:9]", list(range(10, 19))),
        ("all[:] except all[::2]", list(range(1, 30, 2))),
        ("response[8::4]", [18, 22, 26]),
        ("prompt[-30::4], prompt[-1]", [0, 4, 8, 9]),
        ("all[2:] except response[:]", list(range(2, 10))),
        ("prompt[12:]", []),
        ("response[4:4]", []),
        ("prompt[-1:-3]", []),
    ],
)
def test_a_list_is_a_union_and_except_takes_positions_out(text, positions):
    assert str(Positions.parse(text)) == text
    assert Positions.parse(text).indices(10, 30) == positions


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("response[:8]", "response[:8]"),
        (["prompt[-1]", "response[:8]"], "prompt[-1], response[:8]"),
        ({"select": "all[:]", "except": ["all[:4]", "turn[0]"]}, "all[:] except all[:4], turn[0]"),
        ({"tokens": ["</think>", 'a "b", c']}, 'tokens["</think>"], tokens["a \\"b\\", c"]'),
        ({"select": ["answer[:]"], "tokens": ["</think>"]}, 'answer[:], tokens["</think>"]'),
    ],
)
def test_the_forms_in_json_have_one_written_form(value, written):
    assert str(Positions.of(value)) == written
    assert Positions.parse(written) == Positions.of(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("response[::0]", "the step is 0; allowed: 1.."),
        ("response[::-1]", "the step is -1"),
        ("all[:] except", "are not understood"),
        ("all[:] except all[0] except all[1]", "are not understood"),
        (", ".join(["all[0]"] * 17), "17 items; at most 16"),
        ("all[:" + "1" * 600, "characters long; at most 512"),
        (r'tokens["\ud800"]', "are not understood"),
        ([], "are not understood"),
        ([3], "are not understood"),
        ({"except": "all[0]"}, "an object has select or tokens"),
        ({"select": "all[0]", "but": "all[0]"}, "an object has select or tokens"),
    ],
)
def test_what_is_no_selector_is_refused_with_the_reason(value, reason):
    with pytest.raises(InvalidRequestError, match=reason):
        Positions.of(value)


def made_up(rng, n):
    """Intervals of any kind over some 60 positions."""
    starts, lengths, steps = rng.integers(0, 30, n), rng.integers(0, 25, n), rng.choice([1, 1, 2, 3, 4, 6], n)
    ends = np.where(rng.random(n) < 0.4, UNBOUNDED, starts + lengths)
    return [Interval(*each) for each in zip(starts.tolist(), ends.tolist(), steps.tolist(), strict=True)]


def test_disjoint_intervals_hold_exactly_the_positions_of_the_union_less_those_taken_out():
    rng = np.random.default_rng(0)

    def held(intervals):
        return [at for each in intervals for at in range(each.start, min(each.stop, 200), each.step)]

    for _ in range(500):
        taken, out = made_up(rng, int(rng.integers(0, 5))), made_up(rng, int(rng.integers(0, 4)))
        found = disjoint(taken, out)
        assert sorted(held(found)) == sorted(set(held(taken)) - set(held(out))), (taken, out)
        assert sum(each.below(50) for each in found) == sum(at < 50 for at in held(found))


def test_a_set_that_needs_few_intervals_gets_few():
    assert Positions.parse("response[::2], response[1::2]").intervals(4, None) == [(4, UNBOUNDED, 1)]
    assert Positions.parse("response[8::4], response[:100:4]").intervals(4, None) == [(4, UNBOUNDED, 4)]
    assert len(Positions.parse("response[:] except response[::4]").intervals(4, None)) == 2
    with pytest.raises(InvalidRequestError, match="use steps that divide each other"):
        Positions.parse("response[::999], response[::1000]").intervals(4, None)
