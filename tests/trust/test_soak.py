"""Hours of vectors coming and going leave memory and descriptors as they were. `make soak` takes 30 minutes."""

import itertools
import time

import numpy as np
import pytest
from trust_harness import MODEL, asked

pytestmark = pytest.mark.engine


def test_memory_and_descriptors_stay_while_vectors_come_and_go(attacked):
    seconds = asked("TRAIT_SOAK_SECONDS", 12)
    pause = asked("TRAIT_SOAK_PAUSE_MS", 0) / 1000
    warm = min(60.0, seconds / 3)
    seen: list[tuple[float, float, int]] = []
    began = time.monotonic()
    rounds = 0
    before = attacked.settled()
    with attacked.client() as client:
        for i in itertools.count():
            elapsed = time.monotonic() - began
            if elapsed > seconds:
                break
            name = f"soak-{i % 5}"
            client.put(f"/v1/vectors/{name}", content=attacked.vector(1000 + i)).raise_for_status()
            steering = {"terms": [{"vector": name, "coefficient": 1.0 + (i % 9) / 10}]}
            body = {"model": MODEL, "prompt": f"Round {i}", "max_tokens": 4, "steering": steering}
            client.post("/v1/completions", json=body).raise_for_status()
            read = {
                "inputs": [{"text": f"Round {i}"}],
                "positions": ["all[:]"],
                "layers": [3, 12],
                "steering": steering,
            }
            client.post("/v1/activations", json=read).raise_for_status()
            if i % 5 == 4:
                client.delete(f"/v1/vectors/{name}").raise_for_status()
            rounds += 1
            if elapsed >= warm and (not seen or elapsed - seen[-1][0] >= max(1.0, seconds / 200)):
                seen.append((elapsed, attacked.resident_mib(), attacked.descriptors()))
            time.sleep(pause)
        for i in range(5):
            client.delete(f"/v1/vectors/soak-{i}")
    times, memory, descriptors = map(np.array, zip(*seen, strict=True))
    slope = np.polyfit(times, memory, 1)[0] * 3600
    print(
        f"\n{rounds} rounds in {time.monotonic() - began:.0f} s, {rounds} vectors in and out; after {warm:.0f} s of warm-up "
        f"memory {memory[0]:.1f} -> {memory[-1]:.1f} MiB (slope {slope:+.1f} MiB an hour), "
        f"descriptors {descriptors[0]} -> {descriptors[-1]} ({descriptors.min()}..{descriptors.max()})"
    )
    assert descriptors.max() - descriptors[0] <= 8
    assert memory[-1] - memory[0] < 0.02 * memory[0] + 20
    assert attacked.settled(before) == before
