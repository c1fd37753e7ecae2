"""Rows of the tables of activation patching; the fields are the columns, in their order."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar


@dataclass(frozen=True)
class PatchingRow:
    """Two prompts, one of which is run with streams of the other; `source` and `target` are JSON, as they were sent."""

    table: ClassVar = "patchings"
    patching_id: str
    run_id: str
    name: str
    source: str
    target: str
    source_tokens: list[str]
    target_tokens: list[str]
    source_left_out: list[int]
    target_left_out: list[int]
    answer_tokens: list[str]
    source_difference: float
    target_difference: float
    model: str
    config_digest: str
    weights_digest: str | None
    dtype: str
    n_layers: int
    patched_at: datetime


@dataclass(frozen=True)
class PatchRow:
    """One cell of a patching; `position` is the first of its `n` positions."""

    table: ClassVar = "patches"
    patching_id: str
    hook_point: str
    layer: int
    part: str
    position: int
    n: int
    positions: list[int]
    source_positions: list[int]
    source_answer: float
    target_answer: float
    difference: float
    restored: float | None
