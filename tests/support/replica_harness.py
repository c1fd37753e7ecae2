"""Two real replicas that share a folder of vectors, and the real router in front of them."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from service_harness import BIN, RunningService, free_port
from trait_client.http import TraitClient
from vector_fixtures import random_vector

N_REPLICAS = 2
LAYER = 12
FLAGS = ("--max-model-len", "512", "--max-num-seqs", "16")


@dataclass
class Replicas:
    """Running replicas, and the router's address."""

    model: Path
    folder: Path
    services: list[RunningService]
    router: str

    @property
    def urls(self) -> list[str]:
        return [service.url for service in self.services]

    def restart(self, i: int) -> None:
        """Replica `i` on its old port, once it was killed."""
        self.services[i] = _start(self.model, self.folder, i, self.services[i].port)
        self.services[i].wait_until_ready()


@contextmanager
def two_replicas(model: Path, folder: Path) -> Iterator[Replicas]:
    """Each with a core of its own where there are two, and 1 GiB of KV cache."""
    services = [_start(model, folder, i) for i in range(N_REPLICAS)]
    router = None
    try:
        for service in services:
            service.wait_until_ready()
        router, url = _start_router(folder, [service.url for service in services])
        replicas = Replicas(model, folder, services, url)
        yield replicas
        services = replicas.services
    finally:
        if router is not None:
            router.terminate()
            router.wait(30)
        for service in services:
            service.stop()


def _start(model: Path, folder: Path, i: int, port: int | None = None) -> RunningService:
    cores = sorted(os.sched_getaffinity(0))
    place = folder / f"replica{i}"
    place.mkdir(exist_ok=True)
    shared = ("--vectors", str(folder / "vectors"))
    return RunningService(model, place, *FLAGS, *shared, port=port, core=cores[i % len(cores)])


def _start_router(folder: Path, urls: list[str]) -> tuple[subprocess.Popen, str]:
    port = free_port()
    command = [BIN / "vllm-router", "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
    command += ["--policy", "round_robin", "--health-check-endpoint", "/v1/health/ready"]
    command += ["--worker-startup-check-interval", "1", "--health-check-interval-secs", "1", "--worker-urls", *urls]
    with (folder / "router.log").open("w") as log:
        router = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and router.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readiness", timeout=5).status_code == 200:
                return router, f"http://127.0.0.1:{port}"
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    router.kill()
    raise AssertionError(f"the router did not start:\n{(folder / 'router.log').read_text()[-4000:]}")


def vector_for(client: TraitClient, trait: str, seed: int) -> bytes:
    """A random direction on one layer, as a vector file for the served model."""
    info = client.info()
    told = {"trait": trait, "method": "mean_diff", "weights_digest": info.weights_digest}
    return random_vector(info, seed, LAYER, **told).to_bytes()
