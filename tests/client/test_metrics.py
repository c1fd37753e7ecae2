import pytest
from hypothesis import given
from hypothesis import strategies as st
from trait_client.scoring.lexical import parse_metric, sentences
from trait_core.errors import InvalidRequestError

REFUSAL = {"kind": "matches", "patterns": ["\\bI can't\\b", "^sorry"], "within": 20}
QUESTIONS = {"kind": "sentence_share", "pattern": "\\?$"}
CAPITALS = {"kind": "uppercase_share"}
BALANCE = {"kind": "lexicon_balance", "high": ["joy*", "very good", "good"], "low": ["bad"]}
FRENCH = {"kind": "language", "language": "fr"}
ALL = [REFUSAL, QUESTIONS, CAPITALS, BALANCE, FRENCH]


@pytest.mark.parametrize(
    ("metric", "text", "expected"),
    [
        (REFUSAL, "I can't do that.", 100),
        (REFUSAL, "i can\u2019t do that.", 100),  # case and typographic apostrophe
        (REFUSAL, "  Sorry, no.", 100),  # ^ is the text's first letter
        (REFUSAL, "I am sorry.", 0),
        (REFUSAL, "Of course I would help, but I can't.", 0),  # beyond 20 characters
        (REFUSAL, "", 0),
        (QUESTIONS, "Is it? It is. Why? Because.", 50),
        (QUESTIONS, 'He said "Is it?" Then left.', 50),
        (QUESTIONS, "One line\nAnother line?\n\n- a third", 100 / 3),
        (QUESTIONS, "What?! No.", 0),
        (QUESTIONS, "Ready? \U0001f600", 100),  # an emoji alone is no sentence
        (QUESTIONS, "", 0),
        (CAPITALS, "ABcd 12!", 50),
        (CAPITALS, "ÄÖ\u4e2d", 100),  # letters without case do not count
        (CAPITALS, "123", 0),
        (BALANCE, "Joyful, joy and a bad day", 100 * 2 / 3),
        (BALANCE, "A very good day", 100),
        (BALANCE, "very  good, bad", 50),  # a phrase counts once, across any white space
        (BALANCE, "goods and badly enjoyed", 50),  # whole words only: neither occurs
        (BALANCE, "", 50),
        (FRENCH, "Les abeilles restent dans la ruche pendant tout l'hiver.", 100),
        (FRENCH, "The bees stay in their hive all winter long.", 0),
        (FRENCH, "123 !?", 0),
    ],
)
def test_closed_forms(metric, text, expected):
    assert parse_metric(metric).score(text) == pytest.approx(expected)


def test_language_is_weighed_by_letters():
    french, english = "Je ne sais pas quoi faire de ma vie.", "The weather is nice today, is it not?"
    letters = [sum(char.isalpha() for char in text) for text in (french, english)]
    assert parse_metric(FRENCH).score(f"{french} {english}") == pytest.approx(100 * letters[0] / sum(letters))


@pytest.mark.parametrize("metric", ALL)
@given(text=st.text(max_size=80))
def test_every_text_has_a_score_from_0_to_100(metric, text):
    assert 0 <= parse_metric(metric).score(text) <= 100


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ({"kind": "matches"}, "patterns"),
        ({"kind": "matches", "patterns": ["("]}, "'(' is not a regular expression"),
        ({"kind": "matches", "patterns": []}, "patterns"),
        ({"kind": "matches", "patterns": ["a"], "withn": 3}, "withn"),
        ({"kind": "language", "language": "nl"}, "got 'nl'"),
        ({"kind": "lexicon_balance", "high": ["a"], "low": ["a"]}, "in both high and low: a"),
        ({"kind": "vibes"}, "vibes"),
        ("uppercase_share", "got 'uppercase_share'"),
    ],
)
def test_a_wrong_definition_is_named_with_its_value(definition, words):
    with pytest.raises(InvalidRequestError) as caught:
        parse_metric(definition)
    assert words in str(caught.value)


def test_sentences_end_at_marks_before_white_space_and_at_line_breaks():
    assert sentences("It costs 3.50 euros. Really?\nYes") == ["It costs 3.50 euros.", "Really?", "Yes"]
