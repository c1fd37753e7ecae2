"""The operation on the device against the torch reference on the CPU, over made-up batches: what the kernel stage runs."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from trait_core.intervals import UNBOUNDED, Interval
from trait_service.engine.arithmetic import coefficients
from trait_service.engine.batch import LiveBatch, Step
from trait_service.engine.buffers import VectorBank
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.cpu_step import CpuStep
from trait_service.engine.cuda_step import CudaStep
from trait_service.engine.direction_sets import DirectionSet
from trait_service.engine.gates import FIRST_SELECTOR_BIT, GATE, GATE_SHIFT, NO_GATE, SELECTOR_SHIFT
from trait_service.engine.reply_selector import NO_SELECTORS, ReplyItem, ReplySelector, ReplyStart, selectors_of
from trait_service.engine.requests import TERM, LiveRequest
from trait_service.engine.spec import RequestSpec, TermSpec

OPERATIONS = ("add", "ablate", "set", "scale", "floor", "ceiling", "replace", "rotate")
N_LAYERS, N_DIRECTIONS, MOST_TERMS, N_PROMPT, PADDING = 6, 16, 4, 5, 3
MOST_REQUESTS = 24
BEGIN, END = 1, 2
"""Tokens that open and close a reply's reasoning."""
THINKING = ReplySelector(
    reply=ReplyStart(first=N_PROMPT, begin=BEGIN, end=END), select=(ReplyItem(part="thinking", step=2),)
)
CPU = torch.device("cpu")
SPEC = RequestSpec(key="k", terms=[TermSpec(layer=0, direction="0" * 64)])
TOLERANCE = {"float32": 5e-5, "bfloat16": 1e-2, "float16": 2e-3}
"""Largest difference, relative to the largest number: in 16 bits, a rounding or two that fall the other way."""
MOST_DIFFERENT = 0.02
"""Share of a 16-bit stream's numbers that may differ at all: where a float32 sum lies halfway between two of them."""


@dataclass(frozen=True)
class Case:
    """One made-up batch.

    Args:
        n_tokens: Tokens of its first step; in its second one every request has one token.
        split: The stream is the sum of two tensors.
        deferred: A pool's newest generated position waits, as under asynchronous scheduling.
    """

    d_model: int
    n_tokens: int
    dtype: str
    split: bool
    deferred: bool
    seed: int = 0


def compare(case: Case, device: str) -> dict[str, float]:
    """Run both sides over both steps.

    Returns:
        Relative errors of the streams, pools' sums and norms, waiting positions, and projections; and as `different` the
        share of the streams' numbers that are not equal.

    Raises:
        AssertionError: A token that no term touches was changed, or pools count other positions.
    """
    rng = np.random.default_rng(case.seed)
    n_requests = min(case.n_tokens, MOST_REQUESTS)
    live = [(i, i, request_of(rng, i)) for i in range(n_requests) if n_requests == 1 or i % 4 != 3]
    batch = LiveBatch(n_requests, live)
    generator = torch.Generator().manual_seed(case.seed)
    directions = torch.nn.functional.normalize(torch.randn(N_DIRECTIONS, case.d_model, generator=generator), dim=-1)
    reference, kernel = (_side(case, directions, batch, where) for where in (CPU, torch.device(device)))
    scheduled = np.full(n_requests, case.n_tokens // n_requests)
    scheduled[: case.n_tokens % n_requests] += 1
    computed = rng.integers(0, 2 * N_PROMPT, n_requests)  # some are in their prompt, some generate
    errors: dict[str, float] = {}
    for tokens in (scheduled, np.ones(n_requests, dtype=np.int64)):
        ids = torch.from_numpy(rng.choice([BEGIN, END, 3, 4], int(tokens.sum())))
        step = Step(computed, tokens, np.cumsum(tokens) - tokens, len(ids), ids)
        for name, error in _forward(case, step, batch, reference, kernel, generator).items():
            errors[name] = max(error, errors.get(name, 0.0))
        batch.advance(step)
        computed = computed + tokens
    return errors


def request_of(rng: np.random.Generator, i: int) -> LiveRequest:
    """Terms on every layer, all operations among them, some with a gate or a selector; two pools on some layers; monitored
    directions on some."""
    terms = []
    selects = i % 3 == 1
    gates = np.array(
        [(slot, slot, i % N_DIRECTIONS, i % 2, 0, N_PROMPT, 0.3, 0, UNBOUNDED) for slot in range(i % 3)], dtype=GATE
    )
    for layer in range(N_LAYERS):
        for k in range(1 + int(rng.integers(MOST_TERMS))):
            operation = OPERATIONS[(layer + i + k) % len(OPERATIONS)]
            start, stop = (0, UNBOUNDED) if rng.random() < 0.7 else sorted(int(p) for p in rng.integers(0, 12, 2))
            terms.append(
                term(
                    layer,
                    k,
                    operation,
                    float(rng.normal()) * 2,
                    _direction(rng, operation),
                    start=start,
                    stop=stop,
                    step=int(rng.choice([1, 1, 2, 3])),
                    preserve_norm=bool(rng.random() < 0.4),
                    slot=NO_GATE if k % 2 or layer >= len(gates) else layer,
                    selector=FIRST_SELECTOR_BIT if selects and k == 0 and layer < 2 else NO_GATE,
                )
            )
    n_monitored = 300 if i % 8 == 0 else 5
    return LiveRequest(
        SPEC,
        N_PROMPT,
        terms=np.array(terms, dtype=TERM),
        gates=gates,
        selectors=selectors_of({THINKING: FIRST_SELECTOR_BIT}) if selects else NO_SELECTORS,
        pools=[[Interval(0, N_PROMPT), Interval(N_PROMPT + 1, UNBOUNDED, 2)], [Interval(N_PROMPT, UNBOUNDED)]],
        captured_layers=sorted(int(layer) for layer in rng.choice(N_LAYERS, 3, replace=False)),
        capture_rows=[2 * i, 2 * i + 1],
        monitored=DirectionSet.of(
            rng.integers(N_LAYERS, size=n_monitored),
            rng.integers(N_DIRECTIONS, size=n_monitored),
            rng.random(n_monitored) < 0.5,
        ),
    )


def _direction(rng: np.random.Generator, operation: str) -> int:
    """A row of the bank: those in its second half are for rotations.

    A rotation towards the direction that the term before has made the stream parallel to turns rounding errors: in 16 bits
    its result is the noise of that rounding, on any side.
    """
    half = N_DIRECTIONS // 2
    return int(rng.integers(half)) + (half if operation == "rotate" else 0)


def term(layer: int, k: int, operation: str, value: float, bank_row: int, **fields: Any) -> tuple[Any, ...]:
    """One entry of `TERM`."""
    interval = Interval(fields.pop("start", 0), fields.pop("stop", UNBOUNDED), fields.pop("step", 1))
    gate = fields.pop("slot", NO_GATE) + 1 << GATE_SHIFT | fields.pop("selector", NO_GATE) + 1 << SELECTOR_SHIFT
    asked = TermSpec(layer=layer, direction="0" * 64, operation=operation, value=value, **fields)
    mode, a, b = coefficients(asked)
    return (layer, k, bank_row, mode | gate, a, b, *interval)


def _side(case: Case, directions: torch.Tensor, batch: LiveBatch, device: torch.device) -> tuple[Any, CaptureRows]:
    """The kernel's side where it is asked for a device, or for the CPU a second time (Triton's interpreter)."""
    bank = VectorBank(N_DIRECTIONS, case.d_model, device)
    bank.rows.copy_(directions)
    pools = CaptureRows(N_LAYERS, 2 * MOST_REQUESTS, case.d_model, device, deferred=case.deferred)
    sizes = {"max_tokens": max(case.n_tokens, MOST_REQUESTS) + PADDING, "max_requests": MOST_REQUESTS}
    side: Any = (
        CpuStep(bank, pools, N_LAYERS, max_requests=MOST_REQUESTS)
        if device is CPU
        else CudaStep(bank, pools, n_layers=N_LAYERS, **sizes, terms_per_layer=MOST_TERMS, device=device)
    )
    for _, request in batch.selecting_requests:
        request.marker_row = side.replies.take()  # the same on both sides
    side.regroup(batch)
    return side, pools


def _forward(
    case: Case,
    step: Step,
    batch: LiveBatch,
    reference: tuple[Any, CaptureRows],
    kernel: tuple[Any, CaptureRows],
    generator: torch.Generator,
) -> dict[str, float]:
    errors: dict[str, float] = {}
    dtype = getattr(torch, case.dtype)
    assert step.input_ids is not None
    for side, device in ((reference[0], CPU), (kernel[0], kernel[1].sums.device)):
        side.prepare(replace(step, input_ids=step.input_ids.to(device)), batch.computed_to)
    for layer in range(N_LAYERS):
        residual, hidden = (
            torch.randn(step.n_tokens + PADDING, case.d_model, generator=generator).to(dtype) for _ in range(2)
        )
        expected, got = residual.clone(), residual.to(kernel[1].sums.device, copy=True)
        reference[0].intervene(expected, hidden if case.split else None, layer)
        kernel[0].intervene(got, hidden.to(got.device) if case.split else None, layer)
        got = got.cpu()
        still = ~_touched(step, batch, layer, len(residual))
        assert torch.equal(got[still], residual[still]), f"layer {layer}: a token that no term touches was changed"
        _worse(errors, "streams", got, expected)
        errors["different"] = max(errors.get("different", 0.0), float((got != expected).float().mean()))
    expected_pools, pools = reference[1], kernel[1]
    assert pools.counts.tolist() == expected_pools.counts.tolist(), "pools count other positions"
    assert pools.deferred_position.tolist() == expected_pools.deferred_position.tolist(), "other positions wait"
    for name in ("sums", "norms", "last", "last_norms"):
        if getattr(expected_pools, name) is not None:
            _worse(errors, name, getattr(pools, name), getattr(expected_pools, name))
    tokens = reference[0].monitored_tokens
    values, expected_values = (torch.from_numpy(np.array(side.copy_values().read())) for side, _ in (kernel, reference))
    for request, begin, end in zip(reference[0].monitored.requests, tokens.rows.begin, tokens.rows.end, strict=True):
        here = slice(begin, end), slice(0, len(request.monitored))
        _worse(errors, "projections", values[here], expected_values[here])
    return errors


def _touched(step: Step, batch: LiveBatch, layer: int, n_rows: int) -> torch.Tensor:
    """`(n_rows,)` bool: a term of the token's request acts on it at this layer."""
    found = torch.zeros(n_rows, dtype=torch.bool)
    for index, request in batch.live:
        first, n = int(step.first_place[index]), int(step.n_scheduled[index])
        positions = step.n_computed[index] + np.arange(n)
        here = request.terms[request.terms["layer"] == layer]
        acting = (positions[:, None] >= here["start"]) & (positions[:, None] < here["stop"])
        found[first : first + n] = torch.from_numpy(acting.any(axis=1))
    return found


def _worse(errors: dict[str, float], name: str, got: torch.Tensor, expected: torch.Tensor) -> None:
    got, expected = got.cpu().float(), expected.float()
    error = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    errors[name] = max(errors.get(name, 0.0), float("inf") if np.isnan(error) else error)
