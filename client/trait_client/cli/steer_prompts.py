"""Prompts of `trait-client steer`: its arguments, else standard input, else the trait's own evaluation questions."""

import sys
from collections.abc import Sequence
from pathlib import Path

from trait_core.console import err, plain
from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.text_files import decode
from trait_core.traits import default_traits_folder, find_trait, read_steering
from trait_core.traits.files import STEERING

N_QUESTIONS = 3
"""Evaluation questions that are steered where no prompt is given."""


def given_prompts(arguments: Sequence[str]) -> list[str]:
    """The prompts that a user gave; empty if there are none.

    Args:
        arguments: Prompts of the command line; `-` stands for standard input. Without any, standard input is read unless it
            is a terminal.

    Raises:
        InvalidRequestError: An argument is empty, or `-` was given and standard input holds no line.
        DatasetError: Standard input is not UTF-8 text.
    """
    if not arguments:
        return _piped()
    prompts = [line for given in arguments for line in (_lines() if given == "-" else [given])]
    if not all(prompts) or not prompts:
        raise InvalidRequestError("a prompt is empty: give text, or - with one prompt a line on stdin")
    return prompts


def evaluation_questions(trait: str, datasets: Path | None) -> list[str]:
    """The first evaluation questions of a trait; a line on stderr says which.

    Args:
        trait: Name of the trait.
        datasets: Folder of `<category>/<trait>`; None takes the default folder.

    Raises:
        InvalidRequestError: The folder has no such trait, or the trait has no questions.
    """
    try:
        folder = find_trait(datasets or default_traits_folder(), trait, STEERING)
        questions = read_steering(folder).questions[:N_QUESTIONS]
    except DatasetError as error:
        raise InvalidRequestError(
            f"no prompt was given, and there are no evaluation questions to steer instead ({error}): "
            "give a prompt, or pipe one in on each line",
            param="prompts",
        ) from error
    n = f"the first {len(questions)} evaluation questions" if len(questions) > 1 else "the evaluation question"
    err.print(plain(f"no prompt given: steering {n} of {trait}"), soft_wrap=True)
    return questions


def _piped() -> list[str]:
    if sys.stdin is None or sys.stdin.isatty():
        return []
    prompts = _lines()
    if prompts:
        n = f"{len(prompts)} prompts" if len(prompts) > 1 else "1 prompt"
        err.print(plain(f"{n} from standard input, one a line"), soft_wrap=True)
    return prompts


def _lines() -> list[str]:
    """The lines of standard input that are not blank, without surrounding white space."""
    buffer = getattr(sys.stdin, "buffer", None)
    text = sys.stdin.read() if buffer is None else decode(buffer.read(), "standard input")
    return [line for line in map(str.strip, text.split("\n")) if line]
