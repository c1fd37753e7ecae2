"""Settings of a coefficient search."""

from typing import Annotated, Literal

from pydantic import Field

from trait_client.sweeps.experiment.section import Section

LARGE_D_MODEL = 2048
"""Width from which models tolerate large doses: about 1B parameters."""

START_LARGE, START_SMALL = 0.7, 0.2


class SearchSettings(Section):
    """Strategy and limits of a coefficient search.

    Attributes:
        strategy: `climb` tries one coefficient in each step on each layer of each trait: up while the replies are coherent,
            down while they are not. `bracket` tries `width` coefficients in each step between the largest coherent and the
            smallest incoherent one: fewer steps of the engine, with more trials each.
        steps: Number of batches, one after another; each holds all layers and traits.
        start: First relative dose (coefficient / 10 in unit `dose`); None is 0.7 for a model of width 2048 or more,
            otherwise 0.2.
        up_mult: Factor while the replies are coherent.
        down_mult: Factor while they are not.
        momentum: Share of the last step's factor that is added to the next one in the same direction, on a log scale.
        width: Coefficients in each step of `bracket`.
        bar: Mean coherence that counts as coherent, 0 to 100; not asked for where `max_kl` is.
        max_kl: Largest KL to the unsteered model on neutral passages, nats a token, in place of coherence: where the texts above say
            coherent, it is a KL of at most this. The experiment says on which passages (`damage`).
    """

    strategy: Literal["climb", "bracket"] = "climb"
    steps: Annotated[int, Field(ge=1, le=50)] = 4
    start: Annotated[float, Field(gt=0, le=10)] | None = None
    up_mult: Annotated[float, Field(gt=1, le=10)] = 1.3
    down_mult: Annotated[float, Field(gt=0, lt=1)] = 0.85
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    width: Annotated[int, Field(ge=1, le=32)] = 3
    bar: Annotated[float, Field(ge=0, le=100)] = 75.0
    max_kl: Annotated[float, Field(gt=0, le=100)] | None = None

    def first_dose(self, d_model: int) -> float:
        """Relative dose of the first step."""
        return self.start if self.start is not None else START_LARGE if d_model >= LARGE_D_MODEL else START_SMALL
