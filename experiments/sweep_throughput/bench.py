"""Does the client keep the engine's batch full? What a sweep costs the client, and how full it keeps a service.

python experiments/sweep_throughput/bench.py         # half a minute, no engine

The service answers from memory, each reply after a given time as an engine's would, within this process: what it costs to answer
is counted as the client's, so that the figures are upper bounds. Beside it, paired, a bare asyncio loop sends the same bodies.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from sweep_fixtures import MemoryService, experiment_of, write_datasets  # noqa: E402
from trait_client.results import ResultStore  # noqa: E402
from trait_client.sweeps import run_sweep  # noqa: E402

DELAY = 0.5
"""Seconds of a reply."""
PAIRS = 3
MAX_NUM_SEQS = 64


class Filled(MemoryService):
    """Counts how many chats are under way, from the first to the last that was begun."""

    def __init__(self) -> None:
        super().__init__(delay=DELAY)
        self.busy = 0.0
        self.first = self.last = 0.0

    async def chat(self, body: dict) -> httpx.Response:
        began = time.monotonic()
        self.first = self.first or began
        answer = await super().chat(body)
        self.last = time.monotonic()
        self.busy += self.last - began
        return answer

    def info(self) -> dict:
        told = super().info()
        return told | {"limits": told["limits"] | {"max_num_seqs": MAX_NUM_SEQS, "max_activation_inputs": 8192}}


async def swept(folder: Path) -> tuple[Filled, int, float]:
    """A sweep of 726 trials; its service, its trials, its CPU seconds."""
    service = Filled()
    experiment = experiment_of(folder, n_prompts=6, coefficients=[0.1 * n for n in range(1, 21)], layers=[1, 2])
    began = time.process_time()
    async with service.client() as client:
        outcome = await run_sweep(experiment, client, ResultStore(folder / "r.duckdb"))
    assert outcome.status == "ok"
    return service, outcome.trials_total, time.process_time() - began


async def bare(bodies: list[dict]) -> Filled:
    """The same bodies from as many plain tasks."""
    service, pending = Filled(), iter(bodies)
    service.files = {}

    async def work(http: httpx.AsyncClient) -> None:
        for body in pending:
            (await http.post("/v1/chat/completions", json=body)).raise_for_status()

    transport = httpx.MockTransport(service.answer)
    async with httpx.AsyncClient(base_url="http://memory", transport=transport) as http:
        await asyncio.gather(*(work(http) for _ in range(2 * MAX_NUM_SEQS)))
    return service


def main() -> None:
    ratios, shares, costs = [], [], []
    for _ in range(PAIRS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_datasets(folder / "datasets")
            service, n_trials, cpu = asyncio.run(swept(folder))
            plain = asyncio.run(bare(service.chats))
        ratios.append((service.last - service.first) / (plain.last - plain.first))
        shares.append(service.busy / (service.last - service.first) / (2 * MAX_NUM_SEQS))
        costs.append(cpu / n_trials)
    print(
        json.dumps(
            {
                "trials": n_trials,
                "asked_at_once": 2 * MAX_NUM_SEQS,
                "mean_share_of_them_under_way": round(statistics.median(shares), 3),
                "time_over_bare_loop": [round(each, 3) for each in ratios],
                "cpu_milliseconds_a_trial": [round(1000 * each, 2) for each in costs],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
