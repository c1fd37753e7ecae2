"""From stored readings to rows: effects with verdicts, largest spans, clauses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trait_client.prompt_sets.directions import Direction
from trait_client.results.rows import ReadingRow
from trait_client.results.variant_rows import VariantClauseRow, VariantEffectRow, VariantSpanRow
from trait_client.variants.changes import SINKS, Means, Part, mean_streams
from trait_client.variants.effects import TOLERANCE, effect, random_directions
from trait_client.variants.readings import Pair
from trait_client.variants.sides import Side
from trait_client.variants.spans import clauses, largest_spans
from trait_core.schema import LayerEvidence

Floats = npt.NDArray[np.float64]

N_SPANS = 20
"""Spans that are kept for each direction and text."""
SPAN_TOLERANCE = 10 * TOLERANCE
"""Least mean |difference| of a span, as a share of the layer's residual norm: rounding of single tokens is larger."""


@dataclass(frozen=True)
class Sample:
    """The same range of tokens of one prompt, through both models.

    Attributes:
        start: Position of the first token.
        tokens: Their texts.
        base: Direction -> projection at each token, `(n_tokens,)`, centred, residual units.
        variant: The same of the variant.
    """

    prompt_id: str
    start: int
    tokens: list[str]
    base: Mapping[Direction, Floats]
    variant: Mapping[Direction, Floats]


Projected = Mapping[tuple[str, Direction], list[float]]
"""Reading id and direction -> projections by position."""


def samples_of(pairs: Sequence[Pair], rows: Mapping[str, ReadingRow], projected: Projected, text: str) -> list[Sample]:
    """The samples of a text: `prompt`, or the reply that `text` names; prompts without such tokens are left out.

    A token of a reply has the value of the position before it, which produced it.
    """
    directions = list(dict.fromkeys(direction for _, direction in projected))
    samples = []
    seen: set[str] = set()
    for pair in pairs:
        row = rows[pair.author]
        prompt_id = pair.prompt.prompt_id
        if text == "prompt":
            first, start, stop = SINKS, SINKS, row.n_prompt
        else:
            first, start, stop = row.n_prompt, row.n_prompt - 1, row.n_prompt + row.n_response - 1
        if (text not in {"prompt", pair.text}) or prompt_id in seen or start < 1 or stop <= start:
            continue
        seen.add(prompt_id)
        base, variant = (
            {each: np.array(projected[reading_id, each][start:stop], np.float64) for each in directions}
            for reading_id in (pair.base, pair.variant)
        )
        samples.append(Sample(prompt_id, first, row.tokens[first : first + stop - start], base, variant))
    return samples


def span_rows(
    comparison_id: str, text: str, samples: Sequence[Sample], direction: Direction, evidence: LayerEvidence
) -> list[VariantSpanRow]:
    """The spans of a text on which the models differ most along one direction."""
    base, variant = ([getattr(each, side)[direction] for each in samples] for side in ("base", "variant"))
    differences = [after - before for before, after in zip(base, variant, strict=True)]
    rows = []
    for rank, span in enumerate(largest_spans(differences, N_SPANS, SPAN_TOLERANCE * evidence.residual_norm), start=1):
        sample, within = samples[span.text], slice(span.start, span.stop)
        rows.append(
            VariantSpanRow(
                comparison_id=comparison_id,
                text=text,
                sha256=direction.sha256,
                layer=direction.layer,
                rank=rank,
                prompt_id=sample.prompt_id,
                start=sample.start + span.start,
                stop=sample.start + span.stop,
                words="".join(sample.tokens[within]),
                base=float(base[span.text][within].mean()),
                variant=float(variant[span.text][within].mean()),
                difference=float(differences[span.text][within].mean()),
                size=span.size,
            )
        )
    return rows


def clause_rows(comparison_id: str, text: str, samples: Sequence[Sample]) -> list[VariantClauseRow]:
    """Bounds of the clauses of a text; those of a prompt begin behind the attention sinks."""
    return [
        VariantClauseRow(
            comparison_id,
            sample.prompt_id,
            text,
            number,
            sample.start + start,
            sample.start + stop,
            "".join(sample.tokens[start:stop]),
        )
        for sample in samples
        for number, (start, stop) in enumerate(clauses(sample.tokens, 0, len(sample.tokens)))
    ]


def effect_row(
    comparison_id: str,
    text: str,
    means: tuple[Floats, Floats],
    change: Means,
    direction: Direction,
    evidence: LayerEvidence,
) -> VariantEffectRow:
    """The verdict on one direction.

    Args:
        comparison_id: Id of the comparison.
        text: `prompt`, whose reply both read, or `own`.
        means: Mean projection of each prompt, `(n_prompts,)`, by the base and by the variant.
        change: Mean residual stream of the direction's layer, variant minus base, `(n_prompts, d_model)`.
        direction: Vector and layer.
        evidence: Evidence of the vector file on the layer.
    """
    found = effect(
        *means, change.astype(np.float64), random_directions(change.shape[1], direction.layer), evidence.residual_norm
    )
    low, high = found.shift.interval or (None, None)
    dz_low, dz_high = found.shift.dz_interval or (None, None)
    return VariantEffectRow(
        comparison_id=comparison_id,
        text=text,
        sha256=direction.sha256,
        layer=direction.layer,
        n=found.shift.n,
        base=found.base,
        variant=found.variant,
        difference=found.shift.mean,
        low=low,
        high=high,
        separations=found.shift.mean / evidence.separation if evidence.separation else None,
        dz=found.shift.dz,
        dz_low=dz_low,
        dz_high=dz_high,
        random_dz=found.random_dz,
        beyond_random=found.beyond,
        verdict=found.verdict,
    )


class Streams:
    """Mean residual streams of both models over the texts of a comparison, read on first use.

    Args:
        sides: Base and variant.
        pairs: The texts.
        rows: Their authors' readings.
        layers: Layers that are read.
    """

    def __init__(
        self, sides: tuple[Side, Side], pairs: Sequence[Pair], rows: Mapping[str, ReadingRow], layers: Sequence[int]
    ) -> None:
        self._sides = sides
        self._pairs = pairs
        self._rows = rows
        self._layers = list(layers)
        self._read: dict[str, tuple[dict[str, Means], dict[str, Means]]] = {}

    async def change(self, text: str, prompt_ids: Sequence[str], layer: int) -> Means:
        """Variant minus base, `(n_prompts, d_model)` float32; `own` takes each model's own reply.

        Raises:
            ServiceError: A service refuses the tokens.
        """
        if text == "own":
            before, after = (await self._of("base"))[0], (await self._of("variant"))[1]
        else:
            before, after = await self._of(text)
        at = self._layers.index(layer)
        return np.stack([after[each][at] - before[each][at] for each in prompt_ids])

    async def _of(self, text: str) -> tuple[dict[str, Means], dict[str, Means]]:
        if text not in self._read:
            part = Part.prompt if text == "prompt" else Part.response
            rows = {p.prompt.prompt_id: self._rows[p.author] for p in self._pairs if text in {"prompt", p.text}}
            parts = {prompt_id: found for prompt_id, row in rows.items() if (found := part(row)) is not None}
            base, variant = self._sides
            self._read[text] = (
                await mean_streams(base, parts, self._layers),
                await mean_streams(variant, parts, self._layers),
            )
        return self._read[text]
