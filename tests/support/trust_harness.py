"""A service to be attacked: keys with every scope but `admin` for the attacker, an admin's eyes for the test."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
from service_harness import RunningService, metric_values
from trait_core.schema import ServiceInfo
from trait_service.access.keys import ALL_SCOPES, KeyFile
from vector_fixtures import random_vector

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
LAYER = 12
MODEL = "smollm2"


@dataclass(frozen=True)
class Target:
    """The service, and what the test knows of it.

    Args:
        key: Opens everything but what is for `admin`.
        admin: Opens everything.
    """

    service: RunningService
    key: str
    admin: str

    @property
    def url(self) -> str:
        return self.service.url

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def client(self, headers: dict[str, str] | None = None, **options: Any) -> httpx.Client:
        headers = self.headers | (headers or {})
        return httpx.Client(base_url=self.url, headers=headers, **{"timeout": 120, **options})

    @cached_property
    def info(self) -> ServiceInfo:
        with self.client() as client:
            return ServiceInfo.model_validate(client.get("/v1/steering").raise_for_status().json())

    def vector(self, seed: int) -> bytes:
        """A vector file with a random direction."""
        return random_vector(self.info, seed, LAYER).to_bytes()

    def register(self, name: str, seed: int) -> None:
        with self.client() as client:
            client.put(f"/v1/vectors/{name}", content=self.vector(seed)).raise_for_status()

    # ------------------------------------------------------------------------------------------------- looking inside

    def metric(self, name: str, page: str | None = None) -> float:
        """Sum of a metric over its labels."""
        values = metric_values(self.metrics() if page is None else page, name)
        assert values, name
        return sum(values)

    def metrics(self) -> str:
        with self.client() as client:
            return client.get("/metrics").raise_for_status().text

    def occupancy(self) -> dict[str, float]:
        """Resources that requests hold: rows and captures in the worker, key-value blocks, the bank, requests in flight."""
        headers = {"Authorization": f"Bearer {self.admin}"}
        answer = httpx.post(f"{self.url}/collective_rpc", json={"method": "trait_stats"}, headers=headers, timeout=60)
        (stats,) = answer.raise_for_status().json()["results"]
        page = self.metrics()
        # Rows of the bank stay for the next request; what is held is given back.
        held = {
            "kv_cache_usage": self.metric("vllm:kv_cache_usage_perc", page),
            "running": self.metric("vllm:num_requests_running", page),
            "waiting": self.metric("vllm:num_requests_waiting", page),
            "in_flight": self.metric("trait_requests_in_flight", page),
            "bank_held": float(re.search(r'trait_bank_rows\{state="held"\} (\S+)', page).group(1)),
        }
        return held | {name: value for name, value in stats.items() if not name.startswith("bank")}

    def settled(self, wanted: dict[str, float] | None = None, within: float = 60.0) -> dict[str, float]:
        """Occupancy once it is `wanted`, else what it is when the time is up."""
        deadline = time.monotonic() + within
        while True:
            found = self.occupancy()
            idle = found["in_flight"] == found["running"] == found["waiting"] == 0
            if (found == wanted if wanted else idle) or time.monotonic() > deadline:
                return found
            time.sleep(0.5)

    def canary(self) -> list[tuple[str, list[str]]]:
        """Greedy tokens of a plain and of a steered request, without the prefix cache's help."""
        said = []
        with self.client() as client:
            for steering in (None, {"terms": [{"vector": "canary", "coefficient": 2.0}]}):
                body = {"model": MODEL, "messages": QUESTION, "max_tokens": 12, "temperature": 0, "logprobs": True}
                body |= {"steering": steering} if steering else {}
                choice = client.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"][0]
                tokens = [entry["token"] for entry in choice["logprobs"]["content"]]
                said.append((choice["message"]["content"], tokens))
        return said

    def processes(self) -> list[psutil.Process]:
        """The service and its engine."""
        first = psutil.Process(self.service.process.pid)
        return [first, *first.children(recursive=True)]

    def resident_mib(self) -> float:
        return sum(process.memory_info().rss for process in self.processes()) / 2**20

    def descriptors(self) -> int:
        return sum(process.num_fds() for process in self.processes())


@contextmanager
def target(model: Path, folder: Path, *flags: str, **environment: str) -> Iterator[Target]:
    """A small service with keys, that the operators' routes of vLLM's developer mode belong to."""
    keys = KeyFile(folder / "keys.json")
    key = keys.create("attacker", ALL_SCOPES - {"admin"})
    admin = keys.create("operator", frozenset({"admin"}))
    flags = ("--keys", str(keys.path), "--max-model-len", "512", "--max-num-seqs", "32", "--log-requests", *flags)
    # Developer mode would log error stacks, and with them what was sent.
    flags = ("--no-log-error-stack", *flags)
    environment = {"VLLM_SERVER_DEV_MODE": "1", **environment}
    service = RunningService(model, folder, *flags, environment=environment)
    try:
        service.wait_until_ready()
        found = Target(service, key, admin)
        found.register("canary", 1)
        yield found
    finally:
        service.stop()


def quickly(check: Callable[[], bool], within: float) -> bool:
    """Return True if `check` becomes true in time."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.2)
    return check()


def asked(name: str, default: int) -> int:
    """A number of the environment, such as TRAIT_FUZZ_REQUESTS."""
    return int(os.environ.get(name, default))
