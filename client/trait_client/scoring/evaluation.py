"""How a trait is evaluated: its held-out questions and its metric, from `<datasets>/<category>/<trait>/steering.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trait_client.scoring.lexical import Metric, parse_metric
from trait_core.errors import DatasetError, InvalidRequestError, first_fault

FILE_NAME = "steering.json"


class _EvaluationFile(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    questions: Annotated[list[Annotated[str, Field(min_length=1, max_length=100_000)]], Field(min_length=1)]
    direction: Literal["positive", "negative"] = "positive"
    metric: dict[str, object] | None = None


@dataclass(frozen=True)
class TraitEvaluation:
    """A trait's questions and metric.

    Args:
        trait: The trait's name.
        questions: Prompts that extraction never sees, in the file's order.
        sign: +1 where more of the trait raises the metric, -1 where it lowers it.
        metric: The trait's lexical metric; None where it has none, and projections are all there is.
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
        found = sorted(datasets.glob(f"*/{trait}/{FILE_NAME}"))
        if len(found) != 1:
            state = f"several: {', '.join(map(str, found))}" if found else "none"
            raise DatasetError(f"trait {trait!r} needs one file {datasets}/*/{trait}/{FILE_NAME}; found {state}")
        return cls._read(found[0], trait)

    @classmethod
    def _read(cls, path: Path, trait: str) -> Self:
        try:
            file = _EvaluationFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
            metric = None if file.metric is None else parse_metric(file.metric)
        except ValidationError as error:
            raise DatasetError(f"{path}: {first_fault(error, whole='the file').with_value()}") from error
        except (ValueError, InvalidRequestError) as error:
            raise DatasetError(f"{path}: {error}") from error
        if doubled := sorted({q for q in file.questions if file.questions.count(q) > 1}):
            raise DatasetError(f"{path}: questions hold {doubled[0]!r} more than once")
        return cls(trait, tuple(file.questions), 1 if file.direction == "positive" else -1, metric)
