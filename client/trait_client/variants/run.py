"""`run_comparison`: compare two models on a prompt set, into DuckDB.

Both models read the same token ids: the base's replies, the variant's, or those of the prompt set. Where both write
replies, each model's own reply is compared with the other's as well, prompt by prompt.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trait_client.http.template_check import check_template
from trait_client.prompt_sets.directions import Direction, chosen_vectors, demand_one_request, directions_of
from trait_client.prompt_sets.prompts import SetPrompt, demand_chats, digest_of
from trait_client.results import ResultStore, ResultWriter
from trait_client.results.rows import Row, VectorRow, utc_now
from trait_client.results.runs import OutcomeStatus, recorded_run
from trait_client.results.variant_rows import VariantComparisonRow, VariantEffectRow, VariantTextRow
from trait_client.variants.analysis import Sample, Streams, clause_rows, effect_row, samples_of, span_rows
from trait_client.variants.readings import Pair, Progress, Readings, Text, pairs_of
from trait_client.variants.sides import Side, demand_comparable, with_vectors
from trait_core.chat_templates import kwargs_text
from trait_core.errors import InvalidRequestError
from trait_core.model_identity import digest
from trait_core.schema import LayerEvidence, VectorInfo
from trait_core.vectors.hook_points import require_stream

Responses = Literal["base", "variant", "both", "given"]


@dataclass(frozen=True)
class CompareOptions:
    """Vectors, replies and length of a comparison.

    Attributes:
        vectors: Names, patterns of names, or `sha256:...`, at the base's service.
        layers: 0-based decoder blocks; None uses each vector file's recommended layer.
        responses: Whose replies both models read; `both` is the base's, the variant's, and each model's own. None is `given`
            if every prompt has a response, and `both` if none has.
        max_tokens: Maximum tokens of a generated reply; greedy.
        chat_template_kwargs: Variables of the chat template.
    """

    vectors: list[str]
    layers: list[int] | None = None
    responses: Responses | None = None
    max_tokens: int = 64
    chat_template_kwargs: dict[str, Any] | None = None

    def texts(self, prompts: Sequence[SetPrompt]) -> list[Text]:
        """The texts that both models read.

        Raises:
            InvalidRequestError: No choice was made, and some prompts have a response and others do not.
        """
        if self.responses is not None:
            return ["base", "variant"] if self.responses == "both" else [self.responses]
        n_given = sum(prompt.response is not None for prompt in prompts)
        if n_given in {0, len(prompts)}:
            return ["given"] if n_given else ["base", "variant"]
        raise InvalidRequestError(
            f"{n_given} of {len(prompts)} prompts have a response: choose with responses_from given (prompts without one are "
            "read alone), or base, variant, both (responses of the set are not read)",
            param="responses_from",
        )


@dataclass(frozen=True)
class ComparisonOutcome:
    """Outcome of a comparison.

    Attributes:
        run_id: Its row in the table `runs`.
        comparison_id: Its rows in the tables `variant_...`.
        status: `partial` if readings failed; the next run tries them again.
        n_texts: Texts that both models should read: prompts times texts.
        n_compared: Those that both have read.
        n_read: Readings that this run took; the others were found in the database.
        n_failed: Readings that failed.
        tokens: Tokens projected in this run.
        seconds: Duration of this run.
        errors: Distinct messages, most frequent first, with their counts.
    """

    run_id: str
    comparison_id: str
    status: OutcomeStatus
    n_texts: int
    n_compared: int
    n_read: int
    n_failed: int
    tokens: int
    seconds: float
    errors: tuple[tuple[str, int], ...]

    @property
    def line(self) -> str:
        """Status and counts in one line."""
        failed = f", {self.n_failed} readings failed" if self.n_failed else ""
        return (
            f"{self.status}: {self.n_compared} of {self.n_texts} texts read by both models, {self.n_read} readings taken "
            f"now{failed} ({self.seconds:.1f} s)"
        )


async def run_comparison(
    prompts: Sequence[SetPrompt],
    options: CompareOptions,
    base: Side,
    variant: Side,
    store: ResultStore,
    name: str,
    progress: Progress | None = None,
) -> ComparisonOutcome:
    """Compare two models on a prompt set; what the database holds is not read again.

    Args:
        prompts: The prompt set.
        options: Vectors, layers, replies.
        base: The first model; its service renders and tokenises the prompts for both.
        variant: The second.
        store: The database; it is held for writing until the run is over.
        name: Name of the prompt set.
        progress: Called after each commit.

    Raises:
        InvalidRequestError: The models cannot be compared, a vector lacks a layer, or there are too many directions.
        ChatTemplateError: The base has no chat template, or the template refuses chats of the set.
        UnknownVectorError: A vector is not registered.
        ServiceError: A service does not answer, or refuses a vector.
        ResultsError: Another process writes the database.
    """
    began = time.monotonic()
    texts = options.texts(prompts)
    vectors = await chosen_vectors(base.client, options.vectors)
    for vector in vectors.values():
        require_stream(vector.name, vector.metadata, "a comparison of models")
    directions = directions_of(vectors.values(), options.layers)
    demand_one_request(directions)
    demand_chats(prompts, options.chat_template_kwargs)
    chats = [prompt.messages for prompt in prompts if prompt.messages is not None]
    await check_template(base.client, base.info, chats, options.chat_template_kwargs)
    await demand_comparable(base, variant, prompts)
    sides = (
        await with_vectors(base, base, list(vectors.values())),
        await with_vectors(variant, base, list(vectors.values())),
    )
    pairs = pairs_of(prompts, texts, base, variant, options.max_tokens, options.chat_template_kwargs)
    definition = dataclasses.asdict(options) | {"command": "compare-variants", "prompts": digest_of(prompts)}
    definition |= {"base": base.label, "variant": variant.label}
    with store.writer() as writer:
        writer.write([VectorRow.of(vector.name, vector.sha256, vector.metadata) for vector in vectors.values()])
        with recorded_run(
            writer, f"{name}: {variant.label} against {base.label}", json.dumps(definition), 2 * len(pairs)
        ) as run:
            writer.publish_snapshot()
            readings = Readings(
                sides,
                pairs,
                directions,
                writer,
                run.run_id,
                layers=options.layers,
                max_tokens=options.max_tokens,
                chat_template_kwargs=options.chat_template_kwargs,
                progress=progress,
            )
            await readings.complete()
            comparison = _comparison_row(prompts, options, base, variant, run.run_id, name)
            whole = readings.whole()
            writer.write([comparison, *_text_rows(comparison.comparison_id, whole)])
            measuring = _Measuring(sides, whole, readings, writer, comparison.comparison_id, vectors, directions)
            await measuring.store(texts, anew=readings.n_read > 0)
            run.outcome = outcome = ComparisonOutcome(
                run_id=run.run_id,
                comparison_id=comparison.comparison_id,
                status="ok" if len(whole) == len(pairs) else "partial",
                n_texts=len(pairs),
                n_compared=len(whole),
                n_read=readings.n_read,
                n_failed=readings.failures.total(),
                tokens=readings.tokens,
                seconds=time.monotonic() - began,
                errors=tuple(readings.failures.most_common()),
            )
    return outcome


def _comparison_row(
    prompts: Sequence[SetPrompt], options: CompareOptions, base: Side, variant: Side, run_id: str, name: str
) -> VariantComparisonRow:
    variables = kwargs_text(options.chat_template_kwargs)
    identity = [digest_of(prompts), base.identity, variant.identity, options.max_tokens, variables]
    return VariantComparisonRow(
        comparison_id=digest(identity),
        run_id=run_id,
        name=name,
        base_model=base.label,
        variant_model=variant.label,
        base_identity=json.dumps(base.identity),
        variant_identity=json.dumps(variant.identity),
        max_tokens=options.max_tokens,
        compared_at=utc_now(),
    )


def _text_rows(comparison_id: str, pairs: Sequence[Pair]) -> list[Row]:
    return [VariantTextRow(comparison_id, pair.prompt.prompt_id, pair.text, pair.base, pair.variant) for pair in pairs]


class _Measuring:
    """Effects, spans and clauses of a comparison's readings."""

    def __init__(
        self,
        sides: tuple[Side, Side],
        pairs: Sequence[Pair],
        readings: Readings,
        writer: ResultWriter,
        comparison_id: str,
        vectors: dict[str, VectorInfo],
        directions: Sequence[Direction],
    ) -> None:
        self._pairs = pairs
        self._rows = readings.rows
        self._writer = writer
        self._id = comparison_id
        self._vectors = vectors
        self._directions = directions
        self._streams = Streams(sides, pairs, readings.rows, sorted({direction.layer for direction in directions}))

    async def store(self, texts: Sequence[Text], *, anew: bool) -> None:
        """Measure and store, in place of what an earlier run stored; without new readings only what is missing."""
        if not self._pairs or not (anew or self._lacks(texts)):
            return
        projected = self._projected()
        rows: list[Row] = []
        samples: dict[str, list[Sample]] = {}
        for text in ("prompt", *texts):
            samples[text] = samples_of(self._pairs, self._rows, projected, text)
            rows += clause_rows(self._id, text, samples[text])
            for direction in self._directions if samples[text] else ():
                rows += span_rows(self._id, text, samples[text], direction, self._evidence(direction))
                rows.append(await self._effect(text, samples[text], samples[text], direction))
        if {"base", "variant"} <= samples.keys():
            own = [_by_prompt(samples[text]) for text in ("base", "variant")]
            common = [prompt_id for prompt_id in own[0] if prompt_id in own[1]]
            first, second = ([side[prompt_id] for prompt_id in common] for side in own)
            rows += [await self._effect("own", first, second, direction) for direction in self._directions if common]
        self._writer.clear_comparison(self._id, ["own", *samples], self._directions)
        self._writer.write(rows)

    async def _effect(
        self, text: str, base: Sequence[Sample], variant: Sequence[Sample], direction: Direction
    ) -> VariantEffectRow:
        means = (
            np.array([each.base[direction].mean() for each in base]),
            np.array([each.variant[direction].mean() for each in variant]),
        )
        change = await self._streams.change(text, [each.prompt_id for each in base], direction.layer)
        return effect_row(self._id, text, means, change, direction, self._evidence(direction))

    def _evidence(self, direction: Direction) -> LayerEvidence:
        return self._vectors[direction.sha256].metadata.layers[direction.layer]

    def _lacks(self, texts: Sequence[Text]) -> bool:
        sql = "SELECT text, sha256, layer FROM variant_effects WHERE comparison_id = ?"
        stored = set(self._writer.query(sql, [self._id]))
        wanted = [*texts, *(["own"] if {"base", "variant"} <= set(texts) else [])]
        return any((text, each.sha256, each.layer) not in stored for text in wanted for each in self._directions)

    def _projected(self) -> dict[tuple[str, Direction], list[float]]:
        ids = [reading_id for pair in self._pairs for reading_id in (pair.base, pair.variant)]
        sql = (
            "SELECT reading_id, sha256, layer, projected FROM reading_projections "
            "WHERE reading_id IN (SELECT unnest(?::VARCHAR[]))"
        )
        wanted = set(self._directions)
        return {
            (reading_id, direction): values
            for reading_id, sha256, layer, values in self._writer.query(sql, [ids])
            if (direction := Direction(sha256, layer)) in wanted
        }


def _by_prompt(samples: Sequence[Sample]) -> dict[str, Sample]:
    return {sample.prompt_id: sample for sample in samples}
