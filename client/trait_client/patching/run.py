"""`run_patch`: patch one prompt with another, into DuckDB.

The cells travel in several requests, a few layers each, all at once: the service batches them, and what has arrived is stored.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from trait_client.http import AsyncTraitClient
from trait_client.results import ResultStore
from trait_client.results.patch_rows import PatchingRow, PatchRow
from trait_client.results.rows import Row, utc_now
from trait_client.results.runs import OutcomeStatus, recorded_run
from trait_core.model_identity import ANSWERING_FIELDS, digest
from trait_core.schema import PatchPrompt, PatchReport, PatchRequest, ServiceInfo

LAYERS_AT_ONCE = 4
"""Layers of one request."""

Progress = Callable[[int, int], None]
"""Called with the layers that are stored, and with all of them."""


@dataclass(frozen=True)
class PatchOutcome:
    """Outcome of a patching; a run that ends has all of its cells.

    Attributes:
        run_id: Its row in the table `runs`.
        patching_id: Its row in the table `patchings`.
        status: Always `ok`: a request that fails ends the run.
        n_cells: Cells that were run.
        seconds: Duration of this run.
        errors: None.
    """

    run_id: str
    patching_id: str
    status: OutcomeStatus
    n_cells: int
    seconds: float
    errors: tuple[tuple[str, int], ...] = ()

    @property
    def line(self) -> str:
        """Status and counts in one line."""
        return f"{self.status}: {self.n_cells} cells ({self.seconds:.1f} s)"


async def run_patch(
    request: PatchRequest, client: AsyncTraitClient, store: ResultStore, name: str, progress: Progress | None = None
) -> PatchOutcome:
    """Run all cells of a request, and store them. Cells of the same prompts that are stored already stay as they are.

    Args:
        request: The request, with any number of layers.
        client: The service.
        store: The database; it is held for writing until the run is over.
        name: Name of the run, for the tables `runs` and `patchings`.
        progress: Called after each commit.

    Raises:
        ServiceError: The service refuses the request, or does not answer; what had arrived is stored.
        ResultsError: Another process writes the database.
    """
    began = time.monotonic()
    info = await client.info()
    layers = list(range(info.n_layers)) if request.layers is None else sorted(request.layers)
    parts = [layers[i : i + LAYERS_AT_ONCE] for i in range(0, len(layers), LAYERS_AT_ONCE)]
    patching_id = identity_of(request, info)
    definition = json.dumps({"command": "patch", **request.model_dump(exclude_none=True)})
    with store.writer() as writer, recorded_run(writer, name, definition, len(layers)) as run:
        n_cells = n_layers = 0

        async def one(part: list[int]) -> None:
            nonlocal n_cells, n_layers
            report = await client.patch(request.model_copy(update={"layers": part}))
            writer.write(rows_of(report, request, patching_id, run.run_id, name))
            n_cells, n_layers = n_cells + len(report.cells), n_layers + len(part)
            if progress is not None:
                progress(n_layers, len(layers))

        await _all(list(map(one, parts)))
        run.outcome = outcome = PatchOutcome(run.run_id, patching_id, "ok", n_cells, time.monotonic() - began)
    return outcome


def identity_of(request: PatchRequest, info: ServiceInfo) -> str:
    """Digest of everything that a cell's values depend on, but for its own place."""
    model = [getattr(info, name) for name in ANSWERING_FIELDS]
    return digest([model, request.model, *(_written(each) for each in (request.source, request.target))])


def rows_of(report: PatchReport, request: PatchRequest, patching_id: str, run_id: str, name: str) -> Sequence[Row]:
    """The rows of one answer.

    Args:
        report: The answer.
        request: The request as a whole.
        patching_id: Digest of the prompts and the model.
        run_id: The run.
        name: Its name.
    """
    patching = PatchingRow(
        patching_id=patching_id,
        run_id=run_id,
        name=name,
        source=json.dumps(_written(request.source)),
        target=json.dumps(_written(request.target)),
        source_tokens=report.source.tokens,
        target_tokens=report.target.tokens,
        source_left_out=report.source.left_out,
        target_left_out=report.target.left_out,
        answer_tokens=[answer.token for answer in report.answers],
        source_difference=report.source.difference,
        target_difference=report.target.difference,
        model=report.model,
        config_digest=report.config_digest,
        weights_digest=report.weights_digest,
        dtype=report.dtype,
        n_layers=report.n_layers,
        patched_at=utc_now(),
    )
    cells = [
        PatchRow(
            patching_id=patching_id,
            hook_point=cell.at,
            layer=cell.layer,
            part=cell.part,
            position=cell.positions[0],
            n=len(cell.positions),
            positions=cell.positions,
            source_positions=cell.source_positions,
            source_answer=cell.logprobs[0],
            target_answer=cell.logprobs[1],
            difference=cell.difference,
            restored=cell.restored,
        )
        for cell in report.cells
    ]
    return [patching, *cells]


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _written(prompt: PatchPrompt) -> dict[str, object]:
    return prompt.model_dump(exclude_none=True)
