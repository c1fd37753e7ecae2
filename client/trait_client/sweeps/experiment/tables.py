"""Tables of `experiment.toml`: `[control]`, `[damage]` and `[trait.NAME]`."""

from typing import Annotated

from pydantic import Field

from trait_client.sweeps.experiment.section import Coefficients, Layers, Section
from trait_core.schema import VectorReference

MAX_RANDOM_DIRECTIONS = 64


class Control(Section):
    """Random directions at the same doses as the real ones.

    Attributes:
        random_directions: Number of directions. With 0 there is nothing to compare with, and the verdict of a delta is never 'effect'.
    """

    random_directions: Annotated[int, Field(ge=0, le=MAX_RANDOM_DIRECTIONS)] = 4


class DamageSpec(Section):
    """`[damage]`: every steered setting is also measured on texts on which it should change nothing.

    Each setting costs one prompt for each passage and four for each question; nothing is generated.

    Attributes:
        passages: Number of neutral passages, from the first; None uses all.
        questions: Number of multiple-choice questions, from the first, 0 for none; None uses all.
        folder: Folder of `neutral.jsonl` and `choices.jsonl`, relative to the experiment's file; None: `damage` beside the folder
            of traits.
        controls: Also measure the sweep's random directions, which costs as much for each of them.
    """

    passages: Annotated[int, Field(ge=1)] | None = None
    questions: Annotated[int, Field(ge=0)] | None = None
    folder: Annotated[str, Field(min_length=1)] | None = None
    controls: bool = False


class TraitOverride(Section):
    """Overrides for one trait; None keeps the experiment's value.

    Attributes:
        layers: See `Experiment.layers`.
        coefficients: See `Experiment.coefficients`.
        vector: Registered vector to use, if several match the trait and the method.
    """

    layers: Layers | None = None
    coefficients: Coefficients | None = None
    vector: VectorReference | None = None
