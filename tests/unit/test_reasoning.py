"""A reply is split into its reasoning and its answer by the texts around the reasoning."""

import pytest
from trait_core.reasoning import split_reasoning


@pytest.mark.parametrize(
    ("reply", "reasoning", "answer"),
    [
        ("<think>a\n</think>\n\nb", "a\n", "\n\nb"),
        ("a</think>b", "a", "b"),  # the template has opened it
        ("<think>a", "a", ""),  # cut while it reasons
        ("<think></think>b", "", "b"),
        ("a <think>b</think>c</think>d", "b", "c</think>d"),
        ("b", None, "b"),
        ("", None, ""),
    ],
)
def test_the_reasoning_ends_at_the_first_closing_marker(reply, reasoning, answer):
    assert split_reasoning(reply, "<think> </think>") == (reasoning, answer)
