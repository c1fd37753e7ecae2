"""Fixtures of the HTTP tests: vector files, and workers in memory behind vLLM's RPC."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy
from trait_core.schema import LayerEvidence, VectorMetadata
from trait_core.vectors.file import VectorFile

MakeVector = Callable[..., VectorFile]


class MemoryWorkers:
    """The workers' RPC without an engine: a bank with a fixed number of rows, and results that are taken once."""

    def __init__(self, rows: int = 4) -> None:
        self.rows = rows
        self.bank: dict[str, bytes] = {}
        self.results: dict[str, dict] = {}
        self.captures: dict[str, np.ndarray] = {}
        self.running: dict[str, np.ndarray] = {}
        self.calls: list[tuple[str, tuple]] = []
        self.fail_next: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.in_flight = 0
        self.most_in_flight = 0

    async def collective_rpc(self, name: str, args: tuple = ()) -> list:
        self.calls.append((name, args))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if self.fail_next is not None:
                error, self.fail_next = self.fail_next, None
                raise error
            return [getattr(self, name)(*args)]
        finally:
            self.in_flight -= 1

    def trait_update_bank(self, put: dict[str, bytes], drop: list[str]) -> None:
        for digest in drop:
            self.bank.pop(digest, None)
        self.bank |= put
        if len(self.bank) > self.rows:
            raise RuntimeError(f"the bank is full: {len(self.bank)} of {self.rows}")

    def trait_collect(self, keys: dict[str, list[int]]) -> dict:
        reports = {key: self.results.pop(key) for key in keys if key in self.results}
        tensors = {}
        for key in keys:
            if key in self.captures:
                mean = self.captures.pop(key)
                tensors |= {
                    f"{key}/mean": mean,
                    f"{key}/norm": np.ones(mean.shape[:2], np.float32),
                    f"{key}/count": np.ones(mean.shape[0], np.int32),
                }
        return {"reports": reports, "captures": safetensors.numpy.save(tensors) if tensors else b""}

    def trait_projections(self, after: dict[str, int]) -> bytes:
        rows = {f"{key}/projections/0": self.running[key][n:] for key, n in after.items() if key in self.running}
        return safetensors.numpy.save(rows) if rows else b""

    def trait_discard(self, keys: list[str]) -> None:
        for key in keys:
            self.results.pop(key, None)

    def called(self, name: str) -> list[tuple]:
        return [args for called, args in self.calls if called == name]


@pytest.fixture
def memory_workers() -> Callable[..., MemoryWorkers]:
    return MemoryWorkers


@pytest.fixture
def make_vector() -> MakeVector:
    """Vector files with random directions: `make_vector(layers=(2,), seed=0, **metadata)`."""

    def make(
        layers: tuple[int, ...] = (2,),
        seed: int = 0,
        separation: float = 4.0,
        residual_norm: float = 50.0,
        n_layers: int = 6,
        d_model: int = 8,
        **metadata: object,
    ) -> VectorFile:
        rng = np.random.default_rng(seed)
        directions = {}
        for layer in layers:
            direction = rng.standard_normal(d_model).astype(np.float32)
            directions[layer] = direction / np.linalg.norm(direction)
        evidence = LayerEvidence(separation=separation, centre=1.0, residual_norm=residual_norm)
        fields = {
            "trait": "tone",
            "model": "test",
            "config_digest": "sha256:0",
            "n_layers": n_layers,
            "d_model": d_model,
            "method": "random",
            "positions": "response[:]",
            "layers": dict.fromkeys(layers, evidence),
            "chosen_layer": layers[0],
            "chosen_because": "a test",
        }
        return VectorFile(VectorMetadata(**{**fields, **metadata}), directions)

    return make
