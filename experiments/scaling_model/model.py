"""The cost of steering on machines that were not available for tests: the formulas behind docs/scaling.md.

Sizes are exact: they are those of the engine's buffers (tests/deploy/test_scaling_model.py compares). Times are estimates from
bytes and operations, for machines as their makers describe them; the host's part is what was measured on two CPU cores. No
GPU has run any of it.
"""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MEASURED = ROOT / "experiments" / "steering_overhead" / "added_time.json"
CALIBRATION = HERE / "calibration.json"

FLOAT32 = 4
BFLOAT16 = 2
MAX_MONITORED = 512
MAX_TOKENS = 8192
MAX_POOL_INTERVALS = 16
WORD = 4
POOL_WORDS, TERM_WORDS = 4, 6
MAX_GATES, GATE_WORDS = 8, 4
CAPTURE_ROWS = 256
TERMS_PER_LAYER = 8


@dataclass(frozen=True)
class Model:
    """A model's shape, and the machine that serves one replica of it.

    Args:
        parameters: Weights that a token passes through.
        weight_bytes: Bytes of one weight.
        kv_heads_by_width: Key-value heads times their width.
        gpus: GPUs of one replica, tensor parallel.
    """

    name: str
    parameters: float
    n_layers: int
    d_model: int
    kv_heads_by_width: int
    weight_bytes: float
    gpus: int

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.n_layers * self.kv_heads_by_width * BFLOAT16

    @property
    def bytes_of_weights(self) -> float:
        return self.parameters * self.weight_bytes


MODELS = (
    Model("8B", 8.03e9, 32, 4096, 8 * 128, 2, 1),
    Model("70B", 70.6e9, 80, 8192, 8 * 128, 2, 4),
    Model("400B (FP8)", 405.9e9, 126, 16384, 8 * 128, 1, 8),
)
SMOLLM2 = Model("SmolLM2-135M", 134.5e6, 30, 576, 3 * 64, 4, 0)


@dataclass(frozen=True)
class Machine:
    """An H100 SXM as its maker describes it, and how much of that a serving engine is taken to reach (an assumption)."""

    memory_bytes: float = 80e9
    memory_bandwidth: float = 3.35e12
    operations_16_bit: float = 989e12
    operations_8_bit: float = 1979e12
    bandwidth_reached: float = 0.6
    operations_reached: float = 0.5
    memory_used: float = 0.9
    host_link: float = 25e9
    disk: float = 2e9
    engine_host_seconds: float = 4e-3
    """vLLM's own work a step (an assumption), none of it hidden behind the GPU's: scheduling is synchronous, the worse case."""


@dataclass(frozen=True)
class Load:
    """The load: lengths of requests, and how many run at once."""

    n_prompt: int = 500
    n_generated: int = 200
    at_once: int = 256

    @property
    def mean_length(self) -> float:
        return self.n_prompt + self.n_generated / 2


@dataclass(frozen=True)
class Calibration:
    """Measured on SmolLM2-135M, 256 requests decoding, two CPU cores, float32, eager.

    Args:
        step_seconds: Length of one decode step there (experiments/steering_overhead/README.md).
        n_steps: Steps of a run.
        layers: Variant -> share of the run's time at the layers.
        step: The same, once a step. Admission of 256 newcomers in nine steps is in it, so it is more than steady decoding has.
        requests: The same, once a request.
    """

    step_seconds: float
    n_steps: int
    n_requests: int
    layers: dict[str, float]
    step: dict[str, float]
    requests: dict[str, float]

    def host_per_token(self, variant: str) -> float:
        """Seconds of host work a request and step."""
        return self.step[variant] * self.step_seconds / self.n_requests

    def host_per_request(self, variant: str) -> float:
        """Seconds of host work once a request."""
        return self.requests[variant] * self.step_seconds * self.n_steps / self.n_requests


def read_calibration() -> Calibration:
    """The ratios that the tables rest on."""
    return Calibration(**json.loads(CALIBRATION.read_text()))


def calibrate() -> None:
    """Take the medians of the last measurement; the length of a decode step is in its README."""
    decode = json.loads(MEASURED.read_text())["decode"]
    medians = {
        part: {variant: statistics.median(shares[part]) for variant, shares in decode.items()}
        for part in ("layers", "step", "requests")
    }
    values = Calibration(step_seconds=0.5, n_steps=9, n_requests=256, **medians)
    CALIBRATION.write_text(json.dumps(asdict(values), indent=1) + "\n")


# ------------------------------------------------------------------------------------------------------------ memory


def bank_bytes(model: Model, rows: int = 4096) -> int:
    """`[rows, d_model]` float32, on every GPU of the replica."""
    return rows * model.d_model * FLOAT32


def table_bytes(model: Model, n_requests: int) -> int:
    """A row of words for each request: pools, gates, a word a layer, and the terms of every layer; on every GPU."""
    words = (
        MAX_POOL_INTERVALS * POOL_WORDS + MAX_GATES * GATE_WORDS + model.n_layers * (1 + TERMS_PER_LAYER * TERM_WORDS)
    )
    return n_requests * words * WORD


def monitor_bytes(model: Model, n_requests: int, n_tokens: int = MAX_TOKENS) -> int:
    """A row of words for each set of directions, and the projections of as many tokens as a step may have; on every GPU."""
    return n_requests * (model.n_layers + 1 + MAX_MONITORED) * WORD + n_tokens * MAX_MONITORED * FLOAT32


def pool_bytes(model: Model, n_pools: int = CAPTURE_ROWS) -> int:
    """`[pools, 2, layers, d_model + 4]` float32: sums and the position that waits; on one GPU of the replica."""
    return n_pools * 2 * model.n_layers * (model.d_model + 4) * FLOAT32


# -------------------------------------------------------------------------------------------------------------- time


def decode_step(model: Model, load: Load, machine: Machine) -> float:
    """Seconds of the GPUs for one token of every request: weights and keys and values once through the memory."""
    moved = model.bytes_of_weights + load.at_once * load.mean_length * model.kv_bytes_per_token
    by_bytes = moved / (model.gpus * machine.memory_bandwidth * machine.bandwidth_reached)
    return max(by_bytes, load.at_once * token_seconds(model, machine))


def token_seconds(model: Model, machine: Machine) -> float:
    """Seconds of the GPUs for the operations of one token."""
    peak = machine.operations_8_bit if model.weight_bytes == 1 else machine.operations_16_bit
    return 2 * model.parameters / (model.gpus * peak * machine.operations_reached)


def steering_seconds(model: Model, n_tokens: int, n_layers: int, machine: Machine) -> float:
    """Seconds of each GPU to steer tokens on some layers: tensor parallel workers all do the whole of it.

    A token and layer: the two parts of the stream read (bfloat16), the direction (float32), the stream written.
    """
    moved = n_tokens * n_layers * model.d_model * (3 * BFLOAT16 + FLOAT32)
    return moved / (machine.memory_bandwidth * machine.bandwidth_reached)


def pooling_seconds(model: Model, n_tokens: int, machine: Machine) -> float:
    """The same for the sums of every layer: the stream read, the sums read and written (float32)."""
    moved = n_tokens * model.n_layers * model.d_model * (2 * BFLOAT16 + 2 * FLOAT32)
    return moved / (machine.memory_bandwidth * machine.bandwidth_reached)


@dataclass(frozen=True)
class Step:
    """One decode step of a full replica, in seconds."""

    gpu: float
    engine: float
    layers: float
    host: float

    @property
    def added(self) -> float:
        """Part of the whole step that steering adds."""
        return (self.layers + self.host) / (self.gpu + self.engine + self.layers + self.host)


def step(model: Model, load: Load, machine: Machine, calibration: Calibration, variant: str) -> Step:
    """Times of a step of the variant."""
    layers = {
        "idle": 0.0,
        "configurations_256": steering_seconds(model, load.at_once, 1, machine),
        "all_layers": steering_seconds(model, load.at_once, model.n_layers, machine),
        "capture": pooling_seconds(model, load.at_once, machine),
        "monitor": 8 * steering_seconds(model, load.at_once, 1, machine),
    }[variant]
    host = load.at_once * (
        calibration.host_per_token(variant) + calibration.host_per_request(variant) / load.n_generated
    )
    return Step(decode_step(model, load, machine), machine.engine_host_seconds, layers, host)


def requests_per_second(model: Model, load: Load, machine: Machine, one: Step) -> float:
    """Requests per second of one full replica: a request costs its prompt's operations and its part of every decode step."""
    prompt = load.n_prompt * token_seconds(model, machine)
    each_step = one.gpu + one.engine + one.layers + one.host
    return 1 / (prompt + load.n_generated * each_step / load.at_once)
