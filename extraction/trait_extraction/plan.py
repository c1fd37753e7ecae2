"""The plan of one trait's vectors: everything that decides them, checked before the model reads anything."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from trait_client.http.template_check import require_template
from trait_core.errors import ChatTemplateError, InvalidRequestError
from trait_core.positions import REPLY_PARTS, Positions
from trait_core.schema import RESID_POST, Elicitation, Generation, HookPoint, ServiceInfo

from trait_extraction.data.datasets import Kept, TraitDataset
from trait_extraction.data.scenarios import Scenario
from trait_extraction.data.split import Split, split_sides
from trait_extraction.massive import SUFFIX, MassiveDimensions

RESPONSE = Positions.parse("response[:]")
BEGINNING = Positions.parse("response[:5]")
"""The first tokens of a continuation, which still belong to the scenario."""
PAST_SINKS = Positions.parse("all[4:]")
"""All positions but the first four: those are attention sinks, whose norm is many times the usual one."""


@dataclass(frozen=True)
class Settings:
    """How the vectors of a trait are made.

    Args:
        positions: The pool that directions are fitted on.
        seed: Seed of the held-out split and of methods that draw random numbers.
        held_out: Part of the scenarios that no direction is fitted on.
        splits: How many times scenarios are held out and directions fitted, for the intervals; the file's directions
            are those of the first split.
        generation: How replies are generated, where the dataset has none.
        chat_template_kwargs: Variables of the chat template; None for none.
        samples: Continuations of each scenario (style `continued`), drawn with the seeds `seed`, `seed + 1`, ...
        massive: Dimensions that are left out of activations and directions; None leaves none out.
        at: The place in a block that is read: the stream behind it, or what its attention or MLP adds.
    """

    positions: Positions
    seed: int = 0
    held_out: float = 0.25
    splits: int = 8
    generation: Generation = field(default_factory=Generation)
    chat_template_kwargs: dict[str, Any] | None = None
    samples: int = 1
    massive: MassiveDimensions | None = None
    at: HookPoint = RESID_POST

    @property
    def suffix(self) -> str:
        """The end of the names of the vectors: their place in a block, `.clean` without massive dimensions."""
        return ("" if self.at == RESID_POST else f".{self.at}") + ("" if self.massive is None else SUFFIX)


@dataclass(frozen=True)
class LeftOut:
    """Scenarios that are not used, since their text has no token at the positions; of pairs, both sides are left out.

    Args:
        positive: Number on the positive side.
        negative: Number on the negative side.
        dataset_digest: Digest of the dataset with them.
    """

    positive: int
    negative: int
    dataset_digest: str


@dataclass(frozen=True)
class Plan:
    """The plan of one trait, for any model: scenarios, positions, and how directions are fitted.

    Every stage of the pipeline takes a plan. `with_replies` gives the plan of a trait whose replies were generated.

    Args:
        dataset: The trait.
        settings: How its vectors are made.
        elicitation: The check of generated replies; None where none were generated.
        left_out: Texts that were taken out of the dataset; None if it is whole.
    """

    dataset: TraitDataset
    settings: Settings
    elicitation: Elicitation | None = None
    left_out: LeftOut | None = None

    @classmethod
    def of(cls, dataset: TraitDataset, settings: Settings) -> "Plan":
        """A checked plan.

        Raises:
            InvalidRequestError: The dataset does not have the positions, its sides cannot differ there, or too few
                scenarios remain on one side of the split.
        """
        _check_positions(dataset, settings.positions)
        if settings.chat_template_kwargs and dataset.is_raw:
            raise InvalidRequestError(
                f"trait {dataset.trait!r} is raw text, which uses no chat template: leave --template-kwargs out",
                param="chat_template_kwargs",
            )
        _check_sampling(dataset, settings)
        plan = cls(dataset.repeated(settings.samples) if settings.samples > 1 else dataset, settings)
        _ = plan.splits
        return plan

    def check_model(self, info: ServiceInfo) -> None:
        """Refuse a place that the service does not read, chats for a model without a chat template, and variables that it ignores.

        Raises:
            InvalidRequestError: The service was not started with the hook point.
            ChatTemplateError: The template is missing, or has no such variables.
        """
        if self.settings.at not in info.hook_points:
            raise InvalidRequestError(
                f"the service has no hook point {self.settings.at}: start it with --hook-points {self.settings.at}",
                param="at",
            )
        if self.dataset.is_raw:
            return
        if not info.has_chat_template:
            raise ChatTemplateError(
                f"{info.model} has no chat template (it is a base model), and the {self.dataset.style} style of trait "
                f"{self.dataset.trait!r} is chats: use --style completions or continued, which are raw text",
                param="style",
            )
        require_template(info, self.settings.chat_template_kwargs)

    @property
    def name(self) -> str:
        """Name of the trait's vectors, for messages."""
        return self.dataset.name

    @property
    def needs_replies(self) -> bool:
        """True while the model has yet to write the replies that are read."""
        return self.dataset.is_generated and self.settings.positions.parts != {"prompt"}

    @property
    def dataset_digest(self) -> str:
        """Digest of all scenarios, those that are left out included: the file's readers compare it with the dataset's."""
        return self.dataset.digest if self.left_out is None else self.left_out.dataset_digest

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """The splits of the scenarios, seeded `seed`, `seed + 1`, ..."""
        groups, settings = self.dataset.groups, self.settings
        return tuple(split_sides(groups, settings.held_out, settings.seed + i) for i in range(settings.splits))

    def with_replies(
        self, kept: Kept, positive: Sequence[Scenario], negative: Sequence[Scenario], elicitation: Elicitation
    ) -> "Plan":
        """The plan for the kept scenarios with generated replies.

        Args:
            kept: Indices of scenarios, positive and negative side.
            positive: Every scenario of this plan with its reply, positive side.
            negative: The same for the other side.
            elicitation: Findings of the check of the replies.
        """
        return replace(self, dataset=self.dataset.with_replies(kept, positive, negative), elicitation=elicitation)

    def only(self, kept: Kept) -> "Plan":
        """The plan for the scenarios of both sides that have a token at the positions, by their indices.

        Raises:
            InvalidRequestError: Too few scenarios remain on one side of the split.
        """
        dataset = self.dataset.with_replies(kept, self.dataset.positive, self.dataset.negative)
        gone = [
            len(before) - len(at)
            for before, at in zip((self.dataset.positive, self.dataset.negative), kept, strict=True)
        ]
        plan = replace(self, dataset=dataset, left_out=LeftOut(gone[0], gone[1], self.dataset_digest))
        _ = plan.splits
        return plan


def left_out_sentence(counts: Sequence[int], positions: str, *, paired: bool) -> str:
    """Counts of the scenarios of both sides that are not used, and the reason."""
    positive, negative = counts
    what = f"{positive} pairs" if paired else f"{positive} positive and {negative} negative texts"
    return f"{what} left out, without a token at {positions}"


def default_positions(dataset: TraitDataset) -> Positions:
    """The reply; of a continuation its first five tokens; for whole raw texts, everything past the attention sinks.

    Means over `all[:]` are dominated by the first position's norm, and so by the length of the text: on SmolLM2's middle
    layers mean_diff then separates held-out texts hardly better than chance (tests/extraction,
    `test_on_smollm2_raw_text_is_read_without_the_attention_sink`).
    """
    if dataset.style == "continued":
        return BEGINNING
    return PAST_SINKS if _whole_text(dataset) else RESPONSE


def default_max_tokens(dataset: TraitDataset) -> int:
    """Longest generated reply, tokens: of a continuation, what a judge needs to see where the text goes."""
    return 16 if dataset.style == "continued" else 64


def _whole_text(dataset: TraitDataset) -> bool:
    return dataset.style == "completions" and any(s.response is None for s in dataset.positive)


def _check_sampling(dataset: TraitDataset, settings: Settings) -> None:
    """Refuse samples that a style does not have, or that would all be the same."""
    if settings.samples < 1:
        raise InvalidRequestError(f"samples {settings.samples}: must be 1 or more", param="samples")
    if settings.samples > 1 and dataset.style != "continued":
        raise InvalidRequestError(
            f"trait {dataset.trait!r}, style {dataset.style}: several samples are for --style continued",
            param="samples",
        )
    if settings.samples > 1 and settings.generation.temperature == 0:
        raise InvalidRequestError(
            f"{settings.samples} samples at temperature 0 are all the same: use --temperature 1, or one sample",
            param="samples",
        )


def _check_positions(dataset: TraitDataset, positions: Positions) -> None:
    """Refuse positions that the dataset does not have, or at which its two sides cannot differ."""
    if positions.parts <= REPLY_PARTS and _whole_text(dataset):
        raise InvalidRequestError(
            f"trait {dataset.trait!r} is raw text, which has no response to read at {positions}: use {PAST_SINKS}",
            param="positions",
        )
    same = _same_prompts(dataset)
    if same and (positions.parts == {"prompt"} or dataset.is_generated):
        raise InvalidRequestError(
            f"trait {dataset.trait!r} has the same prompt on both sides in {same} of {dataset.n_scenarios} scenarios, "
            f"so nothing differs at {positions}: read response[:] of written replies, or write prompts that differ",
            param="positions",
        )


def _same_prompts(dataset: TraitDataset) -> int:
    """Number of pairs with one prompt on both sides; of unpaired sides, of positives with a prompt of the negative side."""
    positive, negative = ([(s.system_prompt, s.prompt) for s in side] for side in (dataset.positive, dataset.negative))
    if dataset.paired:
        return sum(first == second for first, second in zip(positive, negative, strict=True))
    return len([prompt for prompt in positive if prompt in {*negative}])
