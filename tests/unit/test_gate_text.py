"""Gates as text: read and written in one form."""

import pytest
from trait_core.errors import InvalidRequestError
from trait_core.gate_text import gate_text, parse_gate
from trait_core.schema import Gate


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("harmful@9>0.5", {"layer": 9, "above": 0.5}),
        ("harmful<-1e-07", {"below": -1e-7}),
        ("harmful@0>2.0, separation, latch", {"layer": 0, "above": 2.0, "unit": "separation", "hold": "latch"}),
        ("harmful@9>12.5, prompt, uncentred", {"layer": 9, "above": 12.5, "hold": "prompt", "centred": False}),
    ],
)
def test_a_gate_is_written_as_it_is_read(text, fields):
    gate = Gate(vector="harmful", **fields)
    assert parse_gate(text) == gate
    assert gate_text(gate) == text


def test_spaces_and_words_at_their_default_are_read_and_not_written():
    assert gate_text(parse_gate(" harmful @ 9 > 1 ,token,raw, centred")) == "harmful@9>1.0"


def test_words_of_the_text_take_precedence_over_given_fields():
    assert parse_gate("harmful>1, latch", hold="token", unit="separation").hold == "latch"


def test_a_hash_is_written_by_the_vectors_name():
    gate = Gate(vector="sha256:" + "a" * 64, layer=3, above=1.0)
    assert gate_text(gate, "harmful") == "harmful@3>1.0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("harmful", "write VECTOR@LAYER>NUMBER"),
        ("harmful@9>", "write VECTOR@LAYER>NUMBER"),
        ("harmful@9>one", "write VECTOR@LAYER>NUMBER"),
        ("harmful@9>inf", "finite"),
        ("Harmful@9>1", "pattern"),
        (
            "harmful@9>1, sometimes",
            "'sometimes' is not one of raw, separation, token, latch, prompt, centred, uncentred",
        ),
        ("harmful@9>1, latch, prompt", "gives hold twice"),
    ],
)
def test_what_is_no_gate_is_refused_with_the_form(text, words):
    with pytest.raises(InvalidRequestError, match="when") as caught:
        parse_gate(text)
    assert words in str(caught.value)
    assert caught.value.param == "when"
