"""The host's time that the plugin adds to a step on CUDA: everything but the launches, with the device's side on the CPU.

    python experiments/steering_overhead/host_cost.py

Asynchronous scheduling hides host time behind the device's, up to the length of a step; what is beyond it is lost. This drives
the worker's state as the runner does, with the request table and the list of active tokens in host memory: copies to a
GPU, which nothing waits for, are plain copies here. Times are CPU time of the thread. What the scheduler does in its own
process, or thread, is not included: it reads each spec first.
"""

import argparse
import hashlib
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from trait_core.positions import Positions
from trait_core.schema import Hold
from trait_service.engine.cuda_step import CudaStep
from trait_service.engine.engine_shape import EngineShape
from trait_service.engine.runner_view import StepView
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import CaptureSpec, GateSpec, MonitorColumn, MonitorSpec, RequestSpec, TermSpec
from trait_service.engine.state import SteeringState

N_LAYERS, N_PROMPT = 32, 10
SHAPE = EngineShape(N_LAYERS, 64, max_requests=256, max_tokens=8192, device=torch.device("cpu"), asynchronous=True)
N_MONITORED = 256
DIRECTIONS = {
    hashlib.sha256(row.tobytes()).hexdigest(): row.tobytes()
    for row in np.random.default_rng(0).normal(size=(N_MONITORED, SHAPE.d_model)).astype("<f4")
}
DIGEST = next(iter(DIRECTIONS))
CHANGING = 16
IDLE, STEADY, CHURN = (
    f"{SHAPE.max_requests} plain requests",
    "nothing changes",
    f"{CHANGING} of {SHAPE.max_requests} replaced",
)
TARGETS_MS = {IDLE: 0.02, STEADY: 0.1, CHURN: 0.5}


class DeviceState(SteeringState):
    """A worker's state with the CUDA side of the operation, wherever its tensors are."""

    def _new_step(self) -> CudaStep:
        return CudaStep(
            self.bank,
            self.pools,
            n_layers=self.shape.n_layers,
            max_requests=self.shape.max_requests,
            max_tokens=self.shape.max_tokens,
            terms_per_layer=self.settings.terms_per_layer,
            device=self.shape.device,
        )


def term(layer: int, **fields: Any) -> TermSpec:
    """An addition on a layer."""
    return TermSpec(layer=layer, direction=DIGEST, value=1.0, **fields)


def gate(hold: Hold) -> GateSpec:
    """A condition that is read on the first layer."""
    return GateSpec(layer=0, direction=DIGEST, above=0.0, hold=hold)


WORK: dict[str, RequestSpec] = {
    "one layer steered": RequestSpec(key="k", terms=[term(16)]),
    "one layer steered, a condition for each token": RequestSpec(key="k", terms=[term(16, when=gate("token"))]),
    "one layer steered, a condition that latches": RequestSpec(key="k", terms=[term(16, when=gate("latch"))]),
    "one layer's whole stream turned": RequestSpec(key="k", terms=[term(16, operation="rotate")]),
    "one layer steered at a selector with steps": RequestSpec(
        key="k", terms=[term(16, scope=Positions.parse("response[8::4]"))]
    ),
    f"{N_LAYERS} layers steered": RequestSpec(key="k", terms=[term(layer) for layer in range(N_LAYERS)]),
    f"{N_LAYERS} layers captured": RequestSpec(
        key="k", capture=CaptureSpec(positions=[Positions.parse("response[:]")])
    ),
    "one layer steered, 8 directions monitored": RequestSpec(
        key="k",
        terms=[term(16)],
        monitor=MonitorSpec(prompt=False, columns=[MonitorColumn(layer=24, direction=DIGEST)] * 8),
    ),
    f"{N_MONITORED} directions monitored": RequestSpec(
        key="k",
        monitor=MonitorSpec(
            prompt=False,
            columns=[MonitorColumn(layer=(3 * j + 2) % N_LAYERS, direction=name) for j, name in enumerate(DIRECTIONS)],
        ),
    ),
}


@dataclass
class Batch:
    """A decoding batch whose requests may be replaced.

    Args:
        state: The worker's state.
        spec: What each request asks for; None asks for nothing.
    """

    state: SteeringState
    spec: RequestSpec | None

    def __post_init__(self) -> None:
        self._numbers = count()
        self._extra_args: dict[str, Mapping[str, object] | None] = {}
        self.ids = [self._new() for _ in range(SHAPE.max_requests)]
        self.computed, self.scheduled = self._first(SHAPE.max_requests)

    def _first(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens computed and scheduled of `n` new requests: a condition that latches sees the prompt, the others are past it."""
        gates = [term.when for term in self.spec.terms] if self.spec is not None else []
        reads = any(gate is not None and gate.hold == "latch" for gate in gates)
        computed, scheduled = (0, N_PROMPT) if reads else (N_PROMPT, 1)
        return np.full(n, computed, dtype=np.int64), np.full(n, scheduled, dtype=np.int64)

    def _new(self) -> str:
        """Id of a new request; the scheduler, in the same process, has read its spec already."""
        name = f"r{next(self._numbers)}"
        self._extra_args[name] = None
        if self.spec is not None:
            self._extra_args[name] = self.spec.model_copy(update={"key": name}).to_extra_args()
            RequestSpec.from_extra_args(dict(self._extra_args[name] or {}))
        return name

    def step(self, leaving: list[str]) -> float:
        """Seconds that one step takes."""
        view = StepView(list(self.ids), self.scheduled, self.computed.copy(), lambda _: N_PROMPT, self._extra_args.get)
        started = time.thread_time()
        for name in leaving:
            self.state.remove(name)
        self.state.prepare(view)
        end = self.state.finish()
        took = time.thread_time() - started
        if end is not None:
            end.verdict()
        reports = self.state.collect({name: [] for name in leaving})["reports"].values()
        failed = [report["error"] for report in reports if report["error"]]
        if failed:
            raise RuntimeError(f"a request could not be served: {failed[0]}")
        self.computed += self.scheduled
        self.scheduled[:] = 1
        return took

    def replace(self, n: int) -> list[str]:
        """Put new requests in the place of the first `n`; returns who left."""
        leaving, staying = self.ids[:n], self.ids[n:]
        self.ids = [*staying, *(self._new() for _ in range(n))]
        for mine, new in zip((self.computed, self.scheduled), self._first(n), strict=True):
            mine[:] = np.concatenate([mine[n:], new])
        return leaving


def measure(spec: RequestSpec | None, steps: int, replaced: int) -> tuple[float, float]:
    """Median and least milliseconds of a step in which some requests were replaced."""
    state = DeviceState(EngineSettings(bank_rows=N_MONITORED, capture_rows=512), SHAPE)
    for name, direction in DIRECTIONS.items():
        state.bank.put(name, direction)
    batch = Batch(state, spec)
    batch.step([])
    took = [1e3 * batch.step(batch.replace(replaced)) for _ in range(steps)]
    return statistics.median(took), min(took)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="The host's time that the plugin adds to a step on CUDA")
    parser.add_argument("--steps", type=int, default=200, help="steps of each case")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    cases: list[tuple[str, str, RequestSpec | None, int]] = [("nothing asked", IDLE, None, 0)]
    cases += [(name, what, spec, n) for name, spec in WORK.items() for what, n in ((STEADY, 0), (CHURN, CHANGING))]
    print("| requests | step | ms, median | ms, least | target |\n|---|---|---|---|---|")
    for name, what, spec, n in cases:
        median, least = measure(spec, steps, n)
        print(f"| {name} | {what} | {median:.3f} | {least:.3f} | {TARGETS_MS[what]} |", flush=True)


if __name__ == "__main__":
    main()
