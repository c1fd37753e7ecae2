"""`run_capture`: read a prompt set through `POST /v1/activations` into shards.

Each shard takes one or a few requests, and enough shards are in flight to keep the engine's batch full. A shard is written
when all its prompts have been read, so a killed capture loses at most the shards in flight.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trait_client.http import AsyncTraitClient
from trait_client.http.template_check import check_template
from trait_client.prompt_sets.folder import CaptureFolder, locked
from trait_client.prompt_sets.manifest import CaptureIdentity, CaptureOptions
from trait_client.prompt_sets.progress import ProgressCallback, PromptSetProgress
from trait_client.prompt_sets.prompts import SetPrompt
from trait_client.prompt_sets.reader import Capture
from trait_client.prompt_sets.shards import Shard
from trait_core.errors import ServiceError, TraitError
from trait_core.os_errors import sentence_of
from trait_core.schema import ActivationsRequest, ServiceInfo

MAX_IN_FLIGHT = 16
ANSWER_BYTES = 2**28
"""Largest answer of a request: a quarter of the service's default limit."""

_INPUT = re.compile(r"^inputs\[(\d+)\](?:\.messages)?$")


@dataclass(frozen=True)
class CaptureOutcome:
    """Outcome of a capture.

    Attributes:
        status: `partial` if prompts are missing; the next run tries them again.
        n_prompts: Prompts in the set.
        n_resumed: Prompts captured by earlier runs.
        n_captured: Prompts captured by this run.
        n_failed: Prompts that could not be read.
        n_shards: Shards in the folder.
        damaged: Shards that were damaged and captured again.
        tokens: Tokens read in this run.
        seconds: Duration of this run.
        errors: Distinct messages, most frequent first, with their counts.
        absent: Positions -> number of captured prompts that have no such position, where there are any. Their activations
            are NaN for the reader.
    """

    status: Literal["ok", "partial"]
    n_prompts: int
    n_resumed: int
    n_captured: int
    n_failed: int
    n_shards: int
    damaged: tuple[str, ...]
    tokens: int
    seconds: float
    errors: tuple[tuple[str, int], ...]
    absent: dict[str, int]

    @property
    def line(self) -> str:
        """Status and counts in one line."""
        failed = f", {self.n_failed} failed" if self.n_failed else ""
        absent = "".join(f", {n} without {positions}" for positions, n in self.absent.items())
        speed = f", {self.tokens / self.seconds:.0f} tokens/s" if self.tokens else ""
        return (
            f"{self.status}: {self.n_captured} of {self.n_prompts} prompts captured, "
            f"{self.n_resumed} found captured{failed}{absent} ({self.seconds:.1f} s{speed})"
        )


async def run_capture(
    prompts: Sequence[SetPrompt],
    options: CaptureOptions,
    client: AsyncTraitClient,
    folder: Path,
    progress: ProgressCallback | None = None,
) -> CaptureOutcome:
    """Capture the prompts that the folder does not have yet.

    A prompt that the service refuses (one too long for the model, say) is set aside and the others go on; an error of
    another kind ends the run. The next run tries both again.

    Args:
        prompts: The prompt set.
        options: Positions, layers and generation.
        client: The service.
        folder: Folder of the shards; created if it is missing.
        progress: Called after each shard.

    Raises:
        InvalidRequestError: The options do not fit the prompts or the service, or the folder holds another capture.
        ChatTemplateError: The model has no chat template, or the template refuses chats of the set.
        DatasetError: The folder's manifest cannot be read.
        ServiceError: The service does not answer at the start.
    """
    info = await client.info()
    identity = CaptureIdentity.of(options, prompts, info)
    chats = [prompt.messages for prompt in prompts if prompt.messages is not None]
    await check_template(client, info, chats, options.chat_template_kwargs)
    with locked(folder):
        run = _Capture(prompts, CaptureFolder.open(folder, identity, prompts), client, info, progress)
        return await run.run()


class _Capture:
    """State of one run: work in progress, and counts."""

    def __init__(
        self,
        prompts: Sequence[SetPrompt],
        folder: CaptureFolder,
        client: AsyncTraitClient,
        info: ServiceInfo,
        progress: ProgressCallback | None,
    ) -> None:
        self._prompts = prompts
        self._folder = folder
        self._client = client
        self._progress = progress
        manifest = folder.manifest
        row_bytes = 4 * manifest.d_model * len(manifest.layers) * len(manifest.positions)
        self._request_size = min(info.limits.max_activation_inputs, max(1, ANSWER_BYTES // row_bytes))
        self._in_flight = min(MAX_IN_FLIGHT, max(2, -(-2 * info.limits.max_num_seqs // manifest.shard_size)))
        self._started = time.monotonic()
        self._resumed = self._done
        self._tokens = 0
        self._stops: Counter[str] = Counter()
        self._writing = asyncio.Lock()

    async def run(self) -> CaptureOutcome:
        pending = iter(self._folder.unfinished())
        self._show()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._in_flight):
                group.create_task(self._work(pending))
        manifest = self._folder.manifest
        errors = (self._stops + Counter(manifest.failed.values())).most_common()
        return CaptureOutcome(
            status="ok" if manifest.complete else "partial",
            n_prompts=len(self._prompts),
            n_resumed=self._resumed,
            n_captured=self._done - self._resumed,
            n_failed=len(manifest.failed),
            n_shards=len(manifest.shards),
            damaged=tuple(self._folder.damaged),
            tokens=self._tokens,
            seconds=time.monotonic() - self._started,
            errors=tuple(errors),
            absent=await asyncio.to_thread(_absent, Capture(self._folder.path, manifest)),
        )

    @property
    def _done(self) -> int:
        return sum(entry.n_prompts - len(entry.failed) for entry in self._folder.manifest.shards)

    async def _work(self, pending: Iterator[Shard]) -> None:
        try:
            for shard in pending:
                tokens = await self._read(shard)
                async with self._writing:
                    await asyncio.to_thread(self._folder.commit, shard)
                self._tokens += tokens
                self._show()
                if self._stops:
                    return
        except TraitError as error:
            self._stops[str(error)] += 1
        except OSError as error:
            self._stops[sentence_of(error)] += 1

    async def _read(self, shard: Shard) -> int:
        """Read the missing rows of a shard; return the number of tokens read."""
        first = shard.index * self._folder.manifest.shard_size
        # A request generates for all of its inputs or for none.
        given = [row for row in shard.unread if self._prompts[first + row].response is not None]
        silent = [row for row in shard.unread if self._prompts[first + row].response is None]
        tokens = 0
        for part in (given, silent):
            for start in range(0, len(part), self._request_size):
                tokens += await self._read_rows(shard, first, part[start : start + self._request_size])
        return tokens

    async def _read_rows(self, shard: Shard, first: int, rows: list[int]) -> int:
        manifest = self._folder.manifest
        while rows:
            kwargs = manifest.chat_template_kwargs
            inputs = [self._prompts[first + row].activation_input(kwargs) for row in rows]
            request = ActivationsRequest(
                inputs=inputs,
                layers=manifest.layers,
                at=manifest.at,
                positions=manifest.positions,
                generate=manifest.generate if inputs[0].response is None else None,
            )
            try:
                read = await self._client.activations(request)
            except ServiceError as error:
                refused = _INPUT.match(error.param or "") if error.status == 400 else None
                if refused is None or int(refused[1]) >= len(rows):
                    raise
                reason = str(error).replace(refused[0], "the prompt")
                shard.failed[shard.ids[rows.pop(int(refused[1]))]] = reason
                continue
            shard.fill(rows, read)
            for row in rows:
                shard.failed.pop(shard.ids[row], None)
            return int(read.n_prompt.sum() + read.n_response.sum())
        return 0

    def _show(self) -> None:
        if self._progress is not None:
            self._progress(
                PromptSetProgress(
                    total=len(self._prompts),
                    done=self._done,
                    failed=len(self._folder.manifest.failed),
                    tokens=self._tokens,
                    seconds=time.monotonic() - self._started,
                )
            )


def _absent(capture: Capture) -> dict[str, int]:
    if not capture.manifest.shards:
        return {}
    failed = sum(len(entry.failed) for entry in capture.manifest.shards)
    counts = {
        positions: int((capture.count(positions) == 0).sum()) - failed for positions in capture.manifest.positions
    }
    return {positions: n for positions, n in counts.items() if n}
