"""Activation patching without an engine: partners of positions, what is patched together, and the restored share."""

import pytest

pytest.importorskip("vllm")

from trait_core.errors import InvalidRequestError
from trait_core.schema import MAX_PATCH_CELLS, PatchPrompt, PatchRequest
from trait_service.patching.alignment import align, cells, restored_share, units
from trait_service.patching.prompts import selected, span_in


def partners(alignment, part):
    return [(pair.source, pair.target) for pair in alignment.pairs if pair.part == part]


def test_spans_of_equal_length_are_aligned_one_to_one():
    alignment = align(7, 7, ((2, 4), (2, 4)))
    assert [(pair.source, pair.target) for pair in alignment.pairs] == [(i, i) for i in range(7)]
    assert [pair.part for pair in alignment.pairs] == ["before"] * 2 + ["span"] * 2 + ["behind"] * 3
    assert alignment.source_left_out == alignment.target_left_out == []


def test_spans_of_different_length_are_aligned_from_their_ends():
    alignment = align(10, 8, ((2, 6), (2, 4)))
    assert partners(alignment, "span") == [(4, 2), (5, 3)]
    assert partners(alignment, "behind") == [(6, 4), (7, 5), (8, 6), (9, 7)]
    assert alignment.source_left_out == [2, 3]
    assert alignment.target_left_out == []


def test_what_is_before_is_aligned_from_the_start_and_what_is_behind_from_the_end():
    alignment = align(6, 9, ((1, 2), (3, 4)))
    assert partners(alignment, "before") == [(0, 0)]
    assert partners(alignment, "span") == [(1, 3)]
    assert partners(alignment, "behind") == [(2, 5), (3, 6), (4, 7), (5, 8)]
    assert alignment.target_left_out == [1, 2, 4]


def test_without_spans_prompts_of_one_length_are_one_part():
    assert partners(align(3, 3, None), "all") == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(InvalidRequestError, match="3 tokens and the target 4: give both a span"):
        align(3, 4, None)


def test_positions_are_patched_alone_or_by_part():
    pairs = align(5, 5, ((1, 3), (1, 3))).pairs
    assert [unit.pairs for unit in units(pairs, None, 1)] == [(pair,) for pair in pairs]
    found = units(pairs, ["span", "all"], 8)
    assert [(unit.part, len(unit.pairs)) for unit in found] == [("span", 2), ("all", 5)]
    with pytest.raises(InvalidRequestError, match="'all' has 5 aligned positions; 1 to 4 are"):
        units(pairs, ["all"], 4)
    with pytest.raises(InvalidRequestError, match="'behind' has 0 aligned positions"):
        units(pairs[:3], ["behind"], 4)


def test_every_unit_is_patched_on_every_layer_up_to_a_limit():
    patched = units(align(2, 2, None).pairs, None, 1)
    found = cells(patched, [3, 9], ["resid_post"])
    assert [(cell.layer, cell.unit.pairs[0].target) for cell in found] == [(3, 0), (3, 1), (9, 0), (9, 1)]
    with pytest.raises(
        InvalidRequestError,
        match=f"2 positions x 2001 layers x 1 hook points are 4002 cells; at most {MAX_PATCH_CELLS}",
    ):
        cells(patched, range(2001), ["resid_post"])
    with pytest.raises(InvalidRequestError, match="no aligned position"):
        cells([], [3], ["resid_post"])


def test_the_restored_share_is_0_for_the_target_and_1_for_the_source():
    assert restored_share(-4.0, 6.0, -4.0) == 0
    assert restored_share(6.0, 6.0, -4.0) == 1
    assert restored_share(1.0, 6.0, -4.0) == 0.5
    assert restored_share(8.0, 6.0, -4.0) == pytest.approx(1.2)
    assert restored_share(-3.0, -4.0, 6.0) == pytest.approx(0.9), "whichever of the two is larger"
    assert restored_share(6.0, 6.0, 6.0004) is None


def test_a_span_is_the_tokens_that_it_touches_and_occurs_once():
    texts = ["The", " E", "iff", "el", " Tower", " is", " the", " tower"]
    assert span_in(texts, "Eiffel Tower", "source") == (1, 5)
    assert span_in(texts, "ower is", "source") == (4, 6)
    with pytest.raises(InvalidRequestError, match="'Colosseum' does not occur in the source"):
        span_in(texts, "Colosseum", "source")
    with pytest.raises(InvalidRequestError, match="'ower' occurs 2 times in the target"):
        span_in(texts, "ower", "target")


def test_positions_are_those_of_the_prompt():
    assert selected("prompt[-2:], all[0]", 5) == {0, 3, 4}
    with pytest.raises(InvalidRequestError, match=r"written as prompt\[...\] or all\[...\]"):
        selected("turn[0]", 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "exactly one of text and messages"),
        ({"messages": [{"role": "user", "content": "x"}]}, "exactly one of text and messages"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs goes with messages"),
        ({"steering": {}}, "steering"),
    ],
)
def test_a_prompt_is_a_text_or_a_chat_and_nothing_else(change, message):
    body = {"text": "one", "answer": " two"} | change
    with pytest.raises(ValueError, match=message):
        PatchPrompt.model_validate(body)


def test_both_prompts_have_a_span_or_neither():
    prompt = {"text": "one", "answer": " two"}
    PatchRequest.model_validate({"source": prompt, "target": prompt})
    with pytest.raises(ValueError, match="a span to both prompts, or to neither"):
        PatchRequest.model_validate({"source": prompt | {"span": "one"}, "target": prompt})
