"""Fingerprints: the place of a text on many traits, and the traits nearest to it.

A fingerprint is the mean projection of a text's tokens on each direction; the view `fingerprints` computes it from what
`run_project` stores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trait_client.http import AsyncTraitClient
from trait_client.prompt_sets.directions import chosen_vectors, directions_of
from trait_client.prompt_sets.progress import ProgressCallback
from trait_client.prompt_sets.project import ProjectOptions, ProjectOutcome, by_reading, run_project
from trait_client.prompt_sets.prompts import SetPrompt
from trait_client.results import ResultStore

_SQL = """
SELECT prompt_id, prompt_set, part, n, vector, trait, layer, separations, projection, cosine
FROM fingerprints
WHERE reading_id IN (SELECT unnest(?::VARCHAR[]))
  AND (sha256, layer) IN (SELECT unnest(?::VARCHAR[]), unnest(?::INTEGER[]))
ORDER BY list_position(?::VARCHAR[], reading_id), part, separations DESC NULLS LAST, vector, layer
"""


@dataclass(frozen=True)
class TraitPlace:
    """The place of one part of a text on one direction.

    Attributes:
        part: `prompt` or `response`.
        n: Tokens in the mean; the first four positions are left out.
        vector: Name of the vector.
        separations: Mean projection minus the centre, over the separation of the vector's two classes: 0.5 is the average
            positive example. None for a vector without a separation.
        projection: Mean projection minus the centre, residual units.
        cosine: Mean cosine of the stream with the direction, uncentred.
    """

    prompt_id: str
    prompt_set: str | None
    part: str
    n: int
    vector: str
    trait: str
    layer: int
    separations: float | None
    projection: float
    cosine: float | None


async def run_fingerprint(
    prompts: Sequence[SetPrompt],
    options: ProjectOptions,
    client: AsyncTraitClient,
    store: ResultStore,
    name: str,
    progress: ProgressCallback | None = None,
) -> tuple[ProjectOutcome, list[TraitPlace]]:
    """Project texts on directions, and return their places, the nearest trait of each part first.

    Args:
        prompts: The texts.
        options: Vectors, layers and length of replies; with `cosine` the cosines are there.
        client: The service.
        store: The database that keeps the projections.
        name: Name of the prompts, for the table `runs`.
        progress: Called after each commit.

    Raises:
        TraitError: As `run_project`.
    """
    outcome = await run_project(prompts, options, client, store, name, progress)
    vectors = await chosen_vectors(client, options.vectors)
    directions = directions_of(vectors.values(), options.layers)
    reading_ids = list(by_reading(prompts, options, await client.info()))
    columns = [[each.sha256 for each in directions], [each.layer for each in directions]]
    with store.reader() as reader:
        rows = reader.rows(_SQL, [reading_ids, *columns, reading_ids])
    return outcome, [TraitPlace(*row) for row in rows]
