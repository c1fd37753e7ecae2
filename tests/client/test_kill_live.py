"""`kill -9` of the client and of the service at random moments: in the end the tables are those of an uninterrupted sweep.

3 and 0 kills here, 50 and 10 in `make test-kill` (TRAIT_TEST_KILLS). Every kill leaves what was stored stored, nothing twice.
"""

import os
import random
import time

import pytest
from kill_harness import KilledPatching, KilledSweep, finished_requests, same_scores
from service_harness import RunningService
from trait_client.http import TraitClient
from vector_fixtures import random_vector

pytestmark = [pytest.mark.engine, pytest.mark.slow]

CLIENT_KILLS, SERVICE_KILLS = map(int, os.environ.get("TRAIT_TEST_KILLS", "3,0").split(","))
N_PROMPTS = 6 if CLIENT_KILLS <= 3 else 12
EACH = 4
"""Kills of one sweep, at most, each in the next quarter of its requests or so."""


class SlowService(RunningService):
    """Four requests at once: a sweep of 30 replies takes seconds, and its commits are spread over them."""

    def __init__(self, model, folder):
        super().__init__(model, folder, "--max-model-len", "2048", "--max-num-seqs", "4")
        self.wait_until_ready()
        with TraitClient(self.url) as client:
            vector = random_vector(client.info(), 0, layer=13, trait="refusal", method="mean_diff")
            client.put_vector("refusal", vector.to_bytes())


@pytest.fixture(scope="module")
def slow_url(smollm2_path, tmp_path_factory):
    service = SlowService(smollm2_path, tmp_path_factory.mktemp("slow"))
    yield service.url
    service.stop()


@pytest.fixture(scope="module")
def whole(slow_url, tmp_path_factory):
    """Replies and scores of a sweep that nobody disturbed, and how many requests it was."""
    sweep, before = KilledSweep(tmp_path_factory.mktemp("whole"), N_PROMPTS), finished_requests(slow_url)
    sweep.finish(slow_url)
    return *sweep.tables(), finished_requests(slow_url) - before


def assert_same(sweep, whole):
    replies, scores = sweep.tables()
    assert replies == whole[0]
    assert same_scores(scores, whole[1])


class Killings:
    """Sweeps one after another, each killed at most `EACH` times, at moments spread over all its requests.

    Attributes:
        seen: Exit code of the client and replies stored, after each kill.
    """

    def __init__(self, folder, whole, seed):
        self.folder, self.whole, self.rng = folder, whole, random.Random(seed)
        self.sweeps, self.seen = [], []

    def next(self):
        """The sweep to kill now, and the share of its requests to let pass."""
        if len(self.seen) % EACH == 0:
            self.sweeps.append((KilledSweep(self.folder / str(len(self.sweeps)), N_PROMPTS, self.whole[2]), {}))
        return self.sweeps[-1][0], self.rng.random() / EACH

    def note(self, code):
        """What was stored before is stored."""
        sweep, before = self.sweeps[-1]
        now = sweep.done()
        assert {trial: now.get(trial) for trial in before} == before
        self.sweeps[-1] = (sweep, now)
        self.seen.append((code, len(now)))

    def finish(self, url):
        """Every sweep is run to its end, and is as if nobody had disturbed it."""
        for sweep, _ in self.sweeps:
            sweep.finish(url)
            assert_same(sweep, self.whole)
            assert sweep.store.query("SELECT status FROM runs ORDER BY started_at DESC")[1][0] == ("ok",)
        assert sum(0 < stored < len(self.whole[0]) for _, stored in self.seen) >= len(self.seen) / 3

    def __str__(self):
        return f"{len(self.seen)} kills in {len(self.sweeps)} sweeps of {len(self.whole[0])} replies: {self.seen}"


def test_the_client_killed_at_random_moments(slow_url, whole, tmp_path):
    killings = Killings(tmp_path, whole, 0)
    while len(killings.seen) < CLIENT_KILLS:
        sweep, share = killings.next()
        client = sweep.start_until(slow_url, share)
        client.kill()
        client.communicate()
        killings.note(client.returncode)
    print(f"\nclient: (exit code, replies stored) after {killings}")
    killings.finish(slow_url)


@pytest.mark.skipif(SERVICE_KILLS == 0, reason="make test-kill; test_replicas.py kills a service under a sweep")
def test_the_service_killed_at_random_moments(slow_url, whole, smollm2_path, tmp_path):
    """The sweep ends with what it has and exit code 3 (or 1, where it has nothing new; 0, where it was over before)."""
    killings = Killings(tmp_path, whole, 1)
    while len(killings.seen) < SERVICE_KILLS:
        sweep, share = killings.next()
        service = SlowService(smollm2_path, tmp_path)
        try:
            client = sweep.start_until(service.url, share)
        finally:
            service.kill()
        client.communicate(timeout=300)
        assert client.returncode in {0, 1, 3}
        killings.note(client.returncode)
    print(f"\nservice: (exit code, replies stored) after {killings}")
    killings.finish(slow_url)


@pytest.mark.skipif(SERVICE_KILLS == 0, reason="make test-kill; test_faults.py kills an engine under a patching")
def test_the_service_killed_at_random_moments_of_a_patching(smollm2_path, tmp_path):
    """The client ends with an error, each layer is stored whole or not at all, and another run adds what is missing."""
    patching, draw, stored = KilledPatching(tmp_path), random.Random(2), []
    for _ in range(SERVICE_KILLS // 2):
        service = SlowService(smollm2_path, tmp_path)
        try:
            before, client = finished_requests(service.url), patching.start(service.url)
            until = draw.uniform(1, 450)  # of about 510 runs
            while client.poll() is None and finished_requests(service.url) - before < until:
                time.sleep(0.02)
        finally:
            service.kill()
        _, err = client.communicate(timeout=300)
        assert client.returncode == 1, err
        assert "error" in err
        stored.append(patching.assert_no_half_rows())
    print(f"\npatching: layers stored of 30 after each kill {stored}")
    assert stored == sorted(stored), "what was stored is stored"
    service = SlowService(smollm2_path, tmp_path)
    try:
        client = patching.start(service.url)
        out, err = client.communicate(timeout=600)
    finally:
        service.stop()
    assert client.returncode == 0, out + err
    assert patching.assert_no_half_rows() == 30
    assert patching.statuses() == ["interrupted"] * len(stored) + ["ok"]
