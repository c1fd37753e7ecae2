"""Where reasoning, answers and spelt texts lie in a text's tokens: nothing runs."""

import pytest
from trait_core.errors import InvalidRequestError
from trait_core.positions import Positions
from trait_service.resolving.landmarks import Finder, Markers, reasoning, spelt

THINK = Markers("<think>", "</think>")


def decode(ids):
    return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("prompt", "reply", "thinking", "answer"),
    [
        (["hi"], ["<think>", "a", "b", "</think>", "c", "d"], (2, 4), (5, 7)),
        (["hi", "<think>", "\n"], ["a", "</think>", "c"], (3, 4), (5, 6)),  # opened by the template
        (["hi", "<think>", "\n"], ["a", "b"], (3, 5), (5, 5)),  # cut off while it thinks
        (["hi"], ["<think>", "a"], (2, 3), (3, 3)),
        (["hi"], ["a", "</think>", "c"], (1, 2), (3, 4)),  # the opening marker was left out
        (["hi"], ["a", "b"], (1, 1), (1, 3)),
        (["hi", "<think>", "</think>"], ["a", "b"], (3, 3), (3, 5)),  # thinking is switched off
        (["</think>", "<think>"], ["a", "</think>", "b", "</think>", "c"], (2, 3), (4, 7)),  # the first end counts
        (["hi"], ["<thi", "nk>", "a", "</", "think", ">", "c"], (3, 4), (7, 8)),  # markers of several tokens
        (
            ["hi"],
            ["<think>", "a.</", "think>\n", "c"],
            (2, 2),
            (4, 5),
        ),  # a token that holds part of a marker is neither
        (["hi"], ["a", "<think>", "b", "</think>", "c"], (3, 4), (5, 6)),
        (["hi"], ["a", "</think>", "b", "<think>", "c"], (1, 2), (3, 6)),
        (["hi", "<think>"], ["a", "<think>", "b", "</think>", "c"], (2, 5), (6, 7)),  # opened once is opened
    ],
)
def test_reasoning_and_answer_lie_between_and_behind_the_markers(prompt, reply, thinking, answer):
    assert reasoning([*prompt, *reply], len(prompt), THINK) == (thinking, answer)


def test_a_text_is_found_wherever_tokens_spell_it():
    assert spelt(["a", "bc", "", "ab", "c"], "abc") == [(0, 2), (3, 5)]
    assert spelt(["xx", "x"], "x") == [(0, 1), (0, 1), (1, 2)]
    assert spelt(["a"], "b") == []


def test_a_finder_looks_for_what_is_named_and_for_nothing_else():
    finder = Finder(decode, THINK)
    ids = [ord(c) for c in "q<think>ab</think>cd"]
    found = finder.find(ids, 1, [Positions.parse('answer[:], tokens["b<"]')])
    assert (found.thinking, found.answer, found.tokens) == ((8, 10), (18, 20), {"b<": [(9, 11)]})
    assert finder.find(ids, 1, [Positions.parse("all[:]")]).answer is None
    finder.check([Positions.parse("thinking[:]")])


def test_a_model_without_markers_refuses_reasoning_and_takes_spelt_tokens():
    finder = Finder(decode, None)
    with pytest.raises(InvalidRequestError, match=r"no.* known markers of reasoning.*--reasoning-markers"):
        finder.check([Positions.parse("all[:] except thinking[0]")])
    finder.check([Positions.parse('tokens["a"]')])
    assert finder.find([97, 98], 1, [Positions.parse('tokens["b"]')]).tokens == {"b": [(1, 2)]}


class Tokenizer:
    """The one thing that is asked of a tokenizer here."""

    def __init__(self, *added):
        self._added = added

    def get_added_vocab(self):
        return dict.fromkeys(self._added, 0)


def test_markers_are_known_from_the_tokenizer_or_the_template():
    assert Markers.found(Tokenizer("<think>", "</think>"), None) == THINK
    assert Markers.found(Tokenizer("[/THINK]"), "{{ '</think>' }}") == Markers("[THINK]", "[/THINK]")
    assert Markers.found(Tokenizer("<|im_end|>"), "{{ message.content.split('</think>')[-1] }}") == THINK
    assert Markers.found(Tokenizer(), None) is None
