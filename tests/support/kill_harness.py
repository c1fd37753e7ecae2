"""A sweep or a patching whose client or service is killed in the middle, and what its tables hold in the end."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import httpx
from service_harness import metric_values
from trait_client.http import AsyncTraitClient
from trait_client.patching import PatchOutcome, run_patch
from trait_client.results import ResultStore
from trait_core.schema import PatchPrompt, PatchRequest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "from trait_client.cli import main; main()"


class KilledSweep:
    """One experiment, run again and again into one database until it is whole.

    Args:
        folder: Takes definition and database.
        n_prompts: Prompts of `refusal`; four cells and a baseline each.
        n_requests: Requests that an undisturbed sweep sends to the engine.
    """

    def __init__(self, folder: Path, n_prompts: int, n_requests: float = 0.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.n_requests = n_requests
        self.definition = folder / "experiment.toml"
        self.definition.write_text(
            f'name = "killed"\ntraits = ["refusal"]\ndatasets = "{ROOT / "datasets" / "traits"}"\n'
            f"layers = [13]\ncoefficients = [1.0, 1.5]\nn_prompts = {n_prompts}\nmax_tokens = 8\n"
            "[control]\nrandom_directions = 1\n"
        )
        self.store = ResultStore(folder / "r.duckdb")

    def start(self, url: str) -> subprocess.Popen:
        command = [sys.executable, "-c", COMMAND, "sweep", str(self.definition)]
        command += ["--db", str(self.store.path), "--url", url]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def start_until(self, url: str, share: float) -> subprocess.Popen:
        """A sweep of which the service has done this share of `n_requests`, or that is over."""
        before = finished_requests(url)
        process = self.start(url)
        while process.poll() is None and finished_requests(url) - before < share * self.n_requests:
            time.sleep(0.02)
        return process

    def finish(self, url: str) -> None:
        """Run to the end."""
        process = self.start(url)
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out + err

    def tables(self) -> tuple[list, list]:
        """Replies, and scores by what they are of."""
        if not self.store.path.exists():
            return [], []
        reply = "SELECT cell_id, prompt_id, status, text, finish_reason, n_generated FROM trials ORDER BY ALL"
        score = (
            "SELECT trial_id, trait, name, definition, mode, value FROM scores "
            "UNION ALL SELECT trial_id, sha256, layer::VARCHAR, positions, reader, value FROM projections ORDER BY ALL"
        )
        return self.store.query(reply)[1], self.store.query(score)[1]

    def done(self) -> dict[str, str]:
        """Replies that are stored now, by trial."""
        if not self.store.path.exists():
            return {}
        with self.store.writer() as writer:  # a killed writer's log is taken in
            return dict(writer.query("SELECT trial_id, text FROM trials WHERE status = 'done'"))


class KilledPatching:
    """One patching of every layer, run again and again into one database."""

    SOURCE = PatchPrompt(text="The capital of France is the city of", answer=" Paris")
    TARGET = PatchPrompt(text="The capital of Italy is the city of", answer=" Rome")

    def __init__(self, folder: Path) -> None:
        self.store = ResultStore(folder / "patched.duckdb")

    def start(self, url: str) -> subprocess.Popen:
        command = [sys.executable, "-c", COMMAND, "patch", "--raw", "--source", self.SOURCE.text, "--target"]
        command += [self.TARGET.text, "--answers", self.SOURCE.answer, self.TARGET.answer]
        command += ["--url", url, "--db", str(self.store.path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, url: str, key: str) -> PatchOutcome:
        """In this process."""

        async def patched() -> PatchOutcome:
            async with AsyncTraitClient(url, key) as client:
                return await run_patch(
                    PatchRequest(source=self.SOURCE, target=self.TARGET), client, self.store, "killed"
                )

        return asyncio.run(patched())

    def assert_no_half_rows(self) -> int:
        """Each layer that is stored has all of its cells, and stands beside its patching; returns how many there are."""
        with self.store.writer() as writer:  # a killed writer's log is taken in
            cells = "SELECT layer, count(*), count(DISTINCT position), count(restored) FROM patches GROUP BY ALL"
            layers = {layer: counts for layer, *counts in writer.query(cells)}
            assert not layers or len(writer.query("SELECT * FROM patchings")) == 1
            lost = "SELECT * FROM patches ANTI JOIN patchings USING (patching_id)"
            assert writer.query(lost) == []
        assert {tuple(counts) for counts in layers.values()} <= {(8, 8, 8)}, layers
        return len(layers)

    def statuses(self) -> list[str]:
        """The status of each run, in the order of their starts."""
        return [status for (status,) in self.store.query("SELECT status FROM runs ORDER BY started_at")[1]]


def finished_requests(url: str) -> float:
    """Prompts that the service's engine has finished with."""
    return sum(metric_values(httpx.get(f"{url}/metrics", timeout=30).text, "vllm:request_success_total"))


def same_scores(left: list, right: list) -> bool:
    """Equal but for what the shape of a batch changes: the sixth digit of a logit."""
    return len(left) == len(right) and all(
        one[:-1] == other[:-1] and (one[-1] is other[-1] is None or abs(one[-1] - other[-1]) < 0.1)
        for one, other in zip(left, right, strict=True)
    )
