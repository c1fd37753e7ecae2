"""Continued scenarios: raw text that a base model continues in its own words ("natural elicitation")."""

from dataclasses import replace
from pathlib import Path

from trait_extraction.data.completions import derive_completions
from trait_extraction.data.scenarios import CheckedSides, Scenario


class ContinuedScenario(Scenario):
    """A scenario with the model's continuation; `response` is its text.

    Attributes:
        prompt_ids: Token ids of the raw text, with the special tokens that the tokenizer adds.
        token_ids: Token ids of the continuation, without the end of the text.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


def raw_text(scenario: Scenario) -> str:
    """The text that the model continues; a system prompt is put before it, with a blank line between."""
    return scenario.prompt if scenario.system_prompt is None else f"{scenario.system_prompt}\n\n{scenario.prompt}"


def continued(
    scenario: Scenario, text: str, prompt_ids: tuple[int, ...], token_ids: tuple[int, ...]
) -> ContinuedScenario:
    """A scenario with its continuation, which may be blank text: that is why nothing is validated here."""
    return ContinuedScenario.model_construct(
        prompt=scenario.prompt,
        system_prompt=scenario.system_prompt,
        response=text,
        prompt_ids=prompt_ids,
        token_ids=token_ids,
    )


def derive_continued(written: CheckedSides, paths: tuple[Path, Path]) -> CheckedSides:
    """Turn written pairs into raw text to continue: the prompt, a blank line, and the beginning of the reply.

    Raises:
        DatasetError: A reply is too short to cut, or too few pairs remain.
    """
    derived = derive_completions(written, paths)
    positive, negative = (
        tuple(Scenario(prompt=f"{scenario.prompt}{scenario.response}") for scenario in side) for side in derived.sides
    )
    return replace(derived, sides=(positive, negative))
