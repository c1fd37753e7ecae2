"""Two real replicas behind the real vllm-router: one upload serves both, a roll mixes nothing up, a kill loses nothing.

`make test-replicas` sets TRAIT_LONG=1: more load, and a sweep that also sees the killed replica come back.
"""

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from replica_harness import LAYER, two_replicas, vector_for
from service_harness import BIN
from trait_client.http import AsyncTraitReplicas, TraitClient
from trait_client.results import ResultsError, ResultStore
from trait_core.schema import Steering, SteeringTerm
from trait_core.storage import sha256_of

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
LONG = os.environ.get("TRAIT_LONG") == "1"
N_WORKERS = 8
SAME = 1e-3
"""Largest difference of logprobs that a batch's shape makes in float32."""


@pytest.fixture(scope="module")
def replicas(smollm2_path, tmp_path_factory):
    with two_replicas(smollm2_path, tmp_path_factory.mktemp("replicas")) as running:
        yield running


def ask(url: str, vector: str) -> tuple[str, list[float]]:
    """The file that steered the reply, and the reply's logprobs: the mark that the file leaves."""
    steering = Steering(terms=[SteeringTerm(vector=vector, coefficient=3.0)])
    with TraitClient(url) as client:
        reply = client.chat("Name a colour.", steering=steering, max_tokens=6, logprobs=1)
    return reply.steering.applied[0].sha256, [entry.logprob for entry in reply.logprobs]


def equal(left: list[float], right: list[float]) -> bool:
    return len(left) == len(right) and all(abs(a - b) < SAME for a, b in zip(left, right, strict=True))


def register(replicas, name: str, seed: int) -> str:
    """Give a vector to whichever replica the router chooses; its sha256."""
    with TraitClient(replicas.router) as client:
        return client.put_vector(name, vector_for(client, name, seed)).sha256


def test_what_one_replica_is_given_steers_through_the_router_and_on_the_other(replicas):
    sha256 = register(replicas, "shared", seed=1)
    answers = [ask(url, "shared") for url in (*replicas.urls, *[replicas.router] * 4)]
    answers.append(ask(replicas.urls[1], sha256))
    assert {applied for applied, _ in answers} == {sha256}
    assert all(equal(logprobs, answers[0][1]) for _, logprobs in answers)
    served = [finished(url) for url in replicas.urls]
    assert min(served) >= 3, served  # the router's four went to both


def finished(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:request_success_total"))


def test_a_roll_under_load_mixes_nothing_up(replicas):
    old = register(replicas, "rolling", seed=2)
    new = register(replicas, "next", seed=3)
    marks = {sha256: ask(replicas.urls[0], sha256)[1] for sha256 in (old, new)}
    assert not equal(marks[old], marks[new])

    rolled, done = threading.Event(), threading.Event()
    enough = 100 if LONG else 6
    by_name: list[tuple[bool, str, list[float]]] = []
    by_hash: list[tuple[str, list[float]]] = []

    def load(i: int) -> None:
        while not done.is_set():
            after = rolled.is_set()
            if i % 2:
                by_hash.append(ask(replicas.router, old))
            else:
                by_name.append((after, *ask(replicas.router, "rolling")))

    with TraitClient(replicas.router) as client:
        file = client.vector_bytes("next")
    assert sha256_of(file) == new
    with ThreadPoolExecutor(N_WORKERS) as pool:
        loads = [pool.submit(load, i) for i in range(N_WORKERS)]
        try:
            wait_until(lambda: len(by_name) >= enough and len(by_hash) >= enough)
            with TraitClient(replicas.urls[1]) as client:
                client.put_vector("rolling", file)
            rolled.set()
            wait_until(lambda: sum(after for after, *_ in by_name) >= enough)
        finally:
            done.set()
        for each in loads:
            each.result()

    seen = [(applied, logprobs) for _, applied, logprobs in by_name] + by_hash
    mismatches = [applied for applied, logprobs in seen if not equal(logprobs, marks[applied])]
    print(f"{len(seen)} steered replies, {len(mismatches)} mismatches")
    assert mismatches == []
    assert {applied for after, applied, _ in by_name if after} == {new}
    assert {applied for _, applied, _ in by_name} == {old, new}
    assert {applied for applied, _ in by_hash} == {old}


def test_a_replica_killed_under_a_sweep_and_under_the_routers_load_loses_nothing(replicas, tmp_path):
    """In the long version it comes back, and is used again."""
    sha256 = register(replicas, "refusal", seed=4)
    definition = tmp_path / "experiment.toml"
    definition.write_text(
        f'name = "killed"\ntraits = ["refusal"]\ndatasets = "{ROOT / "datasets" / "traits"}"\nlayers = [{LAYER}]\n'
        f"coefficients = {[1.0, 2.0] if LONG else [2.0]}\nn_prompts = {12 if LONG else 4}\n"
        f"max_tokens = {64 if LONG else 12}\n"
        f"[control]\nrandom_directions = {4 if LONG else 1}\n"
    )
    store = ResultStore(tmp_path / "results.duckdb")
    command = [BIN / "trait-client", "sweep", definition, "--db", store.path, "--json"]
    command += ["--service", replicas.urls[0], "--service", replicas.urls[1]]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sweep,
        ThreadPoolExecutor(1) as beside,
    ):
        load = beside.submit(asyncio.run, load_the_router(replicas.router, sha256, 40 if LONG else 8))
        wait_for_trials(store, sweep, at_least=6 if LONG else 2)
        replicas.services[1].kill()
        if LONG:
            replicas.restart(1)
        stdout, stderr = sweep.communicate(timeout=600)
        assert sweep.returncode == 0, stderr
        assert load.result(timeout=600) == {sha256}
    print(stdout)
    check_nothing_lost(json.loads(stdout), store)
    if LONG:
        assert finished(replicas.urls[1]) > 0


def wait_until(condition: Callable[[], bool], limit_s: float = 300) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true in {limit_s} s"
        time.sleep(0.05)


async def load_the_router(url: str, sha256: str, n: int) -> set[str]:
    """Steered chats through the router, four at once; the files that were applied. One that fails raises."""
    steering = Steering(terms=[SteeringTerm(vector=sha256, coefficient=2.0)])
    applied = set()

    async def chat(client: AsyncTraitReplicas, numbers: Iterator[int]) -> None:
        for i in numbers:
            reply = await client.chat(f"Name {i} colours.", steering=steering, max_tokens=16)
            applied.add(reply.steering.applied[0].sha256)

    numbers = iter(range(n))
    async with AsyncTraitReplicas([url]) as client:
        await asyncio.gather(*(chat(client, numbers) for _ in range(4)))
    assert next(numbers, None) is None
    return applied


def check_nothing_lost(outcome, store):
    assert (outcome["status"], outcome["trials_failed"], outcome["unscored"]) == ("ok", 0, 0), outcome
    total = outcome["trials_total"]
    assert outcome["trials_run"] == total
    counts = "SELECT count(*), count(DISTINCT (cell_id, prompt_id)) FROM trials WHERE status = 'done'"
    assert store.query(counts)[1] == [(total, total)]
    other = "SELECT 1 FROM trials JOIN cells USING (cell_id) WHERE kind <> 'baseline' AND "
    assert store.query(f"{other} (steering->>'$.applied[0].sha256') <> sha256")[1] == []


def wait_for_trials(store, sweep, at_least):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert sweep.poll() is None, f"the sweep ended before a replica was killed: {sweep.stderr.read()}"
        try:
            if store.query("SELECT count(*) FROM trials WHERE status = 'done'")[1][0][0] >= at_least:
                return
        except ResultsError:  # not begun
            pass
        time.sleep(0.1)
    raise AssertionError("no trial was published in 300 s")
