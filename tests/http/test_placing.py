"""Scopes in one prompt and in the reply that follows: nothing runs."""

import pytest
from trait_core.errors import InvalidRequestError
from trait_core.intervals import UNBOUNDED
from trait_core.positions import Positions
from trait_service.engine.reply_selector import ReplyItem, ReplyStart
from trait_service.engine.spec import TermSpec
from trait_service.resolving.landmarks import Finder, Markers
from trait_service.resolving.placing import Placer
from trait_service.resolving.scopes import as_generated, check_scopes

PROMPT = "a=b=c{"  # its tokens are its characters; { opens the reasoning, and } closes it
TURNS = [(0, 2), (2, 5), (5, UNBOUNDED)]


def decode(ids) -> str:
    return "".join(map(chr, ids))


def encode(text: str) -> list[int]:
    return [ord(c) for c in text]


def placer(markers="{ }") -> Placer:
    return Placer(Finder(decode, markers and Markers.of(markers)), decode, encode)


def placed(scope: str, prompt=PROMPT, turns=(), markers="{ }") -> TermSpec:
    term = TermSpec(layer=1, direction="d" * 64, scope=Positions.parse(scope))
    (found,) = placer(markers).place([term], encode(prompt), turns)
    assert TermSpec.model_validate_json(found.model_dump_json()) == found
    return found


def known(term: TermSpec, n=6) -> list[tuple[int, int, int]]:
    return [tuple(each) for each in term.intervals(n)]


def item(part="response", start=0, stop=UNBOUNDED, step=1, token=None) -> ReplyItem:
    return ReplyItem(part=part, start=start, stop=stop, step=step, token=token)


@pytest.mark.parametrize(
    ("scope", "intervals"),
    [
        ("turn[0]", [(0, 2, 1)]),
        ("turn[-2]", [(2, 5, 1)]),
        ("turn[-1]", [(5, UNBOUNDED, 1)]),  # the reply's, from its header on
        ("turn[-1] except prompt[:]", [(6, UNBOUNDED, 1)]),
        ("turn[-2], response[2:8:3]", [(2, 5, 1), (8, 12, 3)]),
        ("all[1::4] except turn[0]", [(5, UNBOUNDED, 4)]),
        ('tokens["="] except response[:]', [(1, 2, 1), (3, 4, 1)]),
        ('tokens["b=c"] except response[:]', [(2, 5, 1)]),  # several tokens, in the prompt
    ],
)
def test_what_stands_in_the_prompt_becomes_absolute_positions(scope, intervals):
    term = placed(scope, turns=TURNS)
    assert known(term) == intervals
    assert term.reply is None


@pytest.mark.parametrize(
    ("scope", "intervals", "select", "without"),
    [
        ("thinking[:]", [], [item("thinking")], []),
        ("thinking[4:16:3], answer[:2]", [], [item("thinking", 4, 16, 3), item("answer", 0, 2)], []),
        ("prompt[-1], answer[:]", [(5, 6, 1)], [item("answer")], []),
        ("response[:8] except thinking[:]", [], [item("response", 0, 8)], [item("thinking")]),
        ("all[1::4] except answer[:]", [(1, 6, 4)], [item("response", 3, UNBOUNDED, 4)], [item("answer")]),
        ('tokens["="]', [(1, 2, 1), (3, 4, 1)], [item(token=ord("="))], []),
        ('tokens["="] except prompt[:]', [], [item(token=ord("="))], []),
        ('tokens["="] except turn[1]', [(1, 2, 1)], [item(token=ord("="))], []),
        ("thinking[:] except turn[2]", None, None, None),
    ],
)
def test_what_the_reply_will_tell_becomes_a_selector_of_it(scope, intervals, select, without):
    if intervals is None:
        with pytest.raises(InvalidRequestError, match="select nothing"):
            placed(scope, turns=TURNS)
        return
    term = placed(scope, turns=TURNS)
    assert known(term) == intervals
    assert (list(term.reply.select), list(term.reply.without)) == (select, without)
    assert term.reply.reply.first == 6


@pytest.mark.parametrize(("prompt", "opened"), [("a{", True), ("a{}", False), ("a", False), ("a}{", True)])
def test_the_prompt_says_whether_the_reasoning_is_open_and_only_reasoning_has_markers(prompt, opened):
    assert placed("answer[:]", prompt).reply.reply == ReplyStart(
        first=len(prompt), opened=opened, begin=ord("{"), end=ord("}")
    )
    assert placed('tokens["x"]', prompt).reply.reply == ReplyStart(first=len(prompt))


def test_terms_with_other_scopes_stay_as_they_are():
    terms = [TermSpec(layer=1, direction="d" * 64, scope=scope) for scope in ("all", [2, 4], "response[:4]")]
    assert placer(None).place(terms, encode(PROMPT), ()) == terms


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        ("thinking[-4:]", "from the end of a response that is still being generated"),
        ('tokens["if"]', "'if' is 2 tokens: while a reply is generated only a text of one token"),
        ("turn[3]", "the chat has 3 turns, that of the reply included"),
        ("thinking[4:4]", "select nothing: the prompt has 6 tokens"),
        ('tokens["zz"] except response[:]', "select nothing"),
    ],
)
def test_a_scope_that_cannot_be_told_is_refused(scope, reason):
    with pytest.raises(InvalidRequestError, match=reason.replace("[", r"\[")) as caught:
        placed(scope, turns=TURNS)
    assert caught.value.param == "steering.terms"


def test_a_model_without_markers_markers_of_several_tokens_no_chat_and_too_much_are_refused():
    for scope, options, reason in [
        ("thinking[:]", {"markers": None}, "known markers of reasoning"),
        ("answer[:]", {"markers": "<a> </a>"}, "the marker of reasoning '<a>' is 3 tokens"),
        ("turn[0]", {}, "need a chat: send messages"),
        ('tokens["x"]', {"prompt": "x." * 17}, "17 places of the prompt; at most 16.*except prompt"),
    ]:
        with pytest.raises(InvalidRequestError, match=reason):
            placed(scope, **options)
    many = [
        TermSpec(layer=i, direction="d" * 64, scope=Positions.parse(f'tokens["{c}"]')) for i, c in enumerate("ABCDEFGH")
    ]
    with pytest.raises(InvalidRequestError, match="8 different scopes depend on generated tokens; at most 7"):
        placer().place(many, encode(PROMPT), ())
    with pytest.raises(InvalidRequestError, match="4 terms act on layer 1"):
        check_scopes([placed('tokens["="], prompt[5]')], 6, 3)


def test_a_reply_that_is_read_back_is_steered_by_its_tokens_as_while_it_was_generated():
    term = placed("prompt[0], thinking[:]")
    (again,) = as_generated([term, placed("answer[:]")][:1], 6)
    assert known(again, 20) == [(0, 1, 1)]
    assert again.reply == term.reply
    (again,) = as_generated([placed("answer[:]")], 6)
    assert known(again, 20) == []
    assert TermSpec.model_validate_json(again.model_dump_json()) == again
