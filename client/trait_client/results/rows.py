"""Rows of the result tables; the fields are the columns, in their order."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Literal, NamedTuple, Self

from trait_client.results.damage_rows import DamageRow
from trait_client.results.patch_rows import PatchingRow, PatchRow
from trait_client.results.variant_rows import (
    VariantClauseRow,
    VariantComparisonRow,
    VariantEffectRow,
    VariantSpanRow,
    VariantTextRow,
)
from trait_core.schema import NO_ADAPTER, VectorMetadata

CellKind = Literal["baseline", "steered", "control"]
ScoreName = Literal["lexical", "coherence", "relevance", "perplexity", "distinct3", "judge", "judge_coherence"]
RunStatus = Literal["running", "ok", "partial", "interrupted"]

PENDING = "pending"
"""`ScoreRow.mode` of a score that the judge failed to give: its value is None, and it is tried again."""


def utc_now() -> datetime:
    """The current time as the tables hold it: UTC, without a zone (DuckDB's zoned type would need pytz)."""
    return datetime.now(UTC).replace(tzinfo=None)


@dataclass(frozen=True)
class PromptRow:
    """A prompt's text, stored once."""

    table: ClassVar = "prompts"
    prompt_id: str
    text: str


@dataclass(frozen=True)
class VectorRow:
    """A vector file that was extracted or that a cell used; `metadata` is JSON."""

    table: ClassVar = "vectors"
    sha256: str
    name: str
    trait: str
    method: str
    model: str
    config_digest: str
    chosen_layer: int
    metadata: str

    @classmethod
    def of(cls, name: str, sha256: str, metadata: VectorMetadata) -> Self:
        """The row of a vector file."""
        return cls(
            sha256=sha256,
            name=name,
            trait=metadata.trait,
            method=metadata.method,
            model=metadata.model,
            config_digest=metadata.config_digest,
            chosen_layer=metadata.chosen_layer,
            metadata=metadata.model_dump_json(),
        )


@dataclass(frozen=True)
class CosineRow:
    """Cosine of two vectors' directions on one layer; `sha256` is the smaller hash."""

    table: ClassVar = "cosines"
    sha256: str
    other_sha256: str
    layer: int
    cosine: float


@dataclass(frozen=True)
class CellRow:
    """One configuration; `versions`, `weights` and `chat_template_kwargs` are JSON."""

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
    layers: list[int] | None = None
    read_layer: int | None = None
    checkpoint_digest: str | None = None
    adapter_digest: str | None = None
    weights: str | None = None
    raw: bool = False
    chat_template_kwargs: str | None = None
    hook_point: str | None = None
    gate: str | None = None
    gate_sha256: str | None = None


@dataclass(frozen=True)
class TrialRow:
    """One cell on one prompt; `steering` is the service's report as JSON.

    `text` is the answer, which scores and judges read; the reasoning before it, if the reply has any, is in `reasoning`.
    `acted_prompt` and `acted_generated` count the positions at which the term acted; None where nothing was counted.
    """

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
    reasoning: str | None = None
    acted_prompt: int | None = None
    acted_generated: int | None = None


@dataclass(frozen=True)
class ScoreRow:
    """One score of a trial; its value is None if the reply does not have it, or if it is pending.

    `mode` is `computed`; for a judge's score `logprobs` or `sampled`, or `pending` with the reason in `error`. `reader` is
    the adapter that read the reply back, `none` for the base model, None if no model read it.
    """

    table: ClassVar = "scores"
    trial_id: str
    trait: str
    name: ScoreName
    value: float | None
    definition: str
    mode: str = "computed"
    error: str | None = None
    reader: str | None = None


@dataclass(frozen=True)
class ProjectionRow:
    """Mean projection of a reply read back unsteered by `reader` (`none`: the base model), minus the file's centre."""

    table: ClassVar = "projections"
    trial_id: str
    sha256: str
    layer: int
    positions: str
    value: float | None
    reader: str = NO_ADAPTER


@dataclass(frozen=True)
class JudgeRow:
    """A judge with a rubric; `asking` is JSON."""

    table: ClassVar = "judges"
    definition: str
    model: str
    trait: str
    rubric: str
    asking: str


@dataclass(frozen=True)
class JudgementRow:
    """One answer of a judge, stored by content."""

    table: ClassVar = "judgements"
    judgement_id: str
    definition: str
    value: float
    mode: str
    mass: float | None
    answer: str
    prompt_tokens: int | None
    completion_tokens: int | None
    judged_at: datetime


@dataclass(frozen=True)
class RunCellRow:
    """A cell that a run asked for, whichever run generated its replies."""

    table: ClassVar = "run_cells"
    run_id: str
    cell_id: str


@dataclass(frozen=True)
class RunJudgeRow:
    """A judge that a run asked for."""

    table: ClassVar = "run_judges"
    run_id: str
    definition: str


@dataclass(frozen=True)
class AgreementRow:
    """Agreement of a judge with given labels of one trait."""

    table: ClassVar = "judge_agreement"
    definition: str
    labels: str
    n_labels: int
    n: int
    n_high: int
    n_low: int
    spearman: float | None
    spearman_low: float | None
    spearman_high: float | None
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    logprobs: int
    measured_at: datetime


@dataclass(frozen=True)
class SearchRow:
    """The best coherent setting that a coefficient search found for a vector."""

    table: ClassVar = "searches"
    run_id: str
    trait: str
    trait_sha256: str
    setting_id: str
    layer: int
    coefficient: float
    unit: str
    measure: str
    n: int
    baseline: float
    steered: float
    delta: float
    ci_low: float | None
    ci_high: float | None
    coherence: float
    bar: float
    n_trials: int
    verdict: str
    found_at: datetime
    kl: float | None = None
    max_kl: float | None = None


@dataclass(frozen=True)
class ReadingRow:
    """One prompt of a prompt set with its reply, token by token; `messages` and `metadata` are JSON, None for none."""

    table: ClassVar = "readings"
    reading_id: str
    run_id: str
    prompt_id: str
    outcome: str | None
    messages: str | None
    text: str | None
    response: str | None
    given: bool
    max_tokens: int | None
    finish_reason: str | None
    n_prompt: int
    n_response: int
    token_ids: list[int]
    tokens: list[str]
    model: str
    config_digest: str
    finished_at: datetime
    chat_template_kwargs: str | None = None
    prompt_set: str | None = None
    metadata: str | None = None
    adapter: str | None = None
    weights_digest: str | None = None
    read_for: str | None = None


class ReadingLabels(NamedTuple):
    """Labels of a reading, which a later run of its prompt set updates; `metadata` is JSON."""

    outcome: str | None
    prompt_set: str | None
    metadata: str | None


@dataclass(frozen=True)
class ReadingProjectionRow:
    """Projections of a reading's positions on one direction, minus `centre`, residual units; their cosines if asked for."""

    table: ClassVar = "reading_projections"
    reading_id: str
    sha256: str
    layer: int
    centre: float
    projected: list[float]
    cosines: list[float] | None = None


Row = (
    PromptRow
    | VectorRow
    | CosineRow
    | CellRow
    | TrialRow
    | ScoreRow
    | ProjectionRow
    | JudgeRow
    | JudgementRow
    | RunCellRow
    | RunJudgeRow
    | AgreementRow
    | SearchRow
    | DamageRow
    | PatchingRow
    | PatchRow
    | ReadingRow
    | ReadingProjectionRow
    | VariantComparisonRow
    | VariantTextRow
    | VariantClauseRow
    | VariantEffectRow
    | VariantSpanRow
)

ROW_TYPES: tuple[type[Row], ...] = (
    PromptRow,
    VectorRow,
    CosineRow,
    CellRow,
    TrialRow,
    ScoreRow,
    ProjectionRow,
    JudgeRow,
    JudgementRow,
    RunCellRow,
    RunJudgeRow,
    AgreementRow,
    SearchRow,
    DamageRow,
    ReadingRow,
    ReadingProjectionRow,
    VariantComparisonRow,
    VariantTextRow,
    VariantClauseRow,
    VariantEffectRow,
    VariantSpanRow,
    PatchingRow,
    PatchRow,
)
"""Row types; a table comes after those that it refers to."""
