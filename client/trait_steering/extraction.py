"""One call from a trait's name to its vector files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trait_core.positions import Positions
from trait_core.schema import RESID_POST, Generation, HookPoint
from trait_core.traits import default_traits_folder, find_place, grouped
from trait_core.vectors.file import VectorFile
from trait_extraction import pipeline
from trait_extraction.data.datasets import load_trait
from trait_extraction.data.scenarios import Style
from trait_extraction.plan import Settings, default_max_tokens, default_positions
from trait_extraction.reading.reply_check import ReplyCheck
from trait_extraction.reading.source import Model

logger = logging.getLogger(__name__)


def extract(
    model: Model,
    trait: str | Path,
    methods: str | Sequence[str] = "mean_diff",
    *,
    datasets: Path | None = None,
    style: Style | None = None,
    positions: str | None = None,
    seed: int = 0,
    held_out: float = 0.25,
    splits: int = 8,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    samples: int = 1,
    allow_unchecked: bool = False,
    chat_template_kwargs: dict[str, Any] | None = None,
    cache: Path | None = None,
    at: HookPoint = RESID_POST,
) -> dict[str, VectorFile]:
    """Make a trait's vectors; nothing is written or registered. The options are those of `trait-extract run`.

    Pairs that are the same on both sides or occur twice are left out, with a warning in the log.

    ::

        vectors = extract(engine, "refusal", ["mean_diff", "probe"])
        engine.put_vector("refusal", vectors["mean_diff"].to_bytes())

    Args:
        model: A `TraitClient` or a `LocalEngine`, which reads the scenarios.
        trait: Name of a trait, or its folder as a `Path`.
        methods: `mean_diff`, `probe`, `pca`, `gradient`, `random`: one of them, or several.
        datasets: Folder of the traits; None takes `./datasets/traits`, or else the package's own.
        style: `written`, `instructed`, `completions` or `continued`; None takes the trait's default.
        positions: The pool that directions are fitted on; None takes `response[:]`, for continuations `response[:5]`, for whole
            raw texts `all[4:]`.
        seed: Seed of the held-out split and of methods that draw random numbers.
        held_out: Part of the scenarios to test on.
        splits: How many times scenarios are held out and directions fitted, for the intervals.
        max_tokens: Length of generated replies, where the style has none; None takes 64, for continuations 16.
        temperature: Temperature of generated replies; 0 takes the likeliest token.
        samples: Continuations of each text (style `continued`), at a temperature above 0.
        allow_unchecked: Use generated replies that fail the check, or that nothing can check.
        chat_template_kwargs: Variables of the chat template, such as `enable_thinking`.
        cache: Folder that keeps replies and activations for a second call.
        at: The place in a block that is read: `resid_post`, or with a model that has them `attn_out` and `mlp_out`.

    Returns:
        Method -> vector file, in the order of `methods`.

    Raises:
        InvalidRequestError: An unknown method, or positions or a split that do not fit the trait.
        DatasetError: The trait does not exist or is malformed, or a scenario has no token at the positions.
        TraitError: Generated replies do not show the trait, or the activations do not define a direction.
        ServiceError: The model failed.
    """
    if isinstance(trait, Path):
        dataset = load_trait(trait, style)
    else:
        place = find_place(datasets or default_traits_folder(), trait)
        dataset = load_trait(place.folder, style, name=place.name)
    for sentence in (*dataset.left_out, *grouped(dataset.remarks)):
        logger.warning("%s", sentence)
    pool = default_positions(dataset) if positions is None else Positions.parse(positions)
    length = default_max_tokens(dataset) if max_tokens is None else max_tokens
    generation = Generation(max_tokens=length, temperature=temperature, seed=seed)
    settings = Settings(pool, seed, held_out, splits, generation, chat_template_kwargs, samples, at=at)
    names = [methods] if isinstance(methods, str) else methods
    check = ReplyCheck(allow_unchecked=allow_unchecked)
    return pipeline.extract(model, dataset, names, settings, cache=cache, check=check)
