"""Kernels: the Triton kernel on the device equals the torch reference, and what it costs inside a CUDA graph.

Where there is no GPU and `TRITON_INTERPRET=1` is set, the comparison runs in Triton's interpreter, small and without
bfloat16, which the interpreter truncates where a GPU rounds.
"""

import itertools
import os
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
from stage import Context, Report, Skip, Stage, main

if TYPE_CHECKING:
    from kernel_cases import Case

COMPARED = "kernel against torch, relative errors"
"""The table of the comparison."""
WIDTHS = (576, 2880, 4096, 8192)
TOKENS = (1, 64, 257)
TIMED_WIDTHS = (4096, 8192)
TIMED_TOKENS = ((1, 1), (64, 64), (256, 256), (8192, 16))
"""Tokens of a step, and its requests: decoding, and a prefill of 512 tokens each."""
N_LAUNCHES = 32
REPLAYS, WARM_UPS = 40, 10


def run(context: Context, report: Report) -> None:
    """Compare, a process for each width; then measure, with nothing beside it."""
    interpreted = find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"
    if not context.cuda and not interpreted:
        raise Skip("there is no GPU, and TRITON_INTERPRET=1 is not set or Triton is not installed")
    compare_all(context, report, WIDTHS if context.cuda else (24,), workers=context.machine.cores)
    if context.cuda:
        measure_all(report)
        idle, steered = (
            max(
                row["us a layer"]
                for row in report.tables["times in a CUDA graph"]
                if row["asked"] == asked and row["tokens"] <= 256
            )
            for asked in ("idle", "steered")
        )
        report.figure += (
            f"; in a graph, up to 256 tokens: idle {idle:.1f}, all steered {steered:.1f} us a layer at most"
        )


def compare_all(context: Context, report: Report, widths: Sequence[int], *, workers: int) -> None:
    """Compare at each width and dtype, in up to `workers` processes; a row as soon as a width's dtype is done."""
    tokens = context.pick(cuda=TOKENS, cpu=(1, 29))
    groups = [
        list(group)
        for d_model in widths
        for _, group in itertools.groupby(_cases(d_model, tokens, context), lambda case: case.dtype)
    ]
    device = context.pick(cuda="cuda", cpu="cpu:0")
    worst: dict[str, float] = {}
    with ProcessPoolExecutor(min(len(widths), workers), mp_context=get_context("spawn")) as pool:
        for found in pool.map(_errors, groups, itertools.repeat(device)):
            for case, errors, problem in found:
                _note(report, case, errors, problem)
                worst[case.dtype] = max([worst.get(case.dtype, 0.0), *errors.values()])
    rows = report.tables[COMPARED]
    of_dtypes = ", ".join(f"{dtype} {error:.1e}" for dtype, error in worst.items())
    verb = "compared with" if report.failures else "equal"
    report.figure = f"{len(rows)} batches {verb} the torch path ({of_dtypes})"


def _cases(d_model: int, tokens: tuple[int, ...], context: Context) -> "Iterator[Case]":
    from kernel_cases import Case

    narrow = d_model <= WIDTHS[0]
    dtypes = (*(["float32"] if narrow else []), "bfloat16", "float16") if context.cuda else ("float32", "float16")
    for dtype, split, deferred, n_tokens in itertools.product(dtypes, (True, False), (True, False), tokens):
        for seed in range(3 if n_tokens == 1 else 1):  # a single token meets few combinations
            yield Case(d_model, n_tokens, dtype, split, deferred, seed)


def _errors(cases: "list[Case]", device: str) -> "list[tuple[Case, dict[str, float], str]]":
    """In a process of its own: each case, its errors, and what went wrong."""
    from kernel_cases import compare

    found = []
    for case in cases:
        try:
            found.append((case, compare(case, device), ""))
        except Exception as error:  # noqa: BLE001 - a compiler's fault too is this case's result
            found.append((case, {}, f"{type(error).__name__}: {error}"[:600]))
    return found


def _note(report: Report, case: "Case", errors: dict[str, float], problem: str) -> None:
    from kernel_cases import MOST_DIFFERENT, TOLERANCE

    label = " ".join(f"{name} {value}" for name, value in vars(case).items())
    allowed = TOLERANCE[case.dtype]
    report.row(COMPARED, **vars(case), **errors, allowed=allowed, problem=problem)
    report.check(not problem, f"{label}: {problem}")
    different = errors.pop("different", 0.0)
    over = {name: error for name, error in errors.items() if error > allowed}
    report.check(not over, f"{label}: {over}, allowed {allowed:g}")
    if case.dtype != "float32":
        report.check(different <= MOST_DIFFERENT, f"{label}: {different:.1%} of the streams' numbers differ")


def measure_all(report: Report) -> None:
    """Measure the times of a launch inside a CUDA graph, at every timed width, size and kind of request."""
    for d_model, (n_tokens, n_requests) in itertools.product(TIMED_WIDTHS, TIMED_TOKENS):
        for asked in ("idle", "steered", "captured", "monitored", "256 monitored"):
            microseconds = _microseconds(d_model, n_tokens, n_requests, asked)
            report.row(
                "times in a CUDA graph",
                d_model=d_model,
                tokens=n_tokens,
                requests=n_requests,
                asked=asked,
                **{
                    "us a layer": statistics.median(microseconds),
                    "least": min(microseconds),
                    "most": max(microseconds),
                },
            )


def _microseconds(d_model: int, n_tokens: int, n_requests: int, asked: str) -> list[float]:
    """Time of one launch, in each replay of a graph of `N_LAUNCHES` layers; the streams are those of eight layers by turns."""
    import torch
    from kernel_cases import LiveBatch, Step
    from trait_service.engine.buffers import VectorBank
    from trait_service.engine.capture_rows import CaptureRows
    from trait_service.engine.cuda_step import CudaStep

    device = torch.device("cuda")
    bank = VectorBank(256, d_model, device)
    bank.rows.copy_(torch.nn.functional.normalize(torch.randn(256, d_model, device=device), dim=-1))
    pools = CaptureRows(N_LAUNCHES, n_requests, d_model, device, deferred=True)
    streams = [
        [torch.randn(n_tokens, d_model, device=device, dtype=torch.bfloat16) for _ in range(2)] for _ in range(8)
    ]
    side = CudaStep(
        bank,
        pools,
        n_layers=N_LAUNCHES,
        max_requests=n_requests,
        max_tokens=n_tokens,
        terms_per_layer=8,
        device=device,
    )

    def every_layer() -> None:
        for layer in range(N_LAUNCHES):
            side.intervene(*streams[layer % len(streams)], layer)

    # As an engine does: compiled and recorded while nothing is asked, then replayed over the step's buffers.
    side.rest(dummy=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        every_layer()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        every_layer()
    if asked != "idle":
        batch = LiveBatch(n_requests, [(i, i, _asking(asked, i)) for i in range(n_requests)])
        tokens = np.full(n_requests, n_tokens // n_requests)
        step = Step(np.zeros(n_requests, dtype=np.int64), tokens, np.cumsum(tokens) - tokens, n_tokens)
        side.regroup(batch)
        side.prepare(step, batch.computed_to)
    times = []
    for i in range(WARM_UPS + REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= WARM_UPS:
            times.append(start.elapsed_time(end) * 1000 / N_LAUNCHES)
    return times


def _asking(asked: str, i: int) -> Any:
    """A request that asks for one thing on every layer."""
    from kernel_cases import SPEC, TERM, UNBOUNDED, Interval, LiveRequest, term
    from trait_service.engine.direction_sets import DirectionSet

    layers = range(N_LAUNCHES)
    if asked == "steered":
        terms = [term(layer, 0, "add", 0.01, (i + layer) % 256) for layer in layers]
        return LiveRequest(SPEC, 1, terms=np.array(terms, dtype=TERM))
    if asked == "captured":
        return LiveRequest(SPEC, 1, pools=[[Interval(0, UNBOUNDED)]], captured_layers=list(layers), capture_rows=[i])
    if asked == "256 monitored":
        return LiveRequest(SPEC, 1, monitored=_shared())
    rows = np.array([(i + layer) % 256 for layer in layers])
    return LiveRequest(SPEC, 1, monitored=DirectionSet.of(np.array(layers), rows, np.zeros(len(rows), dtype=np.bool_)))


@cache
def _shared() -> Any:
    """256 directions, spread over the layers: one set for all requests."""
    from trait_service.engine.direction_sets import DirectionSet

    rows = np.arange(256)
    return DirectionSet.of(rows % N_LAUNCHES, rows, np.zeros(256, dtype=np.bool_))


STAGE = Stage(
    "kernels_on_device",
    "The Triton kernel on the device equals the torch reference; its times inside a CUDA graph of 32 layers.",
    limit_s=180,
    run=run,
    alone=True,
)

if __name__ == "__main__":
    main(STAGE)
