"""Completions: raw text for base models, cut in mid-sentence, for the model to continue."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trait_core.errors import DatasetError

from trait_extraction.data.scenarios import CheckedSides, Scenario, without_unusable

KEPT = 0.7
"""Part of a written reply's words that a derived completion keeps."""

_CLOSERS = "\"'\u2019\u201d)]*_"
_ENDS = (".", "!", "?", "\u2026")


def derive_completions(written: CheckedSides, paths: tuple[Path, Path]) -> CheckedSides:
    """Turn written pairs into plain prose: the prompt, a blank line, and the beginning of the reply, cut in mid-sentence.

    There is no chat template and no system prompt. The reply's part is kept separate (`Scenario.response`) so that only
    it is read, since the prompt is the same on both sides. Pairs whose replies begin alike are left out.

    Args:
        written: The written pairs.
        paths: Their files, for error messages.

    Raises:
        DatasetError: A reply has too few words to be cut, or too few pairs remain; the message names file and line.
    """
    positive, negative = map(_derive, written.sides, written.numbers, paths)
    return without_unusable(replace(written, sides=(positive, negative)), paths, whole=True)


def cut_in_mid_sentence(text: str) -> str | None:
    """About 70 per cent of a text's words, from its beginning, not up to the end of a sentence; None if there are none."""
    words = text.split()
    for kept in range(min(max(1, round(KEPT * len(words))), len(words) - 1), 0, -1):
        if not ends_a_sentence(words[kept - 1]):
            return " ".join(words[:kept])
    return None


def ends_a_sentence(text: str) -> bool:
    """Tell whether a text ends with `.`, `!`, `?` or an ellipsis, closing quotes aside."""
    return text.rstrip().rstrip(_CLOSERS).endswith(_ENDS)


def whole_texts(side: Sequence[Scenario]) -> int:
    """Number of completions that end with a sentence and leave a base model nothing to complete."""
    return sum(ends_a_sentence(s.response or s.prompt) for s in side)


def _derive(side: Sequence[Scenario], numbers: Sequence[int], path: Path) -> tuple[Scenario, ...]:
    derived = []
    for number, scenario in zip(numbers, side, strict=True):
        cut = cut_in_mid_sentence(scenario.response or "")
        if cut is None:
            raise DatasetError(
                f"{path}:{number}: the reply is too short to cut in mid-sentence: write positive.txt and "
                "negative.txt for the completions style, or a longer reply"
            )
        derived.append(Scenario(prompt=f"{scenario.prompt}\n\n", response=cut))
    return tuple(derived)
