"""What a coefficient search is told."""

from typing import Annotated, Literal

from pydantic import Field

from trait_client.sweeps.experiment.section import Section

LARGE_D_MODEL = 2048
"""From this width on a model takes large doses: about 1B parameters."""

START_LARGE, START_SMALL = 0.7, 0.2


class SearchSettings(Section):
    """How coefficients are tried.

    Attributes:
        strategy: `climb` tries one coefficient a step on each layer of each trait: up while the replies are coherent,
            down while they are not. `bracket` tries `width` coefficients a step between the largest that was coherent and
            the smallest that was not: the cliff is found in fewer steps of the engine, with more trials each.
        steps: Batches, one after another; all layers and traits are in each.
        start: First relative dose (coefficient / 10 in unit `dose`); None is 0.7 for a model of width 2048 or more, else
            0.2.
        up_mult: Factor while coherent.
        down_mult: Factor while not.
        momentum: Share of the last step's factor that the next one in the same direction takes along, on a log scale.
        width: Of `bracket`.
        bar: Mean coherence that counts as coherent.
    """

    strategy: Literal["climb", "bracket"] = "climb"
    steps: Annotated[int, Field(ge=1, le=50)] = 4
    start: Annotated[float, Field(gt=0, le=10)] | None = None
    up_mult: Annotated[float, Field(gt=1, le=10)] = 1.3
    down_mult: Annotated[float, Field(gt=0, lt=1)] = 0.85
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    width: Annotated[int, Field(ge=1, le=32)] = 3
    bar: Annotated[float, Field(ge=0, le=100)] = 75.0

    def first_dose(self, d_model: int) -> float:
        """The relative dose of the first step."""
        return self.start if self.start is not None else START_LARGE if d_model >= LARGE_D_MODEL else START_SMALL
