"""Labelled replies to measure a judge against: a JSONL file, one reply per line.

::

    {"trait": "refusal", "prompt": "...", "reply": "...", "label": 100}

`trait` is a trait with a rubric, or `*` for coherence; `label` is 0 to 100, as the rubric says. `prompt`, `id` and
`note` are optional; without a prompt the judge sees the reply alone.
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from trait_client.judge.rubric import COHERENCE
from trait_core.errors import DatasetError
from trait_core.schema import is_name
from trait_core.text_files import read_entries

Text = Annotated[str, Field(min_length=1, max_length=1_000_000)]


class LabelledReply(BaseModel):
    """One labelled reply.

    Attributes:
        trait: The rated trait; `*` is coherence.
        prompt: The user's message; empty if there is none.
        reply: The assistant's reply.
        label: 0 to 100; above 50 shows the trait, below 50 does not, 50 is neither.
        id: The author's identifier.
        note: Reason for the label; the judge does not see it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    trait: Annotated[str, Field(min_length=1, max_length=64)]
    prompt: Annotated[str, Field(max_length=1_000_000)] = ""
    reply: Text
    label: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
    id: str | None = None
    note: str | None = None


def read_labels(path: Path) -> list[LabelledReply]:
    """Read a file of labelled replies.

    Raises:
        DatasetError: A malformed file, or the same reply twice for a trait; the message names file and line.
    """
    labels: list[LabelledReply] = []
    seen: dict[tuple[str, str, str], int] = {}
    for number, label in read_entries(path, LabelledReply, "write one labelled reply on each line"):
        if label.trait != COHERENCE and not is_name(label.trait):
            raise DatasetError(
                f"{path}:{number}: trait: {label.trait!r} is neither the name of a trait nor '*' for coherence"
            )
        key = (label.trait, label.prompt, label.reply)
        if key in seen:
            raise DatasetError(f"{path}:{number}: the same reply is already labelled on line {seen[key]}")
        seen[key] = number
        labels.append(label)
    return labels
