"""Completions: raw text for base models, cut in mid-sentence, where the model is about to go on in the same vein."""

from collections.abc import Sequence
from pathlib import Path

from trait_core.errors import DatasetError

from trait_extraction.data.scenarios import Pairs, Scenario

KEPT = 0.7
"""The part of a written reply's words that a derived completion keeps."""

_CLOSERS = "\"'\u2019\u201d)]*_"
_ENDS = (".", "!", "?", "\u2026")


def derive_completions(written: Pairs, paths: tuple[Path, Path]) -> Pairs:
    """Written pairs as plain prose: the prompt, a blank line, and the beginning of the reply, cut in mid-sentence.

    No chat template and no system prompt. The reply's part is told apart (`Scenario.response`), so that it alone can
    be read: the prompt is the same on both sides.

    Args:
        written: The written pairs.
        paths: Their files, for messages.

    Raises:
        DatasetError: A reply has too few words to be cut; the message names file and line.
    """
    positive, negative = (_derive(side, path) for side, path in zip(written, paths, strict=True))
    return positive, negative


def cut_in_mid_sentence(text: str) -> str | None:
    """The first words of a text, some 70 per cent of them, the last of which ends no sentence; None if there are none."""
    words = text.split()
    for kept in range(min(max(1, round(KEPT * len(words))), len(words) - 1), 0, -1):
        if not ends_a_sentence(words[kept - 1]):
            return " ".join(words[:kept])
    return None


def ends_a_sentence(text: str) -> bool:
    """Whether a text ends with a full stop, an exclamation or question mark or an ellipsis, quotes left aside."""
    return text.rstrip().rstrip(_CLOSERS).endswith(_ENDS)


def whole_texts(side: Sequence[Scenario]) -> int:
    """How many completions end with a sentence, and so leave a base model nothing to complete."""
    return sum(ends_a_sentence(s.response or s.prompt) for s in side)


def _derive(side: Sequence[Scenario], path: Path) -> tuple[Scenario, ...]:
    derived = []
    for number, scenario in enumerate(side, start=1):
        cut = cut_in_mid_sentence(scenario.response or "")
        if cut is None:
            raise DatasetError(
                f"{path}:{number}: the reply is too short to be cut in mid-sentence: write positive.txt and "
                "negative.txt for the completions style, or a longer reply"
            )
        derived.append(Scenario(prompt=f"{scenario.prompt}\n\n", response=cut))
    return tuple(derived)
