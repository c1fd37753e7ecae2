"""Rows of the tables that compare two models; the fields are the columns, in their order."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar


@dataclass(frozen=True)
class VariantComparisonRow:
    """Two models that are compared on a prompt set; the identities are JSON."""

    table: ClassVar = "variant_comparisons"
    comparison_id: str
    run_id: str
    name: str
    base_model: str
    variant_model: str
    base_identity: str
    variant_identity: str
    max_tokens: int | None
    compared_at: datetime


@dataclass(frozen=True)
class VariantTextRow:
    """The same tokens, read by both models; `text` says whose reply they end with: `base`, `variant` or `given`."""

    table: ClassVar = "variant_texts"
    comparison_id: str
    prompt_id: str
    text: str
    base_reading_id: str
    variant_reading_id: str


@dataclass(frozen=True)
class VariantClauseRow:
    """Bounds of one clause, `[start, stop)` in tokens; `text` is `prompt`, or as in `VariantTextRow`."""

    table: ClassVar = "variant_clause_bounds"
    comparison_id: str
    prompt_id: str
    text: str
    clause: int
    start: int
    stop: int
    words: str


@dataclass(frozen=True)
class VariantEffectRow:
    """Variant minus base along one direction, paired by prompt; `text` as in the table's comment."""

    table: ClassVar = "variant_effects"
    comparison_id: str
    text: str
    sha256: str
    layer: int
    n: int
    base: float
    variant: float
    difference: float
    low: float | None
    high: float | None
    separations: float | None
    dz: float | None
    dz_low: float | None
    dz_high: float | None
    random_dz: float | None
    beyond_random: float | None
    verdict: str


@dataclass(frozen=True)
class VariantSpanRow:
    """Tokens `[start, stop)` of one prompt on which two models differ most along one direction."""

    table: ClassVar = "variant_spans"
    comparison_id: str
    text: str
    sha256: str
    layer: int
    rank: int
    prompt_id: str
    start: int
    stop: int
    words: str
    base: float
    variant: float
    difference: float
    size: float
