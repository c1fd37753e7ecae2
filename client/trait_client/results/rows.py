"""Rows of the result tables, column for column."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal

CellKind = Literal["baseline", "steered", "control"]
ScoreName = Literal["lexical", "coherence", "relevance", "perplexity", "distinct3"]
RunStatus = Literal["running", "ok", "partial", "interrupted"]

ANY_TRAIT = "*"
"""`ScoreRow.trait` of a score that no trait defines."""


@dataclass(frozen=True)
class PromptRow:
    """A prompt's text, stored once."""

    table: ClassVar = "prompts"
    prompt_id: str
    text: str


@dataclass(frozen=True)
class VectorRow:
    """A vector file that a cell used; `metadata` is JSON."""

    table: ClassVar = "vectors"
    sha256: str
    name: str
    trait: str
    method: str
    model: str
    config_digest: str
    chosen_layer: int
    metadata: str


@dataclass(frozen=True)
class CellRow:
    """One configuration; `versions` is JSON."""

    table: ClassVar = "cells"
    cell_id: str
    setting_id: str
    baseline_id: str
    control_of: str | None
    kind: CellKind
    trait: str | None
    trait_sign: int | None
    trait_sha256: str | None
    sha256: str | None
    method: str | None
    layer: int | None
    coefficient: float | None
    unit: str | None
    operation: str | None
    scope: str | None
    preserve_norm: bool | None
    precision: str
    adapter: str
    seed: int
    system: str | None
    max_tokens: int
    temperature: float
    top_p: float
    model: str
    config_digest: str
    chat_template_digest: str | None
    dtype: str
    quantization: str | None
    versions: str


@dataclass(frozen=True)
class TrialRow:
    """One cell on one prompt; `steering` is the service's report as JSON."""

    table: ClassVar = "trials"
    trial_id: str
    cell_id: str
    prompt_id: str
    run_id: str
    status: Literal["done", "failed"]
    text: str | None
    finish_reason: str | None
    n_prompt: int | None
    n_generated: int | None
    steering: str | None
    seconds: float
    error: str | None
    finished_at: datetime


@dataclass(frozen=True)
class ScoreRow:
    """One score of a trial; None is a score that the reply does not have."""

    table: ClassVar = "scores"
    trial_id: str
    trait: str
    name: ScoreName
    value: float | None
    definition: str
    mode: str = "computed"


@dataclass(frozen=True)
class ProjectionRow:
    """Mean projection of a reply read back unsteered, minus the file's centre, residual units."""

    table: ClassVar = "projections"
    trial_id: str
    sha256: str
    layer: int
    positions: str
    value: float | None


Row = PromptRow | VectorRow | CellRow | TrialRow | ScoreRow | ProjectionRow

ROW_TYPES: tuple[type[Row], ...] = (PromptRow, VectorRow, CellRow, TrialRow, ScoreRow, ProjectionRow)
"""In the order in which tables refer to one another."""
