"""Dates and digests of what a study measures with: `datasets/frozen.json`.

::

    {"refusal": {"questions": {"date": "2026-11-23", "sha256": "..."}, "metric": {...}, "metric_check": {...}}}

A study on a trait holds for its questions and its metric as they were when it ran. Each entry says since when they are as they
are now: results that are older were made with others.
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from trait_client.scoring.metric_check import METRIC_CHECK, read_check
from trait_core.errors import DatasetError, first_fault
from trait_core.storage import json_sha256
from trait_core.text_files import parse_json, read_text
from trait_core.traits.files import STEERING, read_steering
from trait_core.traits.folder import find_trait

Part = Literal["questions", "metric", "metric_check"]
MEANING: dict[Part, str] = {
    "questions": "the evaluation questions",
    "metric": "the metric with its patterns, and its direction",
    "metric_check": "the replies that check the metric",
}


class FrozenPart(BaseModel):
    """One part of a trait's evaluation.

    Attributes:
        date: Day since when it has been as it is.
        sha256: Digest of its JSON value (`trait_core.storage.json_sha256`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    date: dt.date
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Frozen = Mapping[str, Mapping[Part, FrozenPart]]
"""Trait -> part -> date and digest."""

_FROZEN: TypeAdapter[dict[str, dict[Part, FrozenPart]]] = TypeAdapter(dict[str, dict[Part, FrozenPart]])


def read_frozen(path: Path) -> Frozen:
    """Read the file of dates and digests.

    Raises:
        DatasetError: It is missing or malformed; the message names the field.
    """
    value = parse_json(read_text(path, "write {} and let the test tell the digests"), str(path))
    try:
        return _FROZEN.validate_json(json.dumps(value))
    except ValidationError as error:
        raise DatasetError(f"{path}: {first_fault(error, whole='the file').with_value()}") from error


def digests(folder: Path) -> dict[Part, str]:
    """Digests of the parts that a trait has now.

    Args:
        folder: The trait's folder.

    Raises:
        DatasetError: `steering.json` or `metric_check.jsonl` is malformed.
    """
    spec = read_steering(folder)
    found: dict[Part, str] = {"questions": json_sha256(spec.questions)}
    if spec.metric is not None:
        found["metric"] = json_sha256({"metric": spec.metric, "direction": spec.direction})
    if (folder / METRIC_CHECK).is_file():
        found["metric_check"] = json_sha256([reply.model_dump() for reply in read_check(folder / METRIC_CHECK)])
    return found


def changes(datasets: Path, frozen: Frozen, traits: Sequence[str]) -> list[str]:
    """Compare traits with their dates and digests.

    Args:
        datasets: Folder of `<category>/<trait>`.
        frozen: The dates and digests.
        traits: Names of traits.

    Returns:
        One sentence for each part that is new, changed or gone, or whose metric is younger than its check; it says what to do.
    """
    sentences = []
    for trait in traits:
        now, then = digests(find_trait(datasets, trait, holding=STEERING)), frozen.get(trait, {})
        for part, meaning in MEANING.items():
            sha256, entry = now.get(part), then.get(part)
            if sha256 is None and entry is not None:
                sentences.append(f"{trait}: {part}: {meaning} are gone: remove the entry from frozen.json")
            elif sha256 is not None and (entry is None or entry.sha256 != sha256):
                sentences.append(
                    f"{trait}: {part}: frozen.json does not hold this version of {meaning}: write today's date with sha256 "
                    f"{sha256}; studies made before that date do not hold for it"
                )
        metric, check = then.get("metric"), then.get("metric_check")
        if metric is not None and check is not None and metric.date > check.date:
            sentences.append(
                f"{trait}: the metric of {metric.date} is younger than the replies of {check.date} that check it: write new "
                "replies, since the metric may have been fitted to these"
            )
    return sentences
