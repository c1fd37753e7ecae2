"""The evaluation of a trait: its held-out questions and its metric, from `<datasets>/<category>/<trait>/steering.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from trait_client.scoring.lexical import Metric, parse_metric
from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.traits.files import STEERING, read_steering
from trait_core.traits.folder import find_trait


@dataclass(frozen=True)
class EvaluationSpec:
    """A trait's questions and metric.

    Args:
        trait: The trait's name.
        questions: Prompts that extraction never sees, in the file's order.
        sign: +1 where more of the trait raises the metric, -1 where it lowers it.
        metric: The trait's lexical metric; None if it has none, and only projections measure it.
    """

    trait: str
    questions: tuple[str, ...]
    sign: Literal[1, -1]
    metric: Metric | None

    @classmethod
    def load(cls, datasets: Path, trait: str) -> Self:
        """Find the trait under `datasets/*/<trait>/` and read its evaluation.

        Raises:
            DatasetError: No such trait, several of that name, or a malformed file.
        """
        folder = find_trait(datasets, trait, holding=STEERING)
        spec = read_steering(folder)
        try:
            metric = None if spec.metric is None else parse_metric(spec.metric)
        except InvalidRequestError as error:
            raise DatasetError(f"{folder / STEERING}: {error}") from error
        return cls(trait, tuple(spec.questions), 1 if spec.trait_side == "positive" else -1, metric)
